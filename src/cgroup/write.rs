//! Writing the values to a cgroup's files, and how to get back.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::layout::Hierarchy;
use super::resources::Write;
use crate::error::{Context, Error, Result};
use crate::sys::fs::open;

/// Files with a line for each device and the like: what a new line says that undoes one.
const LINES: &[(&str, &str)] = &[
    ("blkio.throttle.read_bps_device", "0"),
    ("blkio.throttle.write_bps_device", "0"),
    ("blkio.throttle.read_iops_device", "0"),
    ("blkio.throttle.write_iops_device", "0"),
    ("blkio.weight_device", "default"),
    ("blkio.leaf_weight_device", "default"),
    ("blkio.bfq.weight_device", "default"),
    ("io.bfq.weight", "default"),
    ("io.weight", "default"),
    ("io.max", "rbps=max wbps=max riops=max wiops=max"),
    ("rdma.max", "hca_handle=max hca_object=max"),
    ("net_prio.ifpriomap", "0"),
];

/// What changes along with a file: an idle cgroup has a weight of its own, and one that was idle the default.
const ALONG: &[(&str, &str)] = &[("cpu.idle", "cpu.shares"), ("cpu.idle", "cpu.weight")];

/// The one file that newer kernels let be written without any effect.
const IGNORED: &str = "memory.kmem.limit_in_bytes";

/// A container's cgroup in one hierarchy.
pub struct Cgroup<'a> {
    pub directory: OwnedFd,
    pub path: &'a Path,
    pub hierarchy: &'a Hierarchy,
}

impl<'a> Cgroup<'a> {
    pub fn open(path: &'a Path, hierarchy: &'a Hierarchy) -> Result<Self> {
        let directory = open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).on_path("cannot open the cgroup", path)?;
        Ok(Self { directory, path, hierarchy })
    }

    /// Writes all values. Which order the kernel wants depends on what is there: a value that it finds invalid is
    /// tried again once others are written.
    pub fn write<'w>(&self, writes: impl IntoIterator<Item = &'w Write>) -> Result<()> {
        let mut waiting: Vec<_> = writes.into_iter().collect();
        while !waiting.is_empty() {
            let mut refused = Vec::new();
            let mut first = None;
            for write in &waiting {
                match self.write_one(write) {
                    Ok(()) => {}
                    Err(error) if error.os_error() == Some(Errno::EINVAL) => {
                        refused.push(*write);
                        first.get_or_insert(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(error) = first.filter(|_| refused.len() == waiting.len()) {
                return Err(error);
            }
            waiting = refused;
        }
        Ok(())
    }

    fn write_one(&self, write: &Write) -> Result<()> {
        let put = |file: &str, value: &str| {
            openat(&self.directory, file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
                .and_then(|file| nix::unistd::write(&file, value.as_bytes()).map(drop))
        };
        let (file, value, written) = match (put(&write.file, &write.value), &write.instead) {
            (Err(Errno::ENOENT), Some((file, value))) => (file, value, put(file, value)),
            (written, _) => (&write.file, &write.value, written),
        };
        match written {
            Err(Errno::ENOENT) if write.optional => Ok(()),
            Err(Errno::ENOENT) => Err(self.not_available(write)),
            Err(errno) => {
                let (file, value) = (file.clone(), value.clone());
                Err(self.refused(&Write { file, value, ..write.clone() }, errno))
            }
            Ok(()) if write.file == IGNORED => self.check_effect(write),
            Ok(()) => Ok(()),
        }
    }

    fn check_effect(&self, write: &Write) -> Result<()> {
        let path = self.path.join(&write.file);
        match fs::read_to_string(&path).unwrap_or_default().trim() {
            text if text == write.value || write.value == "-1" => Ok(()),
            _ => {
                Err(Error::new("this kernel takes the limit and does not apply it").path(path).pointer(&*write.pointer))
            }
        }
    }

    fn refused(&self, write: &Write, errno: Errno) -> Error {
        let error = Error::new(format!("cannot write {:?} to a cgroup", write.value))
            .path(self.path.join(&write.file))
            .errno(errno)
            .pointer(&*write.pointer);
        let in_use = || fs::read_to_string(self.path.join("memory.usage_in_bytes")).unwrap_or_default();
        match (errno, &*write.controller) {
            (Errno::EBUSY, "memory") => error.hint(format!("{} bytes are in use", in_use().trim())),
            (Errno::EOPNOTSUPP, "io") if write.file == "io.weight" => error.hint(
                "weights need io.cost.qos with enable=1 for the device, in the root cgroup, or the scheduler BFQ",
            ),
            (Errno::EOPNOTSUPP, "blkio" | "io") => error.hint("the device's scheduler knows no weights: choose BFQ"),
            (Errno::ENODEV, "blkio" | "io") => error.hint("there is no such block device; a partition is none"),
            (Errno::ENODEV, "rdma") => error.hint("there is no such RDMA device"),
            (Errno::EINVAL, "cpu") if write.file.starts_with("cpu.rt") => {
                error.hint("the cgroup above must have as much in its cpu.rt_runtime_us")
            }
            _ => error,
        }
    }

    /// Says which ancestor lacks the controller: the question that everyone asks next.
    fn not_available(&self, write: &Write) -> Error {
        let controller = &write.controller;
        let message = format!("the cgroup controller `{controller}`, or its file {}, is not available", write.file);
        let error = Error::new(message).pointer(&*write.pointer);
        let lacks = |ancestor: &&Path| {
            let enabled = fs::read_to_string(ancestor.join("cgroup.subtree_control")).unwrap_or_default();
            !enabled.split_whitespace().any(|name| name == controller)
        };
        let above = self.path.ancestors().skip(1);
        let above = above.take_while(|ancestor| ancestor.starts_with(&self.hierarchy.mount_point));
        match above.filter(lacks).last() {
            Some(ancestor) if self.hierarchy.is_unified() => error.path(ancestor).hint(format!(
                "`{controller}` is not in that cgroup's cgroup.subtree_control; under systemd set Delegate={controller}"
            )),
            _ => error.path(self.path),
        }
    }

    /// Writes what [`Self::previous`] told, as much of it as can be; returns the files that are not as then.
    pub fn restore(&self, previous: &[&Write]) -> Vec<String> {
        let mut refused = usize::MAX;
        loop {
            let failures = previous.iter().filter(|write| self.write_one(write).is_err()).count();
            if failures == 0 || failures >= refused {
                break;
            }
            refused = failures;
        }
        let present = self.present(previous.iter().copied());
        let differs = |(was, is): &(&&Write, &Write)| was.value != is.value;
        previous.iter().zip(&present).filter(differs).map(|(was, _)| was.file.clone()).collect()
    }

    /// The writes that bring back what these are about to change.
    pub fn previous<'w>(&self, writes: impl IntoIterator<Item = &'w Write>) -> Vec<Write> {
        let along = |write: &'w Write| {
            let others = ALONG.iter().filter(|(file, _)| *file == write.file);
            others.map(|(_, other)| Write { file: (*other).to_owned(), ..write.clone() })
        };
        let writes: Vec<_> = writes.into_iter().flat_map(|write| along(write).chain([write.clone()])).collect();
        // In the reverse order.
        self.present(writes.iter().rev())
    }

    /// The writes that say what is there now in the files of `writes`.
    fn present<'w>(&self, writes: impl IntoIterator<Item = &'w Write>) -> Vec<Write> {
        let present = |write: &Write| {
            let instead = write.instead.as_ref().map(|(file, value)| (file, value));
            let (file, value) = [(&write.file, &write.value)]
                .into_iter()
                .chain(instead)
                .find(|(file, _)| self.path.join(file).exists())?;
            let text = fs::read_to_string(self.path.join(file)).ok()?;
            let value = undoing(file, value, &text);
            Some(Write { file: file.clone(), value, instead: None, ..write.clone() })
        };
        writes.into_iter().filter_map(present).collect()
    }
}

/// What to write to get back to `present` after `value` was written.
fn undoing(file: &str, value: &str, present: &str) -> String {
    if file == "memory.oom_control" {
        return present.split_whitespace().nth(1).unwrap_or("0").to_owned();
    }
    let Some((_, unset)) = LINES.iter().find(|(name, _)| *name == file) else { return present.trim().to_owned() };
    // A value alone is the one for all devices.
    let key = value.split_once(' ').map_or("default", |(key, _)| key);
    let line = present.lines().find(|line| line.split_whitespace().next() == Some(key));
    let only = present.lines().next().filter(|line| key == "default" && !line.contains(' '));
    line.or(only).map_or_else(|| format!("{key} {unset}"), |line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_written_again() {
        for (file, value, present, wanted) in [
            ("memory.max", "10", "max\n", "max"),
            ("cpu.max", "10 100", "max 100000\n", "max 100000"),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\n", "0"),
            ("io.max", "8:0 rbps=1", "", "8:0 rbps=max wbps=max riops=max wiops=max"),
            ("io.max", "8:0 rbps=1", "8:16 rbps=5\n8:0 rbps=9 wbps=max\n", "8:0 rbps=9 wbps=max"),
            ("blkio.throttle.read_bps_device", "8:0 5", "8:0 7\n", "8:0 7"),
            ("blkio.throttle.read_bps_device", "8:0 5", "8:1 7\n", "8:0 0"),
            ("io.weight", "50", "default 100\n8:0 70\n", "default 100"),
            ("io.bfq.weight", "8:0 50", "default 100\n", "8:0 default"),
            ("blkio.bfq.weight", "50", "100\n", "100"),
            ("io.bfq.weight", "50", "100\n", "100"),
        ] {
            assert_eq!(undoing(file, value, present), wanted, "{file} {value} {present:?}");
        }
    }
}
