//! What the kernel tells when memory ran out.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::uio::pread;

use super::CgroupState;
use crate::error::{Context, Result};
use crate::sys::fs::open;

/// The files of one version of the memory controller.
struct Files {
    events: &'static str,
    limit: &'static str,
    peak: &'static str,
}

const VERSIONS: [Files; 2] = [
    Files { events: "memory.events", limit: "memory.max", peak: "memory.peak" },
    Files { events: "memory.oom_control", limit: "memory.limit_in_bytes", peak: "memory.max_usage_in_bytes" },
];

/// v1 has this limit, less than a page below 2^63, where there is none.
const UNLIMITED: u64 = i64::MAX as u64 - 0xffff;

impl CgroupState {
    /// The container's cgroup that has the memory controller.
    fn memory(&self) -> Option<(&'static Files, &Path)> {
        VERSIONS.iter().find_map(|files| Some((files, self.directory_with(files.events)?)))
    }

    /// How many processes of the container were killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some((files, directory)) = self.memory() else { return 0 };
        kills(&fs::read_to_string(directory.join(files.events)).unwrap_or_default())
    }

    /// What to tell the user if more processes than `before` were killed for want of memory.
    pub fn out_of_memory(&self, before: u64) -> Option<String> {
        let (files, directory) = self.memory()?;
        let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap_or_default().trim().to_owned();
        let events = read(files.events);
        (kills(&events) > before).then(|| {
            let limit = read(files.limit);
            let limit = match limit.parse::<u64>() {
                Ok(bytes) if bytes < UNLIMITED => format!("its limit is {bytes} bytes"),
                _ => "it has no limit, so an ancestor's was reached, or the host has no memory left".to_owned(),
            };
            let peak = read(files.peak);
            let peak = if peak.is_empty() { String::new() } else { format!(", its peak was {peak}") };
            let (name, events) = (files.events, events.replace('\n', ", "));
            format!("the container ran out of memory: {limit}{peak} ({name}: {events})")
        })
    }
}

/// Watches for processes of a container that are killed for want of memory. Nothing here allocates once it is open: it
/// may be for long.
pub struct Watch {
    events: OwnedFd,
    /// v1 counts there how often memory ran out; v2 tells of changes of the file itself.
    counter: Option<EventFd>,
    kills: u64,
}

impl Watch {
    /// Nothing where the container has no cgroup with the memory controller.
    pub fn open(cgroup: &CgroupState) -> Result<Option<Self>> {
        let Some((files, directory)) = cgroup.memory() else { return Ok(None) };
        let path = directory.join(files.events);
        let events = open(&path, OFlag::O_RDONLY).on_path("cannot watch", &path)?;
        let control = directory.join("cgroup.event_control");
        let counter = if control.exists() {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            let counter = EventFd::from_flags(flags).context(|| "cannot make an eventfd")?;
            let request = format!("{} {}", counter.as_fd().as_raw_fd(), events.as_raw_fd());
            fs::write(&control, request).on_path("cannot ask to be told when memory runs out", &control)?;
            Some(counter)
        } else {
            None
        };
        let mut watch = Self { events, counter, kills: 0 };
        watch.kills = watch.count().unwrap_or(0);
        Ok(Some(watch))
    }

    /// For poll(2).
    pub fn awaited(&self) -> PollFd<'_> {
        match &self.counter {
            Some(counter) => PollFd::new(counter.as_fd(), PollFlags::POLLIN),
            None => PollFd::new(self.events.as_fd(), PollFlags::POLLPRI),
        }
    }

    /// Whether memory has run out since this was asked last.
    pub fn has_fired(&mut self) -> bool {
        // Nothing can be read of a cgroup that has been removed, of which v1 tells too.
        let Some(kills) = self.count() else { return false };
        let grew = std::mem::replace(&mut self.kills, kills) < kills;
        // v1 tells of it before the kill.
        self.counter.as_ref().map_or(grew, |counter| counter.read().is_ok())
    }

    fn count(&self) -> Option<u64> {
        let mut buffer = [0; 512];
        let length = pread(&self.events, &mut buffer, 0).ok()?;
        Some(kills(std::str::from_utf8(&buffer[..length]).ok()?))
    }
}

fn kills(events: &str) -> u64 {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_by_both_versions() {
        assert_eq!(kills("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n"), 3);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(kills("oom_kill_disable 1\nunder_oom 0\n"), 0);
    }
}
