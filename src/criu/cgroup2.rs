//! The options of the host's cgroup2, such as `nsdelegate`. criu mounts it without them, and there is one superblock for
//! all mounts: they would be gone for the whole host (issue 3029 of criu).

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::c_string;
use crate::log;
use crate::mountinfo;
use crate::sys::mount::FsContext;

/// What they are.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    mount_point: PathBuf,
    options: Vec<u8>,
}

impl Options {
    /// Notes them; nothing where there is no cgroup2.
    pub fn note() -> Option<Self> {
        let table = fs::read("/proc/self/mountinfo").ok()?;
        let found = mountinfo::entries(&table).find(|entry| entry.file_system == b"cgroup2");
        found.map(|entry| Self { mount_point: entry.mount_point, options: entry.options.to_owned() })
    }

    /// Sets them again if they have changed.
    pub fn put_back(&self) {
        if Self::note().is_none_or(|now| now.options == self.options) {
            return;
        }
        if let Err(errno) = self.set() {
            let options = String::from_utf8_lossy(&self.options);
            let place = self.mount_point.display();
            log::warn(format!(
                "criu has changed the options of {place}, and they cannot be set again: {errno}: they were {options}"
            ));
        }
    }

    fn set(&self) -> nix::Result<()> {
        let superblock = FsContext::pick(&c_string(self.mount_point.as_os_str().as_bytes())?)?;
        for option in self.options.split(|byte| *byte == b',').filter(|option| !matches!(*option, b"rw" | b"ro")) {
            superblock.set(&c_string(option)?, None)?;
        }
        superblock.reconfigure()
    }
}
