//! Removing a container's cgroups: with what is nested in them, and without processes left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, UnlinkatFlags};
use std::os::fd::AsFd;

use super::CgroupState;
use super::directory::is_marked;
use crate::error::{Error, Result};
use crate::sys::process::kill;

/// How long the end of killed processes is waited for.
const DEADLINE: Duration = Duration::from_secs(10);

impl CgroupState {
    /// Removes the container's cgroups and what was made for them, killing what is still inside.
    pub fn remove(&self) -> Result<()> {
        for directory in &self.directories {
            remove_tree(directory)?;
        }
        self.directories.iter().for_each(|directory| self.remove_above(directory));
        Ok(())
    }

    /// Removes the directories above that were made for this container or one that it shares them with, up to the
    /// first that others still use.
    fn remove_above(&self, directory: &Path) {
        let is_ours = |place: &&Path| self.made_above.iter().any(|made| made == place) || is_marked(place);
        let is_gone = |place: &Path| matches!(rmdir(place), Ok(()) | Err(Errno::ENOENT));
        let _ = directory.ancestors().skip(1).take_while(is_ours).all(is_gone);
    }

    /// Sends `signal` to every process of the container, however nested. A kill reaches frozen ones too.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        let Some(directory) = self.directories.last() else { return Ok(()) };
        if signal == libc::SIGKILL {
            kill_tree(directory);
            self.thaw();
            return Ok(());
        }
        for pid in processes_below(directory) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        Ok(())
    }

    /// Thaws what is frozen: on v1 a signal waits until then.
    pub fn thaw(&self) {
        for directory in self.directories.iter().flat_map(|directory| with_nested(directory)) {
            let _ = fs::write(directory.join("freezer.state"), "THAWED");
        }
    }
}

/// The directory and every cgroup below it, the deepest first.
fn with_nested(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(with_nested(&entry.path()));
        }
    }
    found.push(directory.to_owned());
    found
}

/// The ids of the processes in a cgroup and below it.
pub fn processes_below(directory: &Path) -> Vec<i32> {
    let lists = with_nested(directory).into_iter().map(|directory| fs::read_to_string(directory.join("cgroup.procs")));
    lists.flatten().flat_map(|list| list.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect()
}

fn rmdir(directory: &Path) -> nix::Result<()> {
    nix::unistd::unlinkat(nix::fcntl::AT_FDCWD, directory, UnlinkatFlags::RemoveDir)
}

/// Removes a cgroup and those below it. The usual case is one rmdir(2).
fn remove_tree(directory: &Path) -> Result<()> {
    let began = Instant::now();
    loop {
        match rmdir(directory) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY | Errno::ENOTEMPTY) => {}
            Err(errno) => return Err(Error::new("cannot remove a cgroup").path(directory).errno(errno)),
        }
        let nested = with_nested(directory);
        for below in nested.iter().filter(|below| *below != directory) {
            let _ = rmdir(below);
        }
        if !processes_below(directory).is_empty() {
            kill_tree(directory);
        }
        if began.elapsed() > DEADLINE {
            return Err(still_used(directory));
        }
        wait_until_empty(directory);
    }
}

fn still_used(directory: &Path) -> Error {
    let pids: Vec<_> = processes_below(directory).iter().map(|pid| describe(*pid)).collect();
    Error::new(format!("a cgroup is still in use after {} s: {}", DEADLINE.as_secs(), pids.join(", ")))
        .path(directory)
        .errno(Errno::EBUSY)
}

/// A process that does not go, with what it waits for.
fn describe(pid: i32) -> String {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let state = read("status").lines().find_map(|line| line.strip_prefix("State:").map(|s| s.trim().to_owned()));
    format!("process {pid} ({}, state {}, in {})", read("comm").trim(), state.unwrap_or_default(), read("wchan").trim())
}

/// Kills every process below a cgroup: at once on v2, by turns on v1 until nothing is left that can fork.
fn kill_tree(directory: &Path) {
    if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for _ in 0..32 {
        let pids = processes_below(directory);
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            let _ = kill(Pid::from_raw(pid), libc::SIGKILL);
        }
        for nested in with_nested(directory) {
            let _ = fs::write(nested.join("freezer.state"), "THAWED");
            let _ = fs::write(nested.join("cgroup.freeze"), "0");
        }
        sleep(Duration::from_millis(1));
    }
}

/// Waits for the cgroup's processes to end: for the kernel's notice on v2, a little on v1.
fn wait_until_empty(directory: &Path) {
    let events = directory.join("cgroup.events");
    let Ok(file) = open(&events, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) else {
        return sleep(Duration::from_millis(2));
    };
    let mut text = [0; 128];
    let length = nix::unistd::read(&file, &mut text).unwrap_or(0);
    if !String::from_utf8_lossy(&text[..length]).contains("populated 1") {
        return sleep(Duration::from_millis(1));
    }
    let _ = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], PollTimeout::from(100_u16));
}
