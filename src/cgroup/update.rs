//! New limits for cgroups that exist: all of them, or none.

use super::devices;
use super::layout::{Hierarchy, Layout};
use super::resources::{self, Write, merge::merge};
use super::systemd::Scope;
use super::write::Cgroup;
use super::{CgroupState, Manager};
use crate::error::{Error, Result};
use crate::log;
use crate::spec::Resources;

/// A change that was worked out, and checked, but not made.
pub struct Update<'a> {
    cgroups: Vec<Cgroup<'a>>,
    writes: Vec<Write>,
    /// What brings back what was.
    previous: Vec<Write>,
    devices: Option<Vec<devices::Rule>>,
    /// Systemd is told too, so that it does not undo it.
    scope: Option<&'a Scope>,
    /// All of the container's resources once the change is made.
    pub merged: Resources,
}

impl CgroupState {
    /// Works out how to set what is set in `asked`, and nothing else.
    pub fn plan_update<'a>(&'a self, asked: &Resources, layout: &'a Layout) -> Result<Update<'a>> {
        if self.manager == Manager::Disabled {
            return Err(Error::new("the container has no cgroups of its own (--cgroup-manager disabled)"));
        }
        let merged = merge(&self.resources, asked)?;
        let writes = resources::plan_update(asked, &merged, layout)?;
        let cgroups = layout.hierarchies.iter().map(|hierarchy| self.open(hierarchy)).collect::<Result<Vec<_>>>()?;
        let scope = self.scope.as_ref();
        let mut update = Update { cgroups, writes, previous: Vec::new(), devices: None, scope, merged };
        update.check_memory()?;
        // The same list again would take away what others have added since, such as a hook for GPUs.
        if !asked.devices.is_empty() && asked.devices != self.resources.devices {
            update.plan_devices(&self.resources, layout)?;
        }
        Ok(update)
    }

    fn open<'a>(&'a self, hierarchy: &'a Hierarchy) -> Result<Cgroup<'a>> {
        let own = self.directories.iter().find(|directory| directory.starts_with(&hierarchy.mount_point));
        let missing = || Error::new("the container has no cgroup in this hierarchy").path(&hierarchy.mount_point);
        Cgroup::open(own.ok_or_else(missing)?, hierarchy)
    }
}

impl Update<'_> {
    fn plan_devices(&mut self, before: &Resources, layout: &Layout) -> Result<()> {
        let rules = devices::plan(&self.merged.devices)?;
        if let Some(cgroup) = self.guarded(layout) {
            let present = devices::plan(&before.devices)?;
            if devices::is_replaced(&cgroup.directory, cgroup.hierarchy.is_unified(), &present)? {
                log::warn("the devices stay as they are: the program that guards them is not kelson's any more");
                self.merged.devices.clone_from(&before.devices);
                return Ok(());
            }
        }
        self.devices = Some(rules);
        Ok(())
    }

    /// The cgroup by which devices are guarded.
    fn guarded(&self, layout: &Layout) -> Option<&Cgroup<'_>> {
        self.cgroups.iter().find(|cgroup| devices::belong_to(cgroup.hierarchy, layout))
    }

    fn of(&self, index: usize) -> impl Iterator<Item = &Write> {
        self.writes.iter().filter(move |write| write.hierarchy == index)
    }

    /// `memory.checkBeforeUpdate`: v2 would kill what does not fit, where v1 refuses.
    fn check_memory(&self) -> Result<()> {
        let Some(memory) = self.merged.memory.filter(|memory| memory.check_before_update() == Some(true)) else {
            return Ok(());
        };
        let is_limit = |write: &&Write| matches!(&*write.file, "memory.max" | "memory.swap.max");
        let Some(write) = self.writes.iter().find(is_limit) else { return Ok(()) };
        let current = self.cgroups[write.hierarchy].path.join("memory.current");
        // As good as it can be: without a number there is nothing to compare.
        let Ok(usage) = std::fs::read_to_string(current).unwrap_or_default().trim().parse::<i64>() else {
            return Ok(());
        };
        let rejected = |name: &str, limit: i64, field: &str| {
            let message = format!("rejecting {name} limit {limit} <= usage {usage}");
            Err(Error::new(message).pointer(format!("/linux/resources/memory/{field}")))
        };
        match (memory.swap(), memory.limit()) {
            (Some(swap), _) if swap > 0 && swap <= usage => rejected("memory+swap", swap, "swap"),
            (_, Some(limit)) if limit > 0 && limit <= usage => rejected("memory", limit, "limit"),
            _ => Ok(()),
        }
    }

    /// Writes the limits. On failure they are as before.
    pub fn write(&mut self) -> Result<()> {
        let cgroups = self.cgroups.iter().enumerate();
        self.previous = cgroups.flat_map(|(index, cgroup)| cgroup.previous(self.of(index))).collect();
        // Systemd first, which may refuse.
        let told = self.scope.map_or(Ok(()), |scope| scope.update(&self.writes));
        let write = |(index, cgroup): (usize, &Cgroup<'_>)| cgroup.write(self.of(index));
        let written = told.and_then(|()| self.cgroups.iter().enumerate().try_for_each(write));
        written.map_err(|error| self.undone(error))
    }

    /// Gets back to the limits before [`Self::write`], and says of `error` if that cannot be.
    pub fn undone(&self, error: Error) -> Error {
        let told = self.scope.map_or(Ok(()), |scope| scope.update(&self.previous));
        let cgroups = self.cgroups.iter().enumerate();
        let changed: Vec<_> = cgroups
            .flat_map(|(index, cgroup)| {
                let previous: Vec<_> = self.previous.iter().filter(|write| write.hierarchy == index).collect();
                cgroup.restore(&previous)
            })
            .collect();
        let error = match told {
            Err(unknown) => error.hint(unknown.to_string()),
            Ok(()) => error,
        };
        if changed.is_empty() {
            return error;
        }
        error.hint(format!("these are not as before: {}", changed.join(", ")))
    }

    /// Replaces the rules for devices, if there are new ones: on v2 at once.
    pub fn guard_devices(&self, layout: &Layout) -> Result<()> {
        let Some(rules) = &self.devices else { return Ok(()) };
        let Some(cgroup) = self.guarded(layout) else { return Ok(()) };
        let replaced = devices::replace(&cgroup.directory, cgroup.hierarchy.is_unified(), rules);
        replaced.map_err(|error| error.path(cgroup.path).pointer("/linux/resources/devices"))
    }
}
