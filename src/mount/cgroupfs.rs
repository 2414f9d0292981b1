//! The `cgroup` mount: what a container sees of the hierarchies, as plain mounts that [`super::attach`] makes.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use nix::unistd::symlinkat;

use super::options::Attributes;
use super::{Kind, MountPlan, Parameter, cut_off};
use crate::error::{Context, Result};
use crate::safepath::{Leaf, Places};
use crate::sys::mount::attr;

/// The container's cgroups as its mount namespace may show them.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Whether the host has the one unified hierarchy (v2) and nothing else.
    pub unified: bool,
    /// Whether the container has a cgroup namespace of its own.
    pub namespaced: bool,
    pub hierarchies: Vec<Hierarchy>,
}

/// One hierarchy.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    /// Its directory's name below /sys/fs/cgroup, such as `cpu,cpuacct` or `unified`.
    pub name: String,
    /// Its controllers, and `name=systemd` and the like for one without; empty for the unified one.
    pub controllers: Vec<String>,
    pub mount_point: PathBuf,
    /// The container's own cgroup in it, on the host.
    pub directory: PathBuf,
}

/// The mounts that `mount` stands for: ways to try in turn.
pub fn expand(mount: &MountPlan, view: &View) -> Vec<Vec<MountPlan>> {
    if view.unified || is_unified(mount) {
        let own = view.hierarchies.iter().find(|hierarchy| hierarchy.controllers.is_empty());
        let file_system = file_system("cgroup2", &[]);
        let ways = match own {
            None => vec![file_system],
            Some(own) if view.namespaced => vec![file_system, bind(&own.directory)],
            // The whole hierarchy, as /proc/self/cgroup and engines' `--cgroupns=host` have it. Not mounted anew: that
            // would take the options from the host's own mount of it (nsdelegate and the like).
            Some(own) => vec![bind(&own.mount_point)],
        };
        return ways.into_iter().map(|way| vec![part(mount, "", way)]).collect();
    }
    let mounted = |hierarchy: &Hierarchy| match &hierarchy.controllers[..] {
        [] => file_system("cgroup2", &[]),
        controllers => file_system("cgroup", controllers),
    };
    let as_mounts = view.hierarchies.iter().map(|own| part(mount, &own.name, mounted(own)));
    let as_binds = view.hierarchies.iter().map(|own| part(mount, &own.name, bind(&own.directory)));
    let hierarchies = if view.namespaced { as_mounts.collect::<Vec<_>>() } else { as_binds.collect() };
    let tmpfs = Kind::Filesystem {
        name: c"tmpfs".into(),
        parameters: vec![parameter("source", "tmpfs"), parameter("mode", "755")],
    };
    let mut top = part(mount, "", tmpfs);
    top.is_read_only_late = top.attributes.take(attr::RDONLY);
    vec![[vec![top], hierarchies].concat()]
}

/// On v1, a link for each controller of a hierarchy that several share, as systemd makes them.
pub fn link(mount: &MountPlan, places: &Places, view: &View) -> Result<()> {
    let unified = view.unified || is_unified(mount);
    let shared = view.hierarchies.iter().filter(|hierarchy| !unified && hierarchy.controllers.len() > 1);
    for hierarchy in shared {
        let directory =
            places.open_or_create(&mount.destination, Leaf::Directory).on_path("cannot open", &mount.destination)?;
        for controller in hierarchy.controllers.iter().filter(|controller| **controller != hierarchy.name) {
            symlinkat(hierarchy.name.as_str(), &directory, controller.as_str())
                .on_path("cannot make the link of a controller", mount.destination.join(controller))?;
        }
    }
    Ok(())
}

/// Whether cgroup v2 was asked for by name: on a hybrid host it is one hierarchy among others.
fn is_unified(mount: &MountPlan) -> bool {
    matches!(mount.kind, Kind::Cgroup { unified: true })
}

fn part(mount: &MountPlan, below: &str, kind: Kind) -> MountPlan {
    let destination = if below.is_empty() { mount.destination.clone() } else { mount.destination.join(below) };
    let recursive_attributes = Attributes::default();
    let mut part = MountPlan {
        destination,
        kind,
        recursive_attributes,
        id_map: None,
        copy_up: false,
        copy_link: false,
        ..mount.clone()
    };
    if matches!(part.kind, Kind::Bind { .. }) {
        cut_off(&mut part.propagation, false);
    }
    part
}

/// Without privileges the container may have no cgroup of its own, and is in one above.
fn bind(directory: &Path) -> Kind {
    let source = directory.ancestors().find(|place| place.try_exists().unwrap_or(true)).unwrap_or(directory).to_owned();
    Kind::Bind { source, recursive: false }
}

fn file_system(name: &str, controllers: &[String]) -> Kind {
    let mut parameters = vec![parameter("source", name)];
    for controller in controllers {
        match controller.strip_prefix("name=") {
            Some(title) => parameters.extend([flag("none"), parameter("name", title)]),
            None => parameters.push(flag(controller)),
        }
    }
    Kind::Filesystem { name: c_string(name), parameters }
}

fn parameter(key: &str, value: &str) -> Parameter {
    Parameter { key: c_string(key), value: Some(c_string(value)) }
}

fn flag(key: &str) -> Parameter {
    Parameter { key: c_string(key), value: None }
}

/// The names come from /proc/self/mountinfo and from above: none holds a NUL.
fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}
