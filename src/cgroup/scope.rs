//! The container's scope among its cgroups: systemd makes it around init, kelson adds what systemd has no word for.

use std::fs;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkdir;

use super::layout::{Hierarchy, cgroup_in};
use super::systemd::{ScopePlan, Starting};
use super::{CgroupPlan, CgroupState};
use crate::error::{Context, Error, Result};
use crate::log;

impl CgroupPlan {
    /// Connects to the systemd that is to make the scope; nothing without one.
    pub fn connect(&self) -> Result<Option<Starting>> {
        self.scope.as_ref().map(ScopePlan::connect).transpose()
    }

    /// Waits until the process is in its scope, and limits it there; for `more` see [`Self::make`].
    pub fn finish_scope(&self, starting: &mut Starting, pid: i32, more: bool) -> Result<()> {
        starting.finish()?;
        let hierarchies = || self.layout.hierarchies.iter().zip(&self.directories);
        let subgroup = self.scope.as_ref().map_or("", |scope| &*scope.subgroup);
        for (hierarchy, directory) in hierarchies().filter(|(hierarchy, _)| is_tracked(hierarchy, self.layout.unified))
        {
            let scope = if subgroup.is_empty() { directory } else { directory.parent().unwrap_or(directory) };
            check_place(hierarchy, scope, pid)?;
        }
        if self.layout.unified && !subgroup.is_empty() {
            // A cgroup with processes has no controllers to pass on: out of it first.
            hierarchies().try_for_each(|(_, directory)| move_below(directory, pid))?;
        }
        self.try_make(None, more)?;
        // Of v1's hierarchies systemd uses but some.
        let others = hierarchies().filter(|(hierarchy, _)| !hierarchy.is_unified());
        others.map(|(_, directory)| directory).try_for_each(|directory| move_into(directory, pid))
    }
}

/// Whether systemd has its own tree of units in this hierarchy.
fn is_tracked(hierarchy: &Hierarchy, unified: bool) -> bool {
    unified || hierarchy.controllers.iter().any(|name| name == "name=systemd")
}

/// The kernel tells where systemd has put the process.
fn check_place(hierarchy: &Hierarchy, wanted: &Path, pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).on_path("cannot read", &path)?;
    let found = hierarchy.mount_point.join(cgroup_in(hierarchy, &text));
    if found == wanted {
        return Ok(());
    }
    Err(Error::new(format!("systemd has put the container into {}, which is not the cgroup expected", found.display()))
        .path(wanted)
        .hint("does the systemd that answers belong to another container or host?"))
}

fn move_below(directory: &Path, pid: i32) -> Result<()> {
    mkdir(directory, Mode::from_bits_truncate(0o755)).on_path("cannot make a cgroup", directory)?;
    move_into(directory, pid)
}

fn move_into(directory: &Path, pid: i32) -> Result<()> {
    let file = directory.join("cgroup.procs");
    fs::write(&file, pid.to_string()).on_path("cannot move the container into its cgroup", file)
}

impl CgroupState {
    /// Ends the scope, with the processes in it. Where systemd cannot be reached its cgroup is removed like any.
    pub(super) fn stop_scope(&self) {
        let Some(scope) = &self.scope else { return };
        // The scope goes when its last process does, and its cgroup with it.
        if scope.was_there && !self.directories.iter().any(|directory| directory.exists()) {
            return;
        }
        self.kill_all();
        if let Err(error) = scope.stop() {
            log::warn(format!("the scope {} may be left: {error}", scope.unit));
        }
    }
}
