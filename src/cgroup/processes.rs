//! The processes in a container's cgroups: which they are, and signals to all of them.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::{CgroupState, nested};
use crate::sys::fs::read_at;
use crate::sys::process::{kill, pidfd_open, pidfd_send_signal};

/// How often what forks faster than it is killed is killed again.
const TURNS: usize = 64;

/// The ids of the processes in a cgroup and below it.
pub fn processes_below(directory: &Path) -> Vec<i32> {
    let mut pids = Vec::new();
    nested::visit(directory, |place, name, _| {
        let list = read_at(place, &name.join("cgroup.procs")).unwrap_or_default();
        pids.extend(String::from_utf8_lossy(&list).lines().filter_map(|line| line.parse::<i32>().ok()));
    });
    pids
}

/// A process that does not do what it should, with what it waits for.
pub fn describe(pid: i32) -> String {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let state = read("status").lines().find_map(|line| line.strip_prefix("State:").map(|s| s.trim().to_owned()));
    format!("process {pid} ({}, state {}, in {})", read("comm").trim(), state.unwrap_or_default(), read("wchan").trim())
}

impl CgroupState {
    /// The container's first cgroup that has `file`: a file of a controller tells which hierarchy has that.
    /// One that cannot be looked for is taken to be there: its use says what is wrong.
    pub(super) fn directory_with(&self, file: &str) -> Option<&Path> {
        let has = |directory: &&Path| directory.join(file).try_exists().unwrap_or(true);
        self.directories.iter().map(PathBuf::as_path).find(has)
    }

    /// The ids of all processes in the container's cgroups, ascending, as the caller's pid namespace has them.
    pub fn processes(&self) -> Vec<i32> {
        // All hierarchies hold the same processes, unless somebody has moved them in one.
        let mut pids: Vec<_> = self.directories.iter().flat_map(|directory| processes_below(directory)).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Sends `signal` to every process of the container, however nested. Meanwhile they are frozen, so that none can
    /// fork away from it.
    pub fn signal_all(&self, signal: i32) {
        if signal == libc::SIGKILL {
            return self.kill_all();
        }
        // In a paused container signals wait for its resumption.
        let thaw = !self.is_frozen() && self.freeze().is_ok();
        signal_each(signal, || self.processes());
        if thaw {
            let _ = self.thaw();
        }
    }

    /// Kills every process of the container, frozen ones too: at once where the kernel can.
    pub fn kill_all(&self) {
        let at_once = self.directories.iter().any(|directory| fs::write(directory.join("cgroup.kill"), "1").is_ok());
        self.thaw_whole();
        if !at_once {
            self.kill_by_turns();
        }
    }

    /// Kills until nothing is left that could fork.
    pub fn kill_by_turns(&self) {
        for _ in 0..TURNS {
            self.begin_to_freeze();
            let killed = signal_each(libc::SIGKILL, || self.processes());
            self.thaw_whole();
            if self.processes().is_empty() {
                return;
            }
            wait_for_one(&killed);
        }
    }
}

/// Signals the listed processes, and returns descriptors of them. The list is asked for twice: a descriptor of a process
/// that is still in it then cannot be of a later one with the same id.
fn signal_each(signal: i32, list: impl Fn() -> Vec<i32>) -> Vec<OwnedFd> {
    let opened: Vec<_> = list().into_iter().map(|pid| (pid, pidfd_open(Pid::from_raw(pid)))).collect();
    if opened.is_empty() {
        return Vec::new();
    }
    let still = list();
    let send = |(pid, opened): (i32, nix::Result<OwnedFd>)| match opened {
        _ if still.binary_search(&pid).is_err() => None,
        Ok(pidfd) => pidfd_send_signal(&pidfd, signal).is_ok().then_some(pidfd),
        Err(Errno::ESRCH) => None,
        // Before Linux 5.3, or more of them than descriptors.
        Err(_) => {
            let _ = kill(Pid::from_raw(pid), signal);
            None
        }
    };
    opened.into_iter().filter_map(send).collect()
}

/// Waits a little for the end of one of the processes.
fn wait_for_one(pidfds: &[OwnedFd]) {
    const A_LITTLE: Duration = Duration::from_millis(10);
    let mut waited: Vec<_> = pidfds.iter().map(|pidfd| PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)).collect();
    let _ = poll(&mut waited, PollTimeout::try_from(A_LITTLE).unwrap_or(PollTimeout::ZERO));
}
