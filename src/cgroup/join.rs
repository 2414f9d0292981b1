//! The cgroups that a process joins which `exec` adds: the container's own, or those that `--cgroup` names in them.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::freezer::is_frozen_at;
use super::layout::{self, Hierarchy};
use super::{CgroupState, Cgroups, is_rootless, open_in};
use crate::error::{Context, Error, Result};
use crate::log;
use crate::sys::fs::{CGROUP2_SUPER_MAGIC, file_system_magic, open as open_file};

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

/// Opens what joining takes. `within` has a path, or several of the form `controller[,controller]:path`. One below the
/// container's own that is frozen is refused unless `may_freeze`: who joins it stands still before it is the program.
pub fn open(state: &CgroupState, within: &[String], init: i32, may_freeze: bool) -> Result<Cgroups> {
    let mut cgroups = Cgroups::default();
    for (directory, below) in state.directories.iter().zip(parse(state, within)?) {
        let opened = match open_file(directory, DIRECTORY) {
            Err(Errno::ENOENT) if below.is_none() => unified_of(init, directory),
            result => result,
        };
        let opened = match opened {
            Err(Errno::ENOENT | Errno::EACCES) if below.is_none() && is_rootless() => continue,
            result => result.on_path("cannot open the container's cgroup", directory)?,
        };
        let place = match below.as_deref() {
            Some(path) => {
                let place = open_below(opened, directory, path)?;
                check_thawed(&place, &directory.join(path), may_freeze)?;
                place
            }
            None => opened,
        };
        add(&mut cgroups, place, directory)?;
    }
    Ok(cgroups)
}

fn check_thawed(place: &OwnedFd, path: &Path, may_freeze: bool) -> Result<()> {
    if may_freeze || !is_frozen_at(place) {
        return Ok(());
    }
    Err(Error::new("cannot exec in a frozen cgroup").path(path).hint("thaw it, or pass --ignore-paused"))
}

fn add(cgroups: &mut Cgroups, place: OwnedFd, directory: &Path) -> Result<()> {
    if file_system_magic(&place).on_path("cannot look at a cgroup", directory)? == CGROUP2_SUPER_MAGIC {
        cgroups.unified_procs = open_in(&place, directory, "cgroup.procs").ok();
        cgroups.unified = Some(place);
        return Ok(());
    }
    match open_in(&place, directory, "tasks") {
        Err(_) if is_rootless() => Ok(()),
        result => result.map(|file| cgroups.tasks.push(file)),
    }
}

/// The same, but in the unified hierarchy the cgroup that init is in by now: it may have moved, and then its old one may
/// take no processes, or be gone.
pub fn of_init(state: &CgroupState, init: i32, may_freeze: bool) -> Result<Cgroups> {
    let mut cgroups = open(state, &[], init, may_freeze)?;
    if cgroups.unified.take().is_some() {
        cgroups.unified_procs = None;
        let directory = state.directories.last().map_or(Path::new(layout::MOUNT_POINT), PathBuf::as_path);
        match unified_of(init, directory) {
            Err(Errno::EACCES | Errno::ENOENT) if is_rootless() => {}
            result => {
                let place = result.on_path("cannot open the cgroup of init", directory)?;
                check_thawed(&place, directory, may_freeze)?;
                add(&mut cgroups, place, directory)?;
            }
        }
    }
    Ok(cgroups)
}

/// The same without the unified hierarchy, for a user who may not go from the caller's cgroup to init's there (it takes
/// the right to write to what both are below). Where they are not one and the same, that is told.
pub fn without_unified(state: &CgroupState, init: i32) -> Result<Cgroups> {
    let mut cgroups = open(state, &[], init, true)?;
    (cgroups.unified, cgroups.unified_procs) = (None, None);
    if unified_path("self") != unified_path(&init.to_string()) {
        log::warn(
            "the process stays in the caller's cgroup, beyond the container's limits: this user may not move it into the \
             container's",
        );
    }
    Ok(cgroups)
}

/// The path in the unified hierarchy, as the caller's cgroup namespace shows it.
fn unified_path(process: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::/").map(str::to_owned))
}

/// The cgroup of init in the hierarchy of `directory`, if that is the unified one.
fn unified_of(init: i32, directory: &Path) -> nix::Result<OwnedFd> {
    let path = unified_path(&init.to_string()).ok_or(Errno::ENOENT)?;
    // One that lies outside of this process's cgroup namespace cannot be reached.
    if Path::new(&path).components().any(|component| component == Component::ParentDir) {
        return Err(Errno::ENOENT);
    }
    let unified = Path::new(layout::MOUNT_POINT).join("unified");
    let root = if directory.starts_with(&unified) { unified } else { layout::MOUNT_POINT.into() };
    let opened = open_file(&root.join(path), DIRECTORY)?;
    if file_system_magic(&opened)? == CGROUP2_SUPER_MAGIC { Ok(opened) } else { Err(Errno::ENOENT) }
}

/// Opens a cgroup in the container's own, and none else.
fn open_below(own: OwnedFd, directory: &Path, path: &Path) -> Result<OwnedFd> {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() {
        return Ok(own);
    }
    let shown = directory.join(path);
    if path.components().any(|component| !matches!(component, Component::Normal(_) | Component::CurDir)) {
        return Err(Error::new("--cgroup: bad sub cgroup path: it leads out of the container's cgroup").path(shown));
    }
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(DIRECTORY | OFlag::O_CLOEXEC).resolve(resolve);
    let opened = match openat2(&own, path, how) {
        // Before Linux 5.6. There are no symbolic links in a cgroup file system, and nothing is mounted below.
        Err(Errno::ENOSYS) => open_file(&shown, DIRECTORY),
        result => result,
    };
    opened.on_path("--cgroup: cannot open the cgroup", shown)
}

/// What each of the container's directories gets; nothing for itself.
fn parse(state: &CgroupState, within: &[String]) -> Result<Vec<Option<PathBuf>>> {
    let wrong = |text: &str, why: &str| Err(Error::new(format!("--cgroup {text:?}: {why}")));
    if let [path] = within {
        if !path.contains(':') {
            return Ok(vec![Some(path.into()); state.directories.len()]);
        }
    }
    let mut found = vec![None; state.directories.len()];
    if within.is_empty() {
        return Ok(found);
    }
    let layout = layout::detect()?;
    for text in within {
        let Some((controllers, path)) = text.split_once(':') else {
            return wrong(text, "of several each needs a controller, as in cpu:path");
        };
        for controller in controllers.split(',') {
            let of_it = |hierarchy: &&Hierarchy| {
                hierarchy
                    .controllers
                    .iter()
                    .any(|name| name == controller || name.strip_prefix("name=") == Some(controller))
            };
            let Some(hierarchy) = layout.hierarchies.iter().find(of_it) else {
                return wrong(text, &format!("unknown controller {controller:?}"));
            };
            let Some(index) = state.directories.iter().position(|own| own.starts_with(&hierarchy.mount_point)) else {
                return wrong(text, "the container has no cgroup there");
            };
            match &mut found[index] {
                Some(other) if other != Path::new(path) => return wrong(text, "two paths in one hierarchy"),
                place => *place = Some(path.into()),
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> CgroupState {
        CgroupState { directories: vec!["/sys/fs/cgroup/a".into()], unified: true, ..CgroupState::default() }
    }

    #[test]
    fn one_path_counts_for_every_hierarchy() {
        assert_eq!(parse(&state(), &[]).unwrap(), [None]);
        assert_eq!(parse(&state(), &["sub".to_owned()]).unwrap(), [Some("sub".into())]);
    }

    #[test]
    fn nonsense_is_refused() {
        for within in [&["a", "b"][..], &["whaaat:/"], &[":x"], &["cpu,:x"]] {
            let within: Vec<_> = within.iter().map(ToString::to_string).collect();
            assert!(parse(&state(), &within).is_err(), "{within:?}");
        }
    }
}
