//! Control groups: where the container's are, made and limited before its process exists, and removed whole.
//!
//! v1, v2 and hybrid differ by data: a [`layout::Layout`] lists the hierarchies, one table of [`resources`] says
//! which file of which controller a field goes to, and everything else walks over a list of directories.

pub mod devices;
pub mod directory;
pub mod layout;
pub mod remove;
pub mod resources;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::spec::Linux;
use layout::{Hierarchy, Layout};
use resources::Write;

/// Who makes the cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// kelson itself, through the file system.
    #[default]
    Cgroupfs,
    /// Nobody: the container stays in the caller's cgroup.
    Disabled,
}

/// What the container's cgroups are to be.
#[derive(Clone, Debug, Default)]
pub struct CgroupPlan {
    pub manager: Manager,
    pub layout: Layout,
    /// One for each hierarchy, absolute.
    pub directories: Vec<PathBuf>,
    pub writes: Vec<Write>,
    /// The devices that may be used; none: all.
    pub devices: Vec<devices::Rule>,
}

/// What state.json keeps of the cgroups.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CgroupState {
    pub manager: Manager,
    /// Whether there is only the unified hierarchy.
    pub unified: bool,
    /// The container's own directories, one for each hierarchy.
    pub directories: Vec<PathBuf>,
    /// Directories above them that were made on the way, deepest first.
    pub made_above: Vec<PathBuf>,
}

/// Reads `cgroupsPath` and `resources`, for the hierarchies of this host.
pub fn plan(linux: &Linux, id: &str, manager: Manager) -> Result<CgroupPlan> {
    let writes = |unified| resources::plan(&linux.resources, unified);
    let rules = devices::plan(&linux.resources.devices)?;
    if manager == Manager::Disabled {
        let layout = Layout::default();
        if !writes(true)?.is_empty() {
            return Err(Error::new("resources cannot be limited with cgroups disabled").pointer("/linux/resources"));
        }
        return Ok(CgroupPlan { manager, layout, ..CgroupPlan::default() });
    }
    let layout = layout::detect()?;
    let writes = writes(layout.unified)?;
    let path = Path::new(if linux.cgroups_path.is_empty() { id } else { &linux.cgroups_path });
    let directories = layout::container_directories(&layout, path).map_err(|e| e.pointer("/linux/cgroupsPath"))?;
    Ok(CgroupPlan { manager, layout, directories, writes, devices: rules })
}

/// The container's cgroups, made and open.
#[derive(Default)]
pub struct Cgroups {
    /// For `CLONE_INTO_CGROUP`.
    pub unified: Option<OwnedFd>,
    /// `tasks` of each v1 hierarchy: init writes itself into them. A single thread that moves itself is spared
    /// the wait for an RCU grace period that a write of another's id to `cgroup.procs` costs.
    pub tasks: Vec<OwnedFd>,
    /// `cgroup.procs` of the unified hierarchy, for kernels that cannot clone into it.
    pub unified_procs: Option<OwnedFd>,
}

impl CgroupPlan {
    /// What state.json says of them, before they are made: so that a runtime killed meanwhile leaves a trace.
    pub fn state(&self) -> CgroupState {
        CgroupState {
            manager: self.manager,
            unified: self.layout.unified,
            directories: self.directories.clone(),
            made_above: directory::missing_above(&self.layout, &self.directories),
        }
    }

    /// Refuses cgroups that have processes or are frozen: they are another container's.
    pub fn check_unused(&self) -> Result<()> {
        self.directories.iter().filter(|path| path.exists()).try_for_each(|path| directory::check_unused(path))
    }

    /// Makes the cgroups, writes the limits, and opens what joining them takes.
    pub fn make(&self) -> Result<Cgroups> {
        match self.try_make() {
            // Without privileges and without limits, a cgroup that cannot be made is done without, as runc does.
            Err(error) if self.writes.is_empty() && is_no_permission(&error) && is_rootless() => Ok(Cgroups::default()),
            result => result,
        }
    }

    fn try_make(&self) -> Result<Cgroups> {
        let mut cgroups = Cgroups::default();
        for (hierarchy, path) in self.layout.hierarchies.iter().zip(&self.directories) {
            directory::make(hierarchy, path)?;
            let opened = open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .on_path("cannot open the cgroup", path)?;
            for write in self.writes.iter().filter(|write| hierarchy.has(&write.controller)) {
                apply(&opened, path, write, hierarchy)?;
            }
            if !self.devices.is_empty() && hierarchy.has("devices") {
                devices::apply(&opened, hierarchy.is_unified(), &self.devices)
                    .map_err(|error| error.path(path).pointer("/linux/resources/devices"))?;
            }
            if hierarchy.is_unified() {
                cgroups.unified_procs = Some(open_in(&opened, path, "cgroup.procs")?);
                cgroups.unified = Some(opened);
            } else {
                cgroups.tasks.push(open_in(&opened, path, "tasks")?);
            }
        }
        self.check_controllers()?;
        Ok(cgroups)
    }

    fn check_controllers(&self) -> Result<()> {
        match self.writes.iter().find(|write| !self.layout.hierarchies.iter().any(|each| each.has(&write.controller))) {
            Some(write) => Err(not_available(write, None)),
            None => Ok(()),
        }
    }
}

/// Whether this is not the host's root: another user, or a user namespace that does not have all ids.
fn is_rootless() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all_ids = map.split_whitespace().eq(["0", "0", "4294967295"]);
    !nix::unistd::geteuid().is_root() || !all_ids
}

fn is_no_permission(error: &Error) -> bool {
    matches!(error.os_error(), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ENOENT))
}

fn open_in(directory: &OwnedFd, path: &Path, file: &str) -> Result<OwnedFd> {
    openat(directory, file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
        .on_path("cannot open the list of a cgroup's processes", path.join(file))
}

fn apply(directory: &OwnedFd, path: &Path, write: &Write, hierarchy: &Hierarchy) -> Result<()> {
    let written = openat(directory, write.file.as_str(), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(|file| nix::unistd::write(&file, write.value.as_bytes()).map(drop));
    written
        .map_err(|errno| match errno {
            Errno::ENOENT if write.ignored_where_missing => Error::default(),
            Errno::ENOENT => not_available(write, Some((hierarchy, path))),
            _ => Error::new(format!("cannot write {:?} to a cgroup", write.value))
                .path(path.join(&write.file))
                .errno(errno)
                .pointer(&*write.pointer),
        })
        .or_else(|error| if error == Error::default() { Ok(()) } else { Err(error) })
}

/// Says which ancestor lacks the controller: the question that everyone asks next.
fn not_available(write: &Write, place: Option<(&Hierarchy, &Path)>) -> Error {
    let controller = &write.controller;
    let error =
        Error::new(format!("the cgroup controller `{controller}`, or its file {}, is not available", write.file))
            .pointer(&*write.pointer);
    let Some((hierarchy, path)) = place else { return error };
    let lacking = path
        .ancestors()
        .skip(1)
        .take_while(|ancestor| ancestor.starts_with(&hierarchy.mount_point))
        .filter(|ancestor| {
            let enabled = std::fs::read_to_string(ancestor.join("cgroup.subtree_control")).unwrap_or_default();
            !enabled.split_whitespace().any(|name| name == controller)
        })
        .last();
    match lacking {
        Some(ancestor) if hierarchy.is_unified() => error.path(ancestor).hint(format!(
            "`{controller}` is not in that cgroup's cgroup.subtree_control; under systemd set Delegate={controller}"
        )),
        _ => error.path(path),
    }
}

/// Init's part of joining: itself into every hierarchy that it was not cloned into.
pub fn join(files: &[OwnedFd]) -> Result<()> {
    files.iter().try_for_each(|file| nix::unistd::write(file, b"0").map(drop).context(|| "cannot join the cgroup"))
}

impl CgroupState {
    /// Whether the container's processes are frozen.
    pub fn is_frozen(&self) -> bool {
        self.directories.iter().any(|directory| {
            let file = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
            if self.unified || directory.join("cgroup.controllers").exists() {
                return file("cgroup.freeze").trim() == "1";
            }
            matches!(file("freezer.state").trim(), "FROZEN" | "FREEZING")
        })
    }

    /// The ids of all processes in the container's cgroups, as the caller's pid namespace has them.
    pub fn processes(&self) -> Vec<i32> {
        // All hierarchies hold the same processes; the last listed is the unified one where there is one.
        self.directories.last().map(|directory| remove::processes_below(directory)).unwrap_or_default()
    }
}
