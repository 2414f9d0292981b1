//! Control groups: where the container's are, made and limited before its process exists, and removed whole.
//!
//! v1, v2 and hybrid differ by data: a [`layout::Layout`] lists the hierarchies, one table of [`resources`] says
//! which file of which controller a field goes to, and everything else walks over a list of directories.

pub mod devices;
pub mod directory;
mod events;
mod freezer;
pub mod join;
pub mod layout;
mod nested;
pub mod oom;
pub mod owner;
pub mod processes;
mod remove;
pub mod resources;
mod scope;
pub mod stats;
pub mod systemd;
pub mod update;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::spec::{Linux, Resources};
use crate::sys::process::{Forked, clone};
use layout::{Hierarchy, Layout};
use resources::Write;
use systemd::{Scope, ScopePlan};
use write::Cgroup;

/// Who makes the cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// kelson itself, through the file system.
    #[default]
    Cgroupfs,
    /// The manager of units, as a scope of its.
    Systemd,
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
    /// What the writes and devices were made of.
    pub resources: Resources,
    pub writes: Vec<Write>,
    /// The devices that may be used; none: all.
    pub devices: Vec<devices::Rule>,
    /// Whose the cgroup is to be on v2, if not the runtime's.
    pub owner: Option<u32>,
    /// With the systemd driver.
    pub scope: Option<ScopePlan>,
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
    /// What was asked for in config.json, and by `update` since.
    pub resources: Resources,
    /// Those of the container's own, and below them, that somebody else made before: they stay.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub found: BTreeSet<PathBuf>,
    /// With the systemd driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

/// Reads `cgroupsPath`, `resources` and the annotations about systemd, for the hierarchies of this host.
pub fn plan(linux: &Linux, annotations: &BTreeMap<String, String>, id: &str, manager: Manager) -> Result<CgroupPlan> {
    let resources = linux.resources.clone();
    let devices = devices::plan(&resources.devices)?;
    if manager == Manager::Disabled {
        let anywhere = Layout { unified: true, hierarchies: vec![Hierarchy::unified("/".into())] };
        if !resources::plan(&resources, &anywhere)?.is_empty() {
            return Err(Error::new("resources cannot be limited with cgroups disabled").pointer("/linux/resources"));
        }
        return Ok(CgroupPlan { manager, ..CgroupPlan::default() });
    }
    let layout = layout::detect()?;
    let writes = resources::plan(&resources, &layout)?;
    let (directories, scope) = if manager == Manager::Systemd {
        let scope = systemd::plan(&linux.cgroups_path, annotations, id, is_rootless(), &writes)?;
        (scope.directories(&layout)?, Some(scope))
    } else {
        let path = Path::new(if linux.cgroups_path.is_empty() { id } else { &linux.cgroups_path });
        (layout::container_directories(&layout, path).map_err(|e| e.pointer("/linux/cgroupsPath"))?, None)
    };
    Ok(CgroupPlan { manager, layout, directories, resources, writes, devices, owner: None, scope })
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
    pub fn state(&self) -> Result<CgroupState> {
        Ok(CgroupState {
            manager: self.manager,
            unified: self.layout.unified,
            directories: self.directories.clone(),
            // Slices are systemd's.
            made_above: match self.scope {
                Some(_) => Vec::new(),
                None => directory::missing_above(&self.layout, &self.directories)?,
            },
            resources: self.resources.clone(),
            found: directory::already_there(&self.directories)?,
            scope: self.scope.as_ref().map(ScopePlan::state),
        })
    }

    /// Refuses cgroups that have processes or are frozen: they are another container's.
    pub fn check_unused(&self) -> Result<()> {
        self.directories
            .iter()
            .filter(|path| path.try_exists().unwrap_or(true))
            .try_for_each(|path| directory::check_unused(path))
    }

    /// Makes the cgroups, writes the limits, and opens what joining them takes. With `more` processes to come than
    /// the first, their number is left to [`Self::limit_processes`]. A scope is made when there is a process to make it
    /// around. Cgroups that turn out to be another's are taken out of `state`.
    pub fn make(&self, state: &mut CgroupState, more: bool) -> Result<Cgroups> {
        if self.scope.is_some() {
            return Ok(Cgroups::default());
        }
        match self.try_make(Some(state), more) {
            // Without privileges and without limits, a cgroup that cannot be made is done without, as runc does.
            Err(error) if self.writes.is_empty() && is_no_permission(&error) && is_rootless() => Ok(Cgroups::default()),
            result => result,
        }
    }

    /// With the `state` of a container that has no process in them yet, it takes them for that.
    fn try_make(&self, mut state: Option<&mut CgroupState>, more: bool) -> Result<Cgroups> {
        let mut cgroups = Cgroups::default();
        for (index, (hierarchy, path)) in self.layout.hierarchies.iter().zip(&self.directories).enumerate() {
            let is_new = directory::make(hierarchy, path)?;
            let cgroup = Cgroup::open(path, hierarchy)?;
            let list = if hierarchy.is_unified() { "cgroup.procs" } else { "tasks" };
            let list = open_in(&cgroup.directory, path, list)?;
            // Everybody makes them in the same order: whose the first is, theirs are all.
            if let Some(state) = state.take() {
                let claimed = directory::claim(&list, path, is_new, &state.found);
                claimed.inspect_err(|_| state.directories.clear())?;
            }
            cgroup.write(self.writes.iter().filter(|write| write.hierarchy == index && !(more && write.late)))?;
            self.guard_devices(&cgroup, is_new)?;
            if hierarchy.is_unified() {
                if let Some(owner) = self.owner {
                    owner::give(&cgroup.directory, path, owner)?;
                }
                cgroups.unified_procs = Some(list);
                cgroups.unified = Some(cgroup.directory);
            } else {
                cgroups.tasks.push(list);
            }
        }
        Ok(cgroups)
    }

    fn guard_devices(&self, cgroup: &Cgroup<'_>, is_new: bool) -> Result<()> {
        if !devices::belong_to(cgroup.hierarchy, &self.layout) {
            return Ok(());
        }
        match devices::apply(&cgroup.directory, is_new, cgroup.hierarchy.is_unified(), &self.devices) {
            // Without privileges nobody can make device nodes either.
            Err(error) if is_no_permission(&error) && is_rootless() => Ok(()),
            result => result.map_err(|error| error.path(cgroup.path).pointer("/linux/resources/devices")),
        }
    }

    /// What the kernel means by refusing a process in the unified cgroup; nothing if it is not about that.
    pub fn takes_no_process(&self, errno: Errno) -> Option<Error> {
        let hint = match errno {
            Errno::EBUSY => {
                "controllers are enabled for what is below it (cgroup.subtree_control): then it has no processes"
            }
            Errno::EOPNOTSUPP => "it is below a threaded cgroup (cgroup.type), which is not supported",
            Errno::EAGAIN => {
                "the limit on processes is reached, of a cgroup above (pids.max) or of the user (ulimit -u)"
            }
            _ => return None,
        };
        let unified = self.layout.hierarchies.iter().position(Hierarchy::is_unified)?;
        let error = Error::new("the cgroup takes no process").path(self.directories.get(unified)?).errno(errno);
        Some(error.pointer("/linux/cgroupsPath").hint(hint))
    }

    /// Writes what waited for init.
    pub fn limit_processes(&self) -> Result<()> {
        self.writes.iter().filter(|write| write.late).try_for_each(|write| {
            Cgroup::open(&self.directories[write.hierarchy], &self.layout.hierarchies[write.hierarchy])?.write([write])
        })
    }
}

impl Cgroups {
    /// Clones the caller into the unified cgroup, in new namespaces (`flags`). The files are for the child to join the
    /// other cgroups by.
    pub fn clone_into(self, flags: u64) -> nix::Result<(Forked, Vec<OwnedFd>)> {
        let mut files = self.tasks;
        let forked = match clone(flags, self.unified.as_ref().map(AsFd::as_fd)) {
            // Before Linux 5.7 a process cannot be cloned into a cgroup, before 5.3 there is no clone3.
            Err(Errno::ENOSYS | Errno::EINVAL | Errno::E2BIG) => {
                files.extend(self.unified_procs);
                clone(flags, None)
            }
            result => result,
        };
        Ok((forked?, files))
    }
}

/// Whether this is not the host's root: another user, or a user namespace that does not have all ids.
pub fn is_rootless() -> bool {
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

/// Init's part of joining: itself into every hierarchy that it was not cloned into.
pub fn join(files: &[OwnedFd]) -> Result<()> {
    files.iter().try_for_each(|file| nix::unistd::write(file, b"0").map(drop).context(|| "cannot join the cgroup"))
}
