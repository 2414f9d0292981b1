//! The host's side of bind mounts: a detached clone of the source, with everything set that needs the host's
//! privileges, made before the container's process exists.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{fstat, stat};

use super::idmap::{IdMap, user_namespace};
use super::options::Attributes;
use super::{Kind, MountPlan, attach};
use crate::error::{Context, Error, Result, errno_name};
use crate::safepath::identity;
use crate::sys::mount::{self, MountAttr};

/// What a mount needs of the host.
#[derive(Default)]
pub struct Source {
    /// A clone of a bind mount's source; absent where init has to make it itself.
    pub tree: Option<OwnedFd>,
    /// Where the source is, for init.
    pub place: Option<OwnedFd>,
    /// The symbolic link to make, where the source is one that is copied.
    pub link: Option<PathBuf>,
    /// The user namespace that carries the mappings of an idmapped mount.
    pub map: Option<OwnedFd>,
}

/// Opens what the mounts need of the host. Sources are cloned here (`outside`) only where init could not reach them
/// any more; else init clones them in turn, so that mountinfo lists the mounts in config.json's order.
pub fn open_all(mounts: &[MountPlan], outside: bool) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut known: Vec<(&IdMap, OwnedFd)> = Vec::new();
    for mount in mounts {
        let map = mount.id_map.as_ref().map(|map| shared_namespace(&mut known, map)).transpose();
        let map = map.map_err(|error| error.pointer(pointer(mount)))?;
        let link = mount.link();
        let here = link.is_none() && (outside || !matches!(mount.kind, Kind::Bind { .. }));
        let tree = if here { clone_source(mount, map.as_ref()) } else { Ok(None) };
        let tree = tree.map_err(|error| error.pointer(pointer(mount)))?;
        sources.push(Source { tree, place: None, link, map });
    }
    Ok(sources)
}

/// Opens the sources that init is to clone itself, while `/` is the host's: a `..` up to the root leads to what is mounted
/// there, and a tree that begins there has it.
pub fn find_all(mounts: &[MountPlan], sources: &mut [Source]) -> Result<()> {
    let mut to_do = mounts.iter().zip(sources).filter(|(_, source)| source.tree.is_none() && source.link.is_none());
    to_do.try_for_each(|(mount, source)| find(mount, source).map_err(|error| error.pointer(pointer(mount))))
}

fn find(mount: &MountPlan, found: &mut Source) -> Result<()> {
    let Kind::Bind { source, recursive } = &mount.kind else { return Ok(()) };
    match c_path(source).and_then(|path| mount::open_place(&path)) {
        // mount(2) does without; the rootfs is then not attached on the root.
        Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(no_source(source, errno)),
        Ok(place) => {
            let is_root = *recursive && fstat(&place).map(identity).ok() == stat("/").map(identity).ok();
            found.tree = if is_root { clone_source(mount, found.map.as_ref())? } else { None };
            found.place = Some(place);
            Ok(())
        }
    }
}

fn shared_namespace<'a>(known: &mut Vec<(&'a IdMap, OwnedFd)>, map: &'a IdMap) -> Result<OwnedFd> {
    let same = |other: &IdMap| *other == IdMap { recursive: other.recursive, ..map.clone() };
    let namespace = match known.iter().find(|(other, _)| same(other)) {
        Some((_, namespace)) => namespace.try_clone().context(|| "cannot duplicate a descriptor")?,
        None => user_namespace(map)?,
    };
    let copy = namespace.try_clone().context(|| "cannot duplicate a descriptor")?;
    known.push((map, copy));
    Ok(namespace)
}

fn clone_source(mount: &MountPlan, map: Option<&OwnedFd>) -> Result<Option<OwnedFd>> {
    let (source, recursive) = match &mount.kind {
        Kind::Bind { source, recursive } => (source, recursive),
        // Made in the container's user namespace it would belong to that, and could not be mapped.
        Kind::Filesystem { name, parameters } if map.is_some() => {
            let tree = attach::new_file_system(name, parameters, mount)?;
            return tree.map(|tree| configure(&tree, mount, map).map(|()| tree)).transpose();
        }
        _ => return Ok(None),
    };
    match clone_path(source, *recursive) {
        // Without privileges here, init makes the clone in its own namespaces.
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(None),
        Err(errno) => Err(no_source(source, errno)),
        Ok(tree) => match configure(&tree, mount, map) {
            Err(error) if error.os_error() == Some(Errno::ENOSYS) => Ok(None),
            result => result.map(|()| Some(tree)),
        },
    }
}

/// The error for a bind mount whose source cannot be had.
pub fn no_source(source: &Path, errno: Errno) -> Error {
    let error = Error::new("cannot open the source of a bind mount").path(source).errno(errno);
    if errno == Errno::ENOENT { error.hint("create it on the host, or remove the mount") } else { error }
}

/// A detached clone of the mount at a path of the caller's mount namespace.
pub fn clone_path(path: &Path, recursive: bool) -> nix::Result<OwnedFd> {
    mount::clone_tree(AT_FDCWD, &c_path(path)?, recursive)
}

fn c_path(path: &Path) -> nix::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

/// Sets on a detached `tree` what `mount` asks: attributes, propagation, id mapping.
pub fn configure(tree: &OwnedFd, mount: &MountPlan, map: Option<&OwnedFd>) -> Result<()> {
    if let (Some(map), Some(plan)) = (map, &mount.id_map) {
        mount::set_id_map(tree, plan.recursive, map.as_fd()).map_err(|errno| idmap_refused(mount, errno))?;
    }
    for propagation in &mount.propagation {
        mount::set_propagation(tree, propagation.recursive, propagation.flag)
            .on_path("cannot set the propagation of", &mount.destination)?;
    }
    set(tree, mount, mount.attributes, false)?;
    set(tree, mount, mount.recursive_attributes, true)
}

fn set(tree: &OwnedFd, mount: &MountPlan, attributes: Attributes, recursive: bool) -> Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    let change = MountAttr { set: attributes.set, clear: attributes.clear, ..MountAttr::default() };
    mount::set_attributes(tree, recursive, &change).map_err(|errno| {
        let error = Error::new("cannot change the attributes of a mount").path(&mount.destination).errno(errno);
        match errno {
            Errno::EPERM => error.hint(
                "the source's own flags (ro, nosuid, nodev, noexec, atime) are locked here; do not ask to clear them",
            ),
            _ => error,
        }
    })
}

fn idmap_refused(mount: &MountPlan, errno: Errno) -> Error {
    let error = Error::new("cannot make an idmapped mount").path(&mount.destination).errno(errno);
    match errno {
        Errno::EINVAL => error.hint("the source's file system may not support idmapped mounts on this kernel"),
        Errno::EPERM => error.hint(format!(
            "{} here means: the file system belongs to another user namespace, or CAP_SYS_ADMIN is missing",
            errno_name(errno)
        )),
        _ => error,
    }
}

/// Where config.json has the mount.
pub fn pointer(mount: &MountPlan) -> String {
    format!("/mounts/{}", mount.index)
}
