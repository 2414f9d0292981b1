//! Init's side of mounts: each planned mount is made, and attached at its destination inside the rootfs.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};

use super::options::{Attributes, classic_flags};
use super::source::{Source, clone_path, configure, no_source};
use super::{Kind, MountPlan, Parameter, cgroupfs, classic};
use crate::error::{Context, Error, Result};
use crate::safepath::{Leaf, Procfs, Root, file_type};
use crate::sys;
use crate::sys::mount::{self, FsContext, MountAttr, attr};

/// What mounting leaves for the steps after it.
#[derive(Default)]
pub struct Mounted {
    /// The container's own procfs, if one was mounted on /proc.
    pub procfs: Option<Procfs>,
    /// What was mounted on /proc and /sys, with these paths, in the order in which it was.
    pub reserved: Vec<(PathBuf, Root)>,
}

impl Mounted {
    fn add(&mut self, mount: &MountPlan, tree: OwnedFd) -> Result<()> {
        let is_at = |path: &str| mount.destination == Path::new(path);
        if is_at("/proc") && mount.is_plain_procfs() {
            self.procfs = Some(Procfs::new(tree.try_clone().context(|| "cannot duplicate a descriptor")?)?);
        }
        if is_at("/proc") || is_at("/sys") {
            self.reserved.push((mount.destination.clone(), Root::new(tree)));
        }
        Ok(())
    }
}

/// Makes every mount, in the order of config.json.
pub fn all(mounts: &[MountPlan], root: &Root, sources: Vec<Source>, cgroups: &cgroupfs::View) -> Result<Mounted> {
    let mut mounted = Mounted::default();
    for (mount, source) in mounts.iter().zip(sources) {
        one(mount, root, source, cgroups)
            .and_then(|tree| tree.map_or(Ok(()), |tree| mounted.add(mount, tree)))
            .map_err(|error| error.pointer(format!("/mounts/{}", mount.index)))?;
    }
    Ok(mounted)
}

/// The mount itself, where it could be made detached.
fn one(mount: &MountPlan, root: &Root, source: Source, cgroups: &cgroupfs::View) -> Result<Option<OwnedFd>> {
    match &mount.kind {
        Kind::Bind { source: path, recursive } => bind(mount, path, *recursive, root, source),
        Kind::Filesystem { name, parameters } => {
            let parameters = &with_mode(name, parameters, mount, root)?;
            // An idmapped one is made by the runtime.
            let made = if source.tree.is_some() { source.tree } else { new_file_system(name, parameters, mount)? };
            let Some(tree) = made else { return classic::file_system(mount, name, parameters, root).map(|()| None) };
            if mount.copy_up {
                copy_up(&tree, mount, root)?;
            }
            attach(&tree, mount, root).map(|()| Some(tree))
        }
        Kind::Cgroup { .. } => cgroup(mount, root, cgroups).map(|()| None),
        Kind::Remount => remount(mount, root).map(|()| None),
    }
}

/// Attaches the clone that the runtime made, or one made here where it lacked the privileges.
fn bind(mount: &MountPlan, path: &Path, recursive: bool, root: &Root, source: Source) -> Result<Option<OwnedFd>> {
    let tree = match source.tree {
        Some(tree) => tree,
        None => match clone_here(path, source.place.as_ref(), recursive)? {
            Some(tree) => match configure(&tree, mount, source.map.as_ref()) {
                // Before Linux 5.12 a detached tree cannot be changed.
                Err(error) if error.os_error() == Some(Errno::ENOSYS) => {
                    return classic::bind(mount, path, recursive, root).map(|()| None);
                }
                result => result.map(|()| tree)?,
            },
            None => return classic::bind(mount, path, recursive, root).map(|()| None),
        },
    };
    verify_proc(mount, &tree)?;
    attach(&tree, mount, root).map(|()| Some(tree))
}

/// Clones a source in init's own namespaces; nothing where the kernel has no open_tree.
fn clone_here(path: &Path, place: Option<&OwnedFd>, recursive: bool) -> Result<Option<OwnedFd>> {
    match place.map_or_else(|| clone_path(path, recursive), |place| mount::clone_tree(place, c"", recursive)) {
        Ok(tree) => Ok(Some(tree)),
        Err(Errno::ENOSYS) => Ok(None),
        Err(errno) => Err(no_source(path, errno)),
    }
}

fn verify_proc(mount: &MountPlan, tree: &OwnedFd) -> Result<()> {
    if mount.destination != Path::new("/proc") {
        return Ok(());
    }
    let magic = sys::fs::file_system_magic(tree).on_path("cannot look at", &mount.destination)?;
    if magic == sys::fs::PROC_SUPER_MAGIC {
        return Ok(());
    }
    Err(Error::new("not procfs: only procfs may be mounted on /proc").path(&mount.destination))
}

/// A new detached file system; nothing where the kernel has no fsopen.
pub fn new_file_system(name: &CStr, parameters: &[Parameter], mount: &MountPlan) -> Result<Option<OwnedFd>> {
    let what = name.to_string_lossy();
    let context = match FsContext::open(name) {
        Err(Errno::ENOSYS) => return Ok(None),
        Err(Errno::ENODEV) => {
            return Err(Error::new(format!("this kernel has no file system `{what}`")).errno(Errno::ENODEV));
        }
        result => result.context(|| format!("cannot open the file system `{what}`"))?,
    };
    for parameter in parameters {
        match context.set(&parameter.key, parameter.value.as_deref()) {
            // mount(2) took these two as flags that most file systems do not look at.
            Err(Errno::EINVAL) if matches!(parameter.key.to_bytes(), b"iversion" | b"mand") => {}
            result => result.map_err(|errno| refused(&context, mount, &what, errno))?,
        }
    }
    let attributes = Attributes { set: mount.attributes.set, clear: 0 };
    let late = if mount.copy_up { attr::RDONLY } else { 0 };
    context.mount(attributes.set & !late).map(Some).map_err(|errno| refused(&context, mount, &what, errno))
}

/// A tmpfs that is given no mode takes that of the directory it covers, as runc and crun have it: the kernel's own
/// default would open a private directory to everybody.
fn with_mode<'a>(
    name: &CStr,
    parameters: &'a [Parameter],
    mount: &MountPlan,
    root: &Root,
) -> Result<Cow<'a, [Parameter]>> {
    if name != c"tmpfs" || parameters.iter().any(|parameter| parameter.key.as_c_str() == c"mode") {
        return Ok(parameters.into());
    }
    let Ok(below) = root.open(&mount.destination) else { return Ok(parameters.into()) };
    let mode = fstat(&below).on_path("cannot look at", &mount.destination)?.st_mode & 0o7777;
    let value = CString::new(format!("{mode:o}")).ok();
    Ok([parameters, &[Parameter { key: c"mode".into(), value }]].concat().into())
}

/// What the kernel itself says about a mount that it refuses.
fn refused(context: &FsContext, mount: &MountPlan, what: &str, errno: Errno) -> Error {
    let messages = context.messages();
    let told = if messages.is_empty() { String::new() } else { format!(" (the kernel says: {messages})") };
    let error = Error::new(format!("cannot mount `{what}`{told}")).path(&mount.destination).errno(errno);
    match (what, errno) {
        ("proc" | "sysfs", Errno::EPERM) => error.hint(
            "a user namespace may mount this only with a pid (proc) or network (sysfs) namespace of its own, \
             and where the host's own one is not partly covered",
        ),
        _ => error,
    }
}

/// Attaches `tree` at the mount's destination, which is made if it does not exist.
pub fn attach(tree: &OwnedFd, mount: &MountPlan, root: &Root) -> Result<()> {
    let place = destination(tree, mount, root)?;
    mount::move_mount(tree, &place).on_path("cannot attach a mount", &mount.destination)?;
    if matches!(mount.kind, Kind::Filesystem { .. } | Kind::Cgroup { .. }) {
        // Not before: it has become shared if what it is attached to is.
        set_propagation(tree, mount)?;
    }
    Ok(())
}

/// The place for a tree: a directory for a directory, a file for anything else.
pub fn destination(tree: &OwnedFd, mount: &MountPlan, root: &Root) -> Result<OwnedFd> {
    if matches!(mount.kind, Kind::Filesystem { .. }) {
        return find(mount, root, Leaf::Directory);
    }
    let stat = fstat(tree).context(|| "cannot look at the source of a mount")?;
    let leaf = if file_type(&stat) == SFlag::S_IFDIR { Leaf::Directory } else { Leaf::File };
    find(mount, root, leaf)
}

/// Resolves a mount's destination, making it as `leaf` if it does not exist.
pub fn find(mount: &MountPlan, root: &Root, leaf: Leaf) -> Result<OwnedFd> {
    let path = &mount.destination;
    let place = if is_reserved(path) { root.open_or_create_plain(path, leaf) } else { root.open_or_create(path, leaf) };
    place.map_err(|errno| {
        let error = Error::new("cannot reach the destination of a mount").path(path).errno(errno);
        match errno {
            Errno::ELOOP => error.hint("the image has a symbolic link there, which is not followed"),
            Errno::EROFS => error.hint("the mount point does not exist, and the rootfs is read-only on the host"),
            _ => error,
        }
    })
}

/// Places that kelson or the kernel relies on: an image's symbolic link must not lead a mount for them elsewhere
/// (CVE-2019-19921, CVE-2023-27561, CVE-2026-41579).
fn is_reserved(path: &Path) -> bool {
    ["/proc", "/sys", "/dev"].iter().any(|reserved| path.starts_with(reserved))
}

fn set_propagation(tree: &OwnedFd, mount: &MountPlan) -> Result<()> {
    for propagation in &mount.propagation {
        let attributes = MountAttr { propagation: propagation.flag, ..MountAttr::default() };
        match mount::set_attributes(tree, propagation.recursive, &attributes) {
            // Before Linux 5.12; and of a detached tree it changes only the top.
            Err(Errno::ENOSYS | Errno::EINVAL) => classic::propagate(tree, *propagation),
            result => result,
        }
        .on_path("cannot set the propagation of", &mount.destination)?;
    }
    Ok(())
}

/// The container's cgroups: the first of the ways that the kernel allows here.
fn cgroup(mount: &MountPlan, root: &Root, cgroups: &cgroupfs::View) -> Result<()> {
    let expansion = cgroupfs::expand(mount, cgroups);
    for way in &expansion.ways {
        match each(way, root, cgroups) {
            // A user namespace without a cgroup namespace may not mount cgroups, but may bind them.
            Err(error) if matches!(error.os_error(), Some(Errno::EPERM | Errno::EBUSY)) => {}
            result => {
                result?;
                cgroupfs::link(mount, root, cgroups)?;
                return each(&expansion.last, root, cgroups);
            }
        }
    }
    Err(Error::new("cannot mount the container's cgroups").path(&mount.destination).errno(Errno::EPERM))
}

fn each(mounts: &[MountPlan], root: &Root, cgroups: &cgroupfs::View) -> Result<()> {
    mounts.iter().try_for_each(|mount| one(mount, root, Source::default(), cgroups).map(drop))
}

/// `remount`: new attributes for the mount that is at the destination.
fn remount(mount: &MountPlan, root: &Root) -> Result<()> {
    let place = root.open(&mount.destination).on_path("cannot open what is to be remounted", &mount.destination)?;
    let Attributes { set, clear } = mount.attributes;
    match mount::set_attributes(&place, false, &MountAttr { set, clear, ..MountAttr::default() }) {
        Err(Errno::ENOSYS) => classic::remount(&place, classic_flags(set)),
        result => result,
    }
    .on_path("cannot remount", &mount.destination)
}

/// Copies what the rootfs has at the destination into a new tmpfs (`tmpcopyup`).
fn copy_up(tree: &OwnedFd, mount: &MountPlan, root: &Root) -> Result<()> {
    if let Ok(below) = root.open_with(&mount.destination, nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY)
    {
        super::copy::tree(&below, tree.as_fd()).on_path("cannot copy up into the tmpfs", &mount.destination)?;
    }
    if mount.attributes.set & attr::RDONLY != 0 {
        let read_only = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
        mount::set_attributes(tree, false, &read_only).on_path("cannot make read-only", &mount.destination)?;
    }
    Ok(())
}
