//! Removing a container's cgroups: with what is nested in them, without processes left behind, and nothing that kelson
//! did not make.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::CgroupState;
use super::directory::{is_marked, mark};
use super::events::Events;
use super::nested;
use super::processes::{describe, processes_below};
use crate::error::{Error, Result};
use crate::log;

/// How long the end of killed processes is waited for.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long the end of processes is waited for that are not to be killed.
const PATIENCE: Duration = Duration::from_millis(500);

impl CgroupState {
    /// Removes the container's cgroups and what was made for them. What is still inside is killed, or if it cannot be the
    /// container's, left, with a warning.
    pub fn remove(&self, is_the_containers: bool) -> Result<()> {
        if is_the_containers || self.scope.is_some() && self.processes().is_empty() {
            self.stop_scope();
        }
        let patience = if is_the_containers { None } else { Some(Instant::now() + PATIENCE) };
        for directory in &self.directories {
            self.empty(directory, patience)?;
        }
        self.directories.iter().try_for_each(|directory| self.remove_above(directory))
    }

    /// Removes the directories above that were made for this container or one that it shares them with, up to the
    /// first that others still use.
    fn remove_above(&self, directory: &Path) -> Result<()> {
        // `/sys/fs/cgroup`, or a directory in it.
        let root = if self.unified { 4 } else { 5 };
        let made_for_it = |place: &Path| self.made_above.iter().any(|made| made == place);
        let is_ours = |place: &&Path| place.components().count() > root && (made_for_it(place) || is_marked(place));
        for place in directory.ancestors().skip(1).take_while(is_ours) {
            match rmdir(place) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::EBUSY | Errno::ENOTEMPTY) => break,
                // Another user's.
                Err(Errno::EACCES | Errno::EPERM) if !made_for_it(place) => break,
                Err(errno) => return Err(cannot_remove(place, errno)),
            }
        }
        Ok(())
    }

    /// Removes a cgroup with those below it; or, if it was there before the container, all that is not its own. With
    /// `patience` processes are not killed, but waited for until then, and then left.
    fn empty(&self, directory: &Path, patience: Option<Instant>) -> Result<()> {
        let began = Instant::now();
        let mut unseen = None;
        for turn in 0_u32.. {
            if self.is_gone(directory, &mut unseen)? {
                return Ok(());
            }
            if began.elapsed() > DEADLINE {
                break;
            }
            let processes = processes_below(directory);
            // One that an `exec` was about to add ends by itself.
            if !processes.is_empty() && patience.is_some_and(|end| Instant::now() > end) {
                let others: Vec<_> = processes.iter().map(|pid| describe(*pid)).collect();
                // The last of them is to remove it.
                mark(directory);
                log::warn(format!("the cgroup {} is left, others use it: {}", directory.display(), others.join(", ")));
                return Ok(());
            }
            if patience.is_none() && !processes.is_empty() {
                // What somebody has moved in this hierarchy only is not reached in the others.
                if turn == 0 { self.kill_all() } else { self.kill_by_turns() }
            }
            wait_until_empty(directory, turn);
        }
        Err(still_used(directory, unseen))
    }

    /// Tries to remove a cgroup. The usual case is one rmdir(2). The first error about what could not be looked into goes
    /// to `unseen`.
    fn is_gone(&self, directory: &Path, unseen: &mut Option<Errno>) -> Result<bool> {
        let stays = self.stays(directory);
        match if stays { Err(Errno::EBUSY) } else { rmdir(directory) } {
            Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => return Ok(true),
            Err(Errno::EBUSY | Errno::ENOTEMPTY) => {}
            Err(errno) => return Err(cannot_remove(directory, errno)),
        }
        let mut all_gone = true;
        let found = nested::visit(directory, |place, name, path| {
            all_gone &= self.stays(path) || matches!(rmdir_at(place, name), Ok(()) | Err(Errno::ENOENT));
        });
        *unseen = unseen.or(found);
        Ok(all_gone && (!stays || processes_below(directory).is_empty()))
    }

    /// Whether a cgroup was there before the container, and is not one that others have left to the last.
    fn stays(&self, directory: &Path) -> bool {
        let has_others = || self.found.iter().any(|found| found != directory && found.starts_with(directory));
        self.found.contains(directory) && (!is_marked(directory) || has_others())
    }
}

fn rmdir(directory: &Path) -> nix::Result<()> {
    rmdir_at(AT_FDCWD, directory)
}

fn rmdir_at(place: BorrowedFd<'_>, name: &Path) -> nix::Result<()> {
    unlinkat(place, name, UnlinkatFlags::RemoveDir)
}

fn cannot_remove(directory: &Path, errno: Errno) -> Error {
    Error::new("cannot remove a cgroup").path(directory).errno(errno)
}

fn still_used(directory: &Path, unseen: Option<Errno>) -> Error {
    let pids: Vec<_> = processes_below(directory).iter().map(|pid| describe(*pid)).collect();
    Error::new(format!("a cgroup is still in use after {} s: {}", DEADLINE.as_secs(), pids.join(", ")))
        .path(directory)
        .errno(unseen.unwrap_or(Errno::EBUSY))
}

/// Waits for the end of the cgroup's processes: for the kernel's notice on v2, a little on v1, and a little more each time.
fn wait_until_empty(directory: &Path, turn: u32) {
    match Events::open(directory) {
        Some(events) if events.say("populated 1") => events.wait(Duration::from_millis(100)),
        _ => sleep(Duration::from_millis(u64::from(turn / 8 + 1).min(100))),
    }
}
