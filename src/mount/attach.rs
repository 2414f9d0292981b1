//! Init's side of mounts: each planned mount is made, and attached at its destination inside the rootfs.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::symlinkat;

use super::options::{Attributes, classic_flags};
use super::source::{Source, clone_path, configure, no_source, pointer};
use super::{Kind, MountPlan, Parameter, cgroupfs, classic, copy, inside_proc};
use crate::error::{Context, Error, Result};
use crate::safepath::{Leaf, Places, Procfs, Root, file_type};
use crate::sys;
use crate::sys::mount::{self, FsContext, MountAttr};

/// What was mounted, and what mounting leaves for the steps after it.
pub struct Mounted<'a> {
    pub places: Places<'a>,
    /// The container's own procfs, if one was mounted on /proc.
    pub procfs: Option<Procfs>,
    /// Mounts that are to become read-only when nothing is made in them any more, with their pointers.
    pub read_only: Vec<(String, OwnedFd)>,
}

/// Makes every mount, in the order of config.json.
pub fn all<'a>(
    mounts: &[MountPlan],
    root: &'a Root,
    sources: Vec<Source>,
    cgroups: &cgroupfs::View,
) -> Result<Mounted<'a>> {
    let mut mounted = Mounted { places: Places::new(root), procfs: None, read_only: Vec::new() };
    for (mount, source) in mounts.iter().zip(sources) {
        let made = match mount.kind {
            Kind::Cgroup { .. } => mounted.cgroup(mount, cgroups),
            _ => mounted.make(mount, source),
        };
        made.map_err(|error| error.pointer(pointer(mount)))?;
    }
    Ok(mounted)
}

impl Mounted<'_> {
    fn make(&mut self, mount: &MountPlan, source: Source) -> Result<()> {
        if let Some(target) = source.link {
            return link(mount, &target, &self.places);
        }
        let tree = match &mount.kind {
            Kind::Bind { source: path, recursive } => bind(mount, path, *recursive, &self.places, source)?,
            Kind::Filesystem { name, parameters } => file_system(mount, name, parameters, &self.places, source)?,
            Kind::Remount | Kind::Cgroup { .. } => return remount(mount, &self.places),
        };
        self.keep(mount, &tree).context(|| "cannot duplicate a descriptor")?;
        if mount.destination == Path::new("/proc") && mount.is_plain_procfs() {
            self.procfs = Some(Procfs::new(tree)?);
        }
        Ok(())
    }

    fn keep(&mut self, mount: &MountPlan, tree: &OwnedFd) -> io::Result<()> {
        if mount.is_read_only_late {
            self.read_only.push((pointer(mount), tree.try_clone()?));
        }
        self.places.add(&mount.destination, tree)
    }

    /// The container's cgroups: the first of the ways that the kernel allows here.
    fn cgroup(&mut self, mount: &MountPlan, cgroups: &cgroupfs::View) -> Result<()> {
        for way in cgroupfs::expand(mount, cgroups) {
            match way.iter().try_for_each(|part| self.make(part, Source::default())) {
                // A user namespace without a cgroup namespace may not mount cgroups, but may bind them.
                Err(error) if matches!(error.os_error(), Some(Errno::EPERM | Errno::EBUSY)) => {}
                result => return result.and_then(|()| cgroupfs::link(mount, &self.places, cgroups)),
            }
        }
        Err(Error::new("cannot mount the container's cgroups").path(&mount.destination).errno(Errno::EPERM))
    }
}

/// Makes the symbolic link that the source is (`copy-symlink`).
fn link(mount: &MountPlan, target: &Path, places: &Places) -> Result<()> {
    let path = &mount.destination;
    let (parent, name) = (path.parent().unwrap_or(Path::new("/")), path.file_name().unwrap_or_default());
    let parent = places.open_or_create(parent, Leaf::Directory).on_path("cannot reach the place of a link", path)?;
    match symlinkat(target, &parent, name) {
        Err(Errno::EEXIST) if readlinkat(&parent, name).is_ok_and(|found| found == target.as_os_str()) => Ok(()),
        result => result.on_path("cannot copy a symbolic link to", path),
    }
}

/// Attaches the clone that the runtime made, or one made here where it lacked the privileges.
fn bind(mount: &MountPlan, path: &Path, recursive: bool, places: &Places, source: Source) -> Result<OwnedFd> {
    let tree = match source.tree {
        Some(tree) => tree,
        None => match clone_here(path, source.place.as_ref(), recursive)? {
            Some(tree) => match configure(&tree, mount, source.map.as_ref()) {
                // Before Linux 5.12 a detached tree cannot be changed.
                Err(error) if error.os_error() == Some(Errno::ENOSYS) => {
                    return classic::bind(mount, path, recursive, places);
                }
                result => result.map(|()| tree)?,
            },
            None => return classic::bind(mount, path, recursive, places),
        },
    };
    verify_proc(mount, &tree)?;
    attach(&tree, mount, places).map(|()| tree)
}

/// Clones a source in init's own namespaces; nothing where the kernel has no open_tree.
fn clone_here(path: &Path, place: Option<&OwnedFd>, recursive: bool) -> Result<Option<OwnedFd>> {
    match place.map_or_else(|| clone_path(path, recursive), |place| mount::clone_tree(place, c"", recursive)) {
        Ok(tree) => Ok(Some(tree)),
        Err(Errno::ENOSYS) => Ok(None),
        Err(errno) => Err(no_source(path, errno)),
    }
}

fn file_system(
    mount: &MountPlan,
    name: &CStr,
    parameters: &[Parameter],
    places: &Places,
    source: Source,
) -> Result<OwnedFd> {
    let parameters = &with_mode(name, parameters, mount, places)?;
    let made = match source.tree {
        // An idmapped one is made by the runtime.
        Some(tree) => Some(tree),
        None if mount.is_made_in_place() => None,
        None => new_file_system(name, parameters, mount)?,
    };
    let Some(tree) = made else { return classic::file_system(mount, name, parameters, places) };
    if let Some(below) = mount.copy_up.then(|| places.open(&mount.destination).ok()).flatten() {
        copy::tree(&below, &tree).on_path("cannot copy up into the tmpfs", &mount.destination)?;
    }
    attach(&tree, mount, places).map(|()| tree)
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
    context.mount(mount.attributes.set).map(Some).map_err(|errno| refused(&context, mount, &what, errno))
}

/// A tmpfs that is given no mode takes that of the directory it covers, as runc and crun have it: the kernel's own
/// default would open a private directory to everybody.
fn with_mode<'a>(
    name: &CStr,
    parameters: &'a [Parameter],
    mount: &MountPlan,
    places: &Places,
) -> Result<Cow<'a, [Parameter]>> {
    if name != c"tmpfs" || parameters.iter().any(|parameter| parameter.key.as_c_str() == c"mode") {
        return Ok(parameters.into());
    }
    let Ok(below) = places.open(&mount.destination) else { return Ok(parameters.into()) };
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
pub fn attach(tree: &OwnedFd, mount: &MountPlan, places: &Places) -> Result<()> {
    let place = destination(tree, mount, places)?;
    mount::move_mount(tree, &place).on_path("cannot attach a mount", &mount.destination)?;
    if matches!(mount.kind, Kind::Filesystem { .. } | Kind::Cgroup { .. }) {
        // Not before: it has become shared if what it is attached to is.
        set_propagation(tree, mount)?;
    }
    Ok(())
}

/// The place for a tree: a directory for a directory, a file for anything else.
fn destination(tree: &OwnedFd, mount: &MountPlan, places: &Places) -> Result<OwnedFd> {
    if matches!(mount.kind, Kind::Filesystem { .. }) {
        return find(mount, places, Leaf::Directory);
    }
    let stat = fstat(tree).context(|| "cannot look at the source of a mount")?;
    let leaf = if file_type(&stat) == SFlag::S_IFDIR { Leaf::Directory } else { Leaf::File };
    find(mount, places, leaf)
}

/// Resolves a mount's destination, making it as `leaf` if it does not exist; before it is mounted there.
pub fn find(mount: &MountPlan, places: &Places, leaf: Leaf) -> Result<OwnedFd> {
    let path = &mount.destination;
    let place = open(mount, places, leaf)?;
    // A link of the image may lead there.
    match places.mounted_on(Path::new("/proc")) {
        Some(procfs) if !path.starts_with("/proc") && is_on_same(&place, procfs)? => Err(inside_proc(path)),
        _ => Ok(place),
    }
}

/// Opens a mount's destination, with what is mounted there.
pub fn open(mount: &MountPlan, places: &Places, leaf: Leaf) -> Result<OwnedFd> {
    let path = &mount.destination;
    places.open_or_create(path, leaf).map_err(|errno| {
        let error = Error::new("cannot reach the destination of a mount").path(path).errno(errno);
        match errno {
            Errno::ELOOP => error.hint("there is a symbolic link, which is not followed in /proc, /sys and /dev"),
            Errno::EROFS => error.hint("the mount point does not exist, and its file system is read-only"),
            _ => error,
        }
    })
}

fn is_on_same(place: &OwnedFd, file_system: &Root) -> Result<bool> {
    let device = |file: &dyn AsFd| fstat(file.as_fd()).map(|stat| stat.st_dev);
    let devices = device(place).and_then(|place| Ok((place, device(file_system)?)));
    devices.map(|(place, other)| place == other).context(|| "cannot look at the destination of a mount")
}

fn set_propagation(tree: &OwnedFd, mount: &MountPlan) -> Result<()> {
    for propagation in &mount.propagation {
        match mount::set_propagation(tree, propagation.recursive, propagation.flag) {
            // Before Linux 5.12; and of a detached tree it changes only the top.
            Err(Errno::ENOSYS | Errno::EINVAL) => classic::propagate(tree, *propagation),
            result => result,
        }
        .on_path("cannot set the propagation of", &mount.destination)?;
    }
    Ok(())
}

/// `remount`: new attributes for the mount that is at the destination.
fn remount(mount: &MountPlan, places: &Places) -> Result<()> {
    let place = places.open(&mount.destination).on_path("cannot open what is to be remounted", &mount.destination)?;
    let Attributes { set, clear } = mount.attributes;
    match mount::set_attributes(&place, false, &MountAttr { set, clear, ..MountAttr::default() }) {
        Err(Errno::ENOSYS) => classic::remount(&place, classic_flags(set)),
        result => result,
    }
    .on_path("cannot remount", &mount.destination)
}
