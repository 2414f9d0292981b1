//! Mounts: config.json's list turned into operations ([`plan`]), and each operation done ([`attach`]).
//!
//! Sources on the host are cloned by descriptor before the container's process exists ([`source`]); destinations
//! are resolved inside the rootfs by descriptor; nothing is found by name twice.

pub mod attach;
pub mod cgroupfs;
mod classic;
mod copy;
pub mod idmap;
pub mod options;
pub mod source;

use std::ffi::CString;
use std::fs::read_link;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;

use crate::error::{Error, Result};
use crate::sys::mount::attr;
use idmap::IdMap;
use options::{Attributes, Options, Propagation};

/// One mount, as it will be done.
#[derive(Clone, Debug)]
pub struct MountPlan {
    /// Its place in config.json's list.
    pub index: usize,
    /// Absolute, below the container's root.
    pub destination: PathBuf,
    pub kind: Kind,
    pub attributes: Attributes,
    pub recursive_attributes: Attributes,
    pub propagation: Vec<Propagation>,
    pub id_map: Option<IdMap>,
    pub copy_up: bool,
    pub copy_link: bool,
    /// Whether it becomes read-only after everything else, which is made in it: devices, links, places for mounts.
    pub is_read_only_late: bool,
}

impl MountPlan {
    /// Whether it is a procfs that shows everything and can be written to.
    fn is_plain_procfs(&self) -> bool {
        let Kind::Filesystem { name, parameters } = &self.kind else { return false };
        let plain = parameters.iter().all(|parameter| parameter.key.as_c_str() == c"source");
        name.as_c_str() == c"proc" && plain && self.attributes.set & attr::RDONLY == 0
    }

    /// What the source of a bind mount leads to, if it is a symbolic link that is to be copied.
    pub fn link(&self) -> Option<PathBuf> {
        match &self.kind {
            Kind::Bind { source, .. } if self.copy_link => read_link(source).ok(),
            _ => None,
        }
    }

    /// Whether it is made by a call that the kernel does not allow in a detached tree.
    pub fn is_made_in_place(&self) -> bool {
        match &self.kind {
            Kind::Remount => true,
            kind => kind.has_long_options(),
        }
    }
}

/// What is mounted.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A clone of a tree of the host.
    Bind { source: PathBuf, recursive: bool },
    /// A new file system with its parameters.
    Filesystem { name: CString, parameters: Vec<Parameter> },
    /// The container's own cgroups, as the hierarchies of the host have them; or only that of cgroup v2.
    Cgroup { unified: bool },
    /// New attributes for what is mounted there already.
    Remount,
}

impl Kind {
    fn has_long_options(&self) -> bool {
        matches!(self, Self::Filesystem { parameters, .. } if parameters.iter().any(Parameter::is_long))
    }
}

/// A file system parameter as `fsconfig(2)` takes it; without a value it is a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub key: CString,
    pub value: Option<CString>,
}

impl Parameter {
    /// Whether only mount(2) takes it: `fsconfig(2)` has room for 255 bytes.
    fn is_long(&self) -> bool {
        let length = |text: &CString| text.as_bytes().len();
        length(&self.key).max(self.value.as_ref().map_or(0, length)) > 255
    }
}

/// Files of procfs that may be mounted over: virtualised by lxcfs and the like, and harmless (CVE-2015-3630).
const COVERABLE_PROC_FILES: &[&str] = &[
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// What the plan of a mount depends on beside its own entry.
pub struct Surroundings<'a> {
    pub bundle: &'a Path,
    pub mount_label: &'a str,
    /// The mappings of the container's user namespace, if it has one.
    pub container_map: Option<&'a IdMap>,
    /// Whether mounts in the container may be seen on the host.
    pub is_shared: bool,
}

/// Reads one entry of `/mounts`.
pub fn plan(index: usize, mount: &Mount, around: &Surroundings<'_>) -> Result<MountPlan> {
    let at = |field: &str| format!("/mounts/{index}/{field}");
    let destination = destination(mount.destination()).map_err(|error| error.pointer(at("destination")))?;
    let options = options::parse(mount.options().as_deref().unwrap_or_default());
    let kind = kind(mount, &options, around).map_err(|error| error.pointer(format!("/mounts/{index}")))?;
    check_place(&destination, &kind).map_err(|error| error.pointer(at("destination")))?;
    let id_map = idmap::plan(mount, &options, around.container_map).map_err(|error| error.pointer(at("options")))?;
    if id_map.is_some() && kind.has_long_options() {
        return Err(Error::new("an idmapped file system takes options of at most 255 bytes").pointer(at("options")));
    }
    let mut propagation = options.propagation;
    if matches!(kind, Kind::Bind { .. }) {
        cut_off(&mut propagation, around.is_shared);
    }
    let (mut attributes, recursive_attributes) = match kind {
        Kind::Bind { .. } => (options.attributes, options.recursive_attributes),
        // There is nothing below a new file system.
        _ => (options.attributes.with(options.recursive_attributes), Attributes::default()),
    };
    let is_filled = match &kind {
        Kind::Filesystem { name, .. } => name.as_c_str() == c"tmpfs" || destination == Path::new("/dev"),
        _ => false,
    };
    let is_read_only_late = is_filled && attributes.take(attr::RDONLY);
    Ok(MountPlan {
        index,
        destination,
        kind,
        attributes,
        recursive_attributes,
        propagation,
        id_map,
        copy_up: options.copy_up,
        copy_link: options.copy_link,
        is_read_only_late,
    })
}

/// A clone is a peer of what it is a clone of, and so is each mount in it: what the container mounts there would be
/// mounted on the host, too.
fn cut_off(propagation: &mut Vec<Propagation>, is_shared: bool) {
    match propagation.first() {
        None => propagation.push(Propagation { flag: libc::MS_PRIVATE, recursive: true }),
        Some(first) if is_shared || first.recursive && first.flag != libc::MS_SHARED => {}
        Some(_) => propagation.insert(0, Propagation { flag: libc::MS_SLAVE, recursive: true }),
    }
}

/// Absolute and without `..`; a relative one is below `/` (config.md, "Mounts").
fn destination(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::new("a mount needs a destination"));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Error::new("a path cannot hold a NUL byte"));
    }
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

fn kind(mount: &Mount, options: &Options, around: &Surroundings<'_>) -> Result<Kind> {
    let name = mount.typ().as_deref().unwrap_or_default();
    if options.remount {
        if let Some(option) = options.data.iter().map(String::as_str).chain(options.superblock.iter().copied()).next() {
            return Err(Error::new(format!("`{option}` belongs to a file system, which `remount` does not change")));
        }
        return Ok(Kind::Remount);
    }
    if let Some(recursive) = options.bind {
        let of_file_system = options.superblock.iter().copied().filter(|flag| !matches!(*flag, "async" | "nomand"));
        let copy_up = options.copy_up.then_some("tmpcopyup");
        // A misspelled `ro` must not pass for one. What has a value (the OCI's suite binds with `mode=755`) means nothing here.
        let unknown = options.data.iter().map(String::as_str).filter(|option| !option.contains('='));
        if let Some(option) = of_file_system.chain(copy_up).chain(unknown).next() {
            return Err(Error::new(format!("`{option}` belongs to a file system and cannot be set on a bind mount")));
        }
        let source = mount.source().as_deref().ok_or_else(|| Error::new("a bind mount needs a source"))?;
        return Ok(Kind::Bind { source: around.bundle.join(source), recursive });
    }
    match name {
        "bind" => Err(Error::new("a bind mount is one by its options, and not by its type")
            .hint("add `bind` or `rbind` to the options")),
        "" | "none" => Err(Error::new("a mount needs a type, or `bind` among its options")),
        "cgroup" => Ok(Kind::Cgroup { unified: false }),
        "cgroup2" => Ok(Kind::Cgroup { unified: true }),
        _ => Ok(Kind::Filesystem { name: c_string(name)?, parameters: parameters(name, mount, options, around)? }),
    }
}

fn parameters(name: &str, mount: &Mount, options: &Options, around: &Surroundings<'_>) -> Result<Vec<Parameter>> {
    let mut parameters = Vec::new();
    if let Some(source) = mount.source().as_deref().and_then(Path::to_str).filter(|source| !source.is_empty()) {
        parameters.push(Parameter { key: c_string("source")?, value: Some(c_string(source)?) });
        // Only a file system on a device is read-only by itself; elsewhere the mount's own flag is enough, and
        // the superblock may be shared.
        if source.starts_with('/') && name != "tmpfs" && options.attributes.set & attr::RDONLY != 0 {
            parameters.push(Parameter { key: c_string("ro")?, value: None });
        }
    }
    for flag in &options.superblock {
        parameters.push(Parameter { key: c_string(flag)?, value: None });
    }
    for option in options.data.iter().flat_map(|data| options::split(data)) {
        parameters.push(match option.split_once('=') {
            Some((key, value)) => Parameter { key: c_string(key)?, value: Some(c_string(value)?) },
            None => Parameter { key: c_string(&option)?, value: None },
        });
    }
    let labelled = !matches!(name, "proc" | "sysfs" | "mqueue");
    if labelled && !around.mount_label.is_empty() && !options.data.iter().any(|option| option.starts_with("context=")) {
        parameters.push(Parameter { key: c_string("context")?, value: Some(c_string(around.mount_label)?) });
    }
    Ok(parameters)
}

/// Refuses to hide the rootfs, and to mount over parts of procfs that the kernel or kelson itself relies on
/// (CVE-2019-16884).
fn check_place(destination: &Path, kind: &Kind) -> Result<()> {
    if destination == Path::new("/") && !matches!(kind, Kind::Remount) {
        return Err(Error::new("a mount on / would hide the rootfs").hint("make it the root: /root/path"));
    }
    let Ok(below) = destination.strip_prefix("/proc") else { return Ok(()) };
    if below.as_os_str().is_empty() {
        return match kind {
            Kind::Filesystem { name, .. } if name.as_c_str() == c"proc" => Ok(()),
            // A bind of the host's procfs is verified when it is attached.
            Kind::Bind { .. } | Kind::Remount => Ok(()),
            _ => Err(Error::new("not procfs: only procfs may be mounted on /proc").path(destination)),
        };
    }
    if COVERABLE_PROC_FILES.iter().any(|file| below == Path::new(file)) {
        return Ok(());
    }
    Err(inside_proc(destination))
}

fn inside_proc(path: &Path) -> Error {
    Error::new("nothing may be mounted inside /proc but a few files")
        .path(path)
        .hint(format!("use maskedPaths or readonlyPaths, or one of {}", COVERABLE_PROC_FILES.join(", ")))
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(format!("{text:?} holds a NUL byte")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(json: &str) -> Result<MountPlan> {
        let around =
            Surroundings { bundle: Path::new("/bundle"), mount_label: "", container_map: None, is_shared: false };
        plan(0, &serde_json::from_str(json).unwrap(), &around)
    }

    #[test]
    fn the_options_make_a_bind_mount_and_not_the_type() {
        let mount = planned(r#"{"destination":"/x","type":"none","source":"data","options":["rbind","ro"]}"#).unwrap();
        assert!(matches!(mount.kind, Kind::Bind { source, recursive: true } if source == Path::new("/bundle/data")));
        assert_eq!(mount.propagation, [Propagation { flag: libc::MS_PRIVATE, recursive: true }]);
        assert!(planned(r#"{"destination":"/x","type":"none","source":"data"}"#).is_err());
    }

    #[test]
    fn options_of_file_systems_on_a_bind_mount_are_refused() {
        for option in ["sync", "readonly", "tmpcopyup"] {
            let json = format!(r#"{{"destination":"/x","source":"/y","options":["bind","{option}"]}}"#);
            assert!(planned(&json).is_err(), "{option}");
        }
    }

    #[test]
    fn a_relative_destination_is_below_the_root() {
        let mount = planned(r#"{"destination":"a/../../b","type":"tmpfs"}"#).unwrap();
        assert_eq!(mount.destination, Path::new("/b"));
        assert!(planned(r#"{"destination":"","type":"tmpfs"}"#).is_err());
    }

    #[test]
    fn cve_2019_16884_only_procfs_goes_on_proc() {
        assert!(planned(r#"{"destination":"/proc","type":"tmpfs"}"#).is_err());
        assert!(planned(r#"{"destination":"/proc/../proc/self/attr","type":"tmpfs"}"#).is_err());
        assert!(
            planned(r#"{"destination":"/proc/sys/kernel/core_pattern","source":"/x","options":["bind"]}"#).is_err()
        );
        assert!(planned(r#"{"destination":"/proc/meminfo","source":"/x","options":["bind"]}"#).is_ok());
        assert!(planned(r#"{"destination":"/processes","type":"tmpfs"}"#).is_ok());
    }

    #[test]
    fn parameters_are_what_fsconfig_takes() {
        let json =
            r#"{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","mode=755","newinstance"]}"#;
        let Kind::Filesystem { name, parameters } = planned(json).unwrap().kind else { panic!("a file system") };
        let text: Vec<_> = parameters.iter().map(|p| (p.key.to_str().unwrap(), p.value.is_some())).collect();
        assert_eq!(name.as_c_str(), c"tmpfs");
        assert_eq!(text, [("source", true), ("mode", true), ("newinstance", false)]);
    }
}
