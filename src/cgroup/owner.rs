//! Giving a container's cgroup to the user that it runs as, so that the container can divide it.
//!
//! Sources: config-linux.md, "Cgroup ownership"; cgroups(7), "Cgroups delegation".

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{Uid, fchownat};

use crate::error::{Context, Result};

/// What the kernel says may be given away with a cgroup.
const LIST: &str = "/sys/kernel/cgroup/delegate";

/// The same before Linux 4.15.
const FALLBACK: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// Gives the cgroup and those of its files that may be given away to `owner`, an id of this user namespace.
pub fn give(directory: &OwnedFd, path: &Path, owner: u32) -> Result<()> {
    let list = fs::read_to_string(LIST).unwrap_or_else(|_| FALLBACK.to_owned());
    let give = |name: &str, flags: AtFlags| match fchownat(directory, name, Some(Uid::from_raw(owner)), None, flags) {
        // A file of a controller that is not enabled.
        Err(Errno::ENOENT) => Ok(()),
        result => result.on_path(format!("cannot give the cgroup to user {owner}"), path.join(name)),
    };
    give("", AtFlags::AT_EMPTY_PATH)?;
    list.lines().filter(|name| !name.contains('/')).try_for_each(|name| give(name, AtFlags::AT_SYMLINK_NOFOLLOW))
}
