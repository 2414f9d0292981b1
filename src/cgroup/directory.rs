//! Making a cgroup's directory: with the controllers enabled on the way (v2), or the cpusets inherited (v1).

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
#[allow(deprecated)]
use nix::fcntl::{FlockArg, flock};
use nix::sys::stat::Mode;
use nix::unistd::mkdir;

use super::freezer::is_frozen;
use super::layout::{Hierarchy, Layout};
use super::nested;
use super::processes::processes_below;
use crate::error::{Context, Error, Result};
use crate::sys;

/// How often a directory is made again when somebody removes its parent meanwhile.
const ATTEMPTS: usize = 16;

/// The directories that lie between the hierarchies and the container's cgroups and are not there yet; deepest
/// first.
pub fn missing_above(layout: &Layout, directories: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    for (hierarchy, directory) in layout.hierarchies.iter().zip(directories) {
        for path in directory.ancestors().skip(1).take_while(|path| *path != hierarchy.mount_point) {
            if is_there(path)? {
                break;
            }
            missing.push(path.to_owned());
        }
    }
    Ok(missing)
}

/// What cannot be told is an error: what was there before must stay.
fn is_there(path: &Path) -> Result<bool> {
    path.try_exists().on_path("cannot look for a cgroup", path)
}

/// Those of the container's cgroups, and the ones below them, that are there before it.
pub fn already_there(directories: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for directory in directories {
        if is_there(directory)? {
            nested::visit(directory, |_, _, path| found.extend([path.to_owned()]));
        }
    }
    Ok(found)
}

/// Makes `path` and what lies above it; whether it was not there before.
pub fn make(hierarchy: &Hierarchy, path: &Path) -> Result<bool> {
    for _ in 0..ATTEMPTS {
        match try_make(hierarchy, path) {
            Err(error) if error.os_error() == Some(Errno::ENOENT) => {}
            result => return result,
        }
    }
    try_make(hierarchy, path)
}

fn try_make(hierarchy: &Hierarchy, path: &Path) -> Result<bool> {
    let below = path.strip_prefix(&hierarchy.mount_point).unwrap_or(path);
    let mut place = hierarchy.mount_point.clone();
    let mut is_new = false;
    for name in below {
        if hierarchy.is_unified() {
            enable_controllers(&place);
        }
        place.push(name);
        match mkdir(&place, Mode::from_bits_truncate(0o755)) {
            Ok(()) if place != path => mark(&place),
            Ok(()) => is_new = true,
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(refused(&place, errno)),
        }
        if hierarchy.controllers.iter().any(|name| name == "cpuset") {
            inherit_cpuset(&place)?;
        }
    }
    Ok(is_new)
}

/// What tells a directory above a container's that kelson made: other containers may come to share it, and the last
/// that leaves removes it. Privileged users set one attribute, others another; neither is needed to run.
const MARKS: [&CStr; 2] = [c"trusted.kelson", c"user.kelson"];

pub fn mark(place: &Path) {
    let _ = MARKS.iter().any(|name| sys::fs::set_attribute(place, name).is_ok());
}

/// Whether kelson made this directory on the way to a container's.
pub fn is_marked(place: &Path) -> bool {
    MARKS.iter().any(|name| sys::fs::has_attribute(place, name))
}

fn refused(path: &Path, errno: Errno) -> Error {
    let error = Error::new("cannot make a cgroup").path(path).errno(errno);
    match errno {
        Errno::EAGAIN => error.hint("the limit on cgroups below an ancestor is reached (cgroup.max.descendants)"),
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            error.hint("without root, cgroups have to be delegated: see `systemctl edit user@.service`, Delegate=yes")
        }
        _ => error,
    }
}

/// Passes on to the children of `place` every controller that it has. What is refused shows when a limit is set.
fn enable_controllers(place: &Path) {
    let read = |file: &str| sys::fs::read_short(&place.join(file)).unwrap_or_default();
    let enabled = read("cgroup.subtree_control");
    let available = read("cgroup.controllers");
    let is_enabled = |name: &str| enabled.split_whitespace().any(|other| other == name);
    let missing: Vec<_> = available.split_whitespace().filter(|name| !is_enabled(name)).collect();
    if missing.is_empty() {
        return;
    }
    let control = place.join("cgroup.subtree_control");
    let all = missing.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    if fs::write(&control, all).is_err() {
        // One that is refused must not keep the others back.
        for name in missing {
            let _ = fs::write(&control, format!("+{name}"));
        }
    }
}

/// On v1 a new cpuset is empty, and nothing can join it until it has CPUs and memory nodes.
fn inherit_cpuset(place: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = place.join(file);
        let is_empty = fs::read_to_string(&own).on_path("cannot read", &own)?.trim().is_empty();
        let Some(parent) = place.parent().filter(|_| is_empty) else { continue };
        let inherited = fs::read_to_string(parent.join(file)).on_path("cannot read", parent.join(file))?;
        fs::write(&own, inherited.trim()).on_path("cannot pass on the CPUs or memory nodes of the parent", &own)?;
    }
    Ok(())
}

/// Takes a cgroup for a container that is being made, as long as `list`, a file of it, is open: another that is being
/// made at the same time, of which no process is in it yet, must not take it too.
pub fn claim(list: &OwnedFd, path: &Path, is_new: bool, found: &BTreeSet<PathBuf>) -> Result<()> {
    // Before the lock, which is for whoever has just made it.
    if !is_new && !found.contains(path) {
        return Err(in_use(path, "another container may use it"));
    }
    // A lock that goes with the last descriptor, the child's copy too.
    #[allow(deprecated)]
    let locked = flock(list.as_raw_fd(), FlockArg::LockExclusiveNonblock);
    if locked == Err(Errno::EWOULDBLOCK) {
        if is_new {
            // Whoever was faster takes it for one that was there before, and would leave it.
            mark(path);
        }
        return Err(in_use(path, "a container is being made in it, or somebody holds a lock on its list of processes"));
    }
    if is_new { Ok(()) } else { check_unused(path) }
}

fn in_use(path: &Path, hint: &str) -> Error {
    Error::new("container's cgroup is not empty").path(path).hint(hint)
}

/// Refuses a cgroup that exists already with processes in it or below it, or frozen.
pub fn check_unused(path: &Path) -> Result<()> {
    if !processes_below(path).is_empty() {
        return Err(in_use(path, "another container may use it"));
    }
    if is_frozen(path) {
        return Err(Error::new("container's cgroup unexpectedly frozen").path(path));
    }
    Ok(())
}
