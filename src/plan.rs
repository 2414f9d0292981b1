//! config.json turned into a [`Plan`]: pure data, computed and checked before anything is touched. Init inherits
//! it by copy-on-write; nothing is serialised.

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIdMapping;

use crate::cgroup::{self, CgroupPlan, Manager};
use crate::confinement::{self, Confinement};
use crate::device::{self, DevicePlan};
use crate::error::{Context, Error, Result};
use crate::hook::{self, Hooks};
use crate::mount::idmap::IdMap;
use crate::mount::{self, Kind, MountPlan, cgroupfs};
use crate::namespace::{self, NamespacePlan};
use crate::netdev::{self, NetDevice};
use crate::process::{self, ProcessPlan};
use crate::rdt::{self, RdtPlan};
use crate::rootfs::{self, RootfsPlan};
use crate::spec::{Process, Spec};
use crate::sysctl::{self, Sysctl};

/// What the command line adds to config.json.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    pub manager: Manager,
}

/// A container, ready to be made.
#[derive(Debug)]
pub struct Plan {
    pub rootfs: RootfsPlan,
    pub mounts: Vec<MountPlan>,
    /// None where the host's own /dev is mounted into the container.
    pub devices: Option<Vec<DevicePlan>>,
    pub namespaces: NamespacePlan,
    pub process: Option<ProcessPlan>,
    pub confinement: Confinement,
    pub hostname: String,
    pub domainname: String,
    pub sysctls: Vec<Sysctl>,
    pub cgroup: CgroupPlan,
    pub cgroup_view: cgroupfs::View,
    pub hooks: Hooks,
    pub net_devices: Vec<NetDevice>,
    pub rdt: Option<RdtPlan>,
}

/// Computes the plan for the container `id` in `bundle` (absolute).
pub fn plan(spec: &Spec, id: &str, bundle: &Path, settings: &Settings) -> Result<Plan> {
    check_version(&spec.oci_version)?;
    check_annotations(spec)?;
    let linux = &spec.linux;
    let namespaces = namespace::plan(linux)?;
    let has = |flag: i32| namespaces.has(flag as u64);
    let apart = |flag: i32| namespaces.is_apart(flag as u64);
    check_names(spec, || apart(libc::CLONE_NEWUTS))?;
    let own = sysctl::Own {
        ipc: apart(libc::CLONE_NEWIPC),
        network: apart(libc::CLONE_NEWNET),
        uts: apart(libc::CLONE_NEWUTS),
    };
    let container_map = has(libc::CLONE_NEWUSER).then(|| IdMap {
        namespace: namespaces.joined(libc::CLONE_NEWUSER as u64).map(|join| join.path.clone()),
        ..IdMap::new(&linux.uid_mappings, &linux.gid_mappings)
    });
    let mut cgroup = cgroup::plan(linux, &spec.annotations, id, settings.manager)?;
    let keyring = if settings.no_new_keyring { None } else { Some(confinement::keyring_name(id)?) };
    let confinement = confinement::plan(spec.process.as_ref(), linux, keyring, namespaces.has_user())?;
    let mut rootfs = plan_rootfs(spec, bundle, settings, apart(libc::CLONE_NEWNS))?;
    let around = mount::Surroundings {
        bundle,
        mount_label: &confinement.labels.mount_label,
        container_map: container_map.as_ref(),
        is_shared: rootfs.is_shared(),
    };
    let mounts = plan_mounts(spec, &around)?;
    cgroup.owner = cgroup_owner(spec, &mounts, &namespaces);
    let process = spec.process.as_ref().map(plan_process).transpose()?;
    let host_dev =
        |mount: &MountPlan| mount.destination == Path::new("/dev") && matches!(mount.kind, Kind::Bind { .. });
    let devices = device::plan(&linux.devices)?;
    let mut hooks = hook::plan(spec.hooks.as_ref())?;
    // These are programs of the container's.
    let env = || spec.process.as_ref().map(|process| process.env.clone()).unwrap_or_default();
    for hook in &mut hooks.start_container {
        hook.env.get_or_insert_with(env);
    }
    let own_mounts = namespaces.has_new(libc::CLONE_NEWNS as u64);
    rootfs.is_seen_by_hooks = own_mounts && hooks.are_needed_by_init();
    rootfs.is_detached = own_mounts
        && !(rootfs.is_seen_by_hooks || rootfs.is_shared() || namespaces.has_user())
        && !mounts.iter().any(MountPlan::is_made_in_place);
    Ok(Plan {
        rootfs,
        devices: (!mounts.iter().any(host_dev)).then_some(devices),
        mounts,
        hostname: spec.hostname.clone(),
        domainname: spec.domainname.clone(),
        sysctls: sysctl::plan(&linux.sysctl, own)?,
        cgroup_view: cgroup_view(&cgroup, has(libc::CLONE_NEWCGROUP)),
        cgroup,
        hooks,
        net_devices: netdev::plan(linux.net_devices.as_ref(), has(libc::CLONE_NEWNET))?,
        rdt: rdt::plan(linux.intel_rdt.as_ref(), id)?,
        namespaces,
        process,
        confinement,
    })
}

impl Plan {
    /// Whether init has to know the container's state: for its hooks, or for an agent that seccomp leaves calls to.
    pub fn init_needs_state(&self) -> bool {
        self.hooks.are_needed_by_init() || self.confinement.has_agent()
    }

    /// The flags for the `clone3(2)` that makes init.
    pub fn clone_flags(&self) -> u64 {
        let late = if self.rootfs.is_detached { libc::CLONE_NEWNS as u64 } else { 0 };
        self.namespaces.clone_flags() & !late
    }

    /// Whether the first process waits until systemd has put it into its cgroup.
    pub fn waits_for_scope(&self) -> bool {
        self.cgroup.scope.is_some()
    }

    /// Whether init, if it is the first process, waits for the runtime before it does anything.
    pub fn init_waits_for_go(&self) -> bool {
        !self.namespaces.needs_stage()
            && (self.waits_for_scope() || self.namespaces.has_new(libc::CLONE_NEWUSER as u64))
    }

    /// Whether init could not clone the sources of bind mounts itself: it may lack the rights in a user namespace, and
    /// the paths in another mount namespace.
    pub fn clones_sources_outside(&self) -> bool {
        let joins_mounts = self.namespaces.joins.iter().any(|join| join.flag == libc::CLONE_NEWNS as u64);
        self.namespaces.has_user() || joins_mounts
    }
}

/// Any 1.x is read: later minor versions only add properties, which are ignored, and values, which are errors.
fn check_version(version: &str) -> Result<()> {
    let wrong = |message: String| Err(Error::new(message).pointer("/ociVersion"));
    if version.is_empty() {
        return wrong("ociVersion is missing".to_owned());
    }
    let numbers: Vec<_> = version.split(['-', '+']).next().unwrap_or_default().split('.').collect();
    let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if numbers.len() != 3 || !numbers.iter().all(is_number) {
        return wrong(format!("ociVersion {version:?} is no semantic version"));
    }
    if numbers[0] == "1" { Ok(()) } else { wrong(format!("ociVersion {version} is not supported, only 1.x")) }
}

/// Only a container that is never started does without a program, and then without a process.
fn plan_process(process: &Process) -> Result<ProcessPlan> {
    if process.args.is_empty() {
        return Err(Error::new("a process needs a program: args must not be empty").pointer("/process/args"));
    }
    process::plan(process)
}

fn check_annotations(spec: &Spec) -> Result<()> {
    if spec.annotations.keys().any(String::is_empty) {
        return Err(Error::new("an annotation needs a name").pointer("/annotations"));
    }
    Ok(())
}

fn check_names(spec: &Spec, own_uts: impl Fn() -> bool) -> Result<()> {
    for (name, value) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        let pointer = format!("/{name}");
        if !value.is_empty() && !own_uts() {
            return Err(Error::new(format!("the {name} would be the host's: add a uts namespace")).pointer(pointer));
        }
        if value.len() > 64 || value.bytes().any(|byte| byte == 0) {
            return Err(Error::new(format!("a {name} is at most 64 bytes")).pointer(pointer));
        }
    }
    Ok(())
}

fn plan_mounts(spec: &Spec, around: &mount::Surroundings) -> Result<Vec<MountPlan>> {
    spec.mounts.iter().enumerate().map(|(index, entry)| mount::plan(index, entry, around)).collect()
}

fn plan_rootfs(spec: &Spec, bundle: &Path, settings: &Settings, own_mounts: bool) -> Result<RootfsPlan> {
    let root = spec.root.as_ref().ok_or_else(|| Error::new("the container needs a root").pointer("/root"))?;
    if root.path().as_os_str().is_empty() {
        return Err(Error::new("the root needs a path").pointer("/root/path"));
    }
    let path = bundle.join(root.path());
    let path = crate::sys::fs::canonical(&path)
        .on_path("cannot find the rootfs", &path)
        .map_err(|e| e.pointer("/root/path"))?;
    if !path.is_dir() {
        return Err(Error::new("the rootfs is not a directory").path(path).pointer("/root/path"));
    }
    if !(own_mounts || spec.linux.masked_paths.is_empty() && spec.linux.readonly_paths.is_empty()) {
        return Err(Error::new("masked and read-only paths need a mount namespace of the container's own")
            .pointer("/linux/namespaces")
            .hint("without one they would be the host's; add {\"type\": \"mount\"}"));
    }
    let absolute = |name: &str, paths: &[PathBuf]| match paths.iter().position(|path| !path.is_absolute()) {
        Some(index) => {
            Err(Error::new("the path has to be absolute").path(&paths[index]).pointer(format!("/linux/{name}/{index}")))
        }
        None => Ok(paths.to_vec()),
    };
    Ok(RootfsPlan {
        path,
        readonly: root.readonly().unwrap_or(false),
        propagation: rootfs::parse_propagation(&spec.linux.rootfs_propagation)?,
        masked: absolute("maskedPaths", &spec.linux.masked_paths)?,
        readonly_paths: absolute("readonlyPaths", &spec.linux.readonly_paths)?,
        own_mounts,
        is_seen_by_hooks: false,
        is_detached: false,
        no_pivot: settings.no_pivot,
    })
}

/// Whose the cgroup is to be: the user's that the container runs as, if it may write to the cgroups that it sees, and
/// sees only its own (config-linux.md, "Cgroup ownership").
fn cgroup_owner(spec: &Spec, mounts: &[MountPlan], namespaces: &NamespacePlan) -> Option<u32> {
    let writable = |mount: &MountPlan| {
        matches!(mount.kind, Kind::Cgroup { .. }) && mount.attributes.set & crate::sys::mount::attr::RDONLY == 0
    };
    if !namespaces.has_new(libc::CLONE_NEWCGROUP as u64) || !mounts.iter().any(writable) {
        return None;
    }
    let inside = spec.process.as_ref()?.user.uid;
    let outside = |map: &LinuxIdMapping| {
        let offset = inside.checked_sub(map.container_id()).filter(|offset| *offset < map.size())?;
        map.host_id().checked_add(offset)
    };
    let owner = match &spec.linux.uid_mappings[..] {
        [] => (!namespaces.has_user()).then_some(inside),
        maps => maps.iter().find_map(outside),
    };
    owner.filter(|owner| *owner != nix::unistd::geteuid().as_raw())
}

fn cgroup_view(cgroup: &CgroupPlan, namespaced: bool) -> cgroupfs::View {
    let hierarchies = cgroup.layout.hierarchies.iter().zip(&cgroup.directories);
    cgroupfs::View {
        unified: cgroup.layout.unified,
        namespaced,
        hierarchies: hierarchies
            .map(|(hierarchy, directory)| cgroupfs::Hierarchy {
                name: hierarchy.name(),
                mount_point: hierarchy.mount_point.clone(),
                controllers: hierarchy.controllers.clone(),
                directory: directory.clone(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_first_major_are_read() {
        for version in ["1.0.0", "1.0.2-dev", "1.3.0", "1.9.0", "1.0.0-rc5+x"] {
            assert!(check_version(version).is_ok(), "{version}");
        }
        for version in ["", "1.0", "2.0.0", "0.9.0", "one", "1.0.x", "1..0"] {
            assert!(check_version(version).is_err(), "{version}");
        }
    }
}
