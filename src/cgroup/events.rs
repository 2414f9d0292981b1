//! `cgroup.events`, which tells of changes: only the unified hierarchy has it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::pread;

use crate::sys::fs::open;

/// The open file of one cgroup.
pub struct Events(OwnedFd);

impl Events {
    /// Nothing on v1, or when the cgroup has gone.
    pub fn open(directory: &Path) -> Option<Self> {
        open(&directory.join("cgroup.events"), OFlag::O_RDONLY).ok().map(Self)
    }

    /// Whether one of the lines is `line`, such as `populated 0`. A cgroup that has gone says nothing.
    pub fn say(&self, line: &str) -> bool {
        let mut buffer = [0; 128];
        let length = pread(&self.0, &mut buffer, 0).unwrap_or(0);
        buffer[..length].split(|byte| *byte == b'\n').any(|said| said == line.as_bytes())
    }

    /// Waits for a change since the last reading.
    pub fn wait(&self, at_most: Duration) {
        let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLPRI)], timeout);
    }
}
