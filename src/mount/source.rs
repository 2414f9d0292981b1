//! The host's side of bind mounts: a detached clone of the source, with everything set that needs the host's
//! privileges, made before the container's process exists.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;

use super::idmap::{IdMap, user_namespace};
use super::options::Attributes;
use super::{Kind, MountPlan, attach};
use crate::error::{Context, Error, Result, errno_name};
use crate::sys::mount::{self, MountAttr};

/// What the runtime hands to init for the mounts, by their index.
#[derive(Default)]
pub struct Sources {
    /// Clones of bind mounts' sources; absent where init has to make them itself.
    pub trees: Vec<Option<OwnedFd>>,
    /// User namespaces that carry the mappings of idmapped mounts.
    pub maps: Vec<Option<OwnedFd>>,
}

/// Opens what the mounts need of the host. Sources are cloned here (`outside`) only where init could not reach them
/// any more; else init clones them in turn, so that mountinfo lists the mounts in config.json's order.
pub fn open_all(mounts: &[MountPlan], outside: bool) -> Result<Sources> {
    let mut sources = Sources::default();
    let mut known: Vec<(&IdMap, OwnedFd)> = Vec::new();
    for mount in mounts {
        let map = mount.id_map.as_ref().map(|map| shared_namespace(&mut known, map)).transpose();
        let map = map.map_err(|error| error.pointer(pointer(mount)))?;
        let here = outside || !matches!(mount.kind, Kind::Bind { .. });
        let tree = if here { clone_source(mount, map.as_ref()) } else { Ok(None) };
        sources.trees.push(tree.map_err(|error| error.pointer(pointer(mount)))?);
        sources.maps.push(map);
    }
    Ok(sources)
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
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    mount::clone_tree(AT_FDCWD, &path, recursive)
}

/// Sets on a detached `tree` what `mount` asks: attributes, propagation, id mapping.
pub fn configure(tree: &OwnedFd, mount: &MountPlan, map: Option<&OwnedFd>) -> Result<()> {
    if let (Some(map), Some(plan)) = (map, &mount.id_map) {
        mount::set_id_map(tree, plan.recursive, map.as_fd()).map_err(|errno| idmap_refused(mount, errno))?;
    }
    propagate(tree, mount)?;
    set(tree, mount, mount.attributes, false)?;
    set(tree, mount, mount.recursive_attributes, true)
}

/// Sets on a detached `tree` the propagation that `mount` asks for.
pub fn propagate(tree: &OwnedFd, mount: &MountPlan) -> Result<()> {
    mount.propagation.iter().try_for_each(|propagation| {
        let attributes = MountAttr { propagation: propagation.flag, ..MountAttr::default() };
        mount::set_attributes(tree, propagation.recursive, &attributes)
            .on_path("cannot set the propagation of", &mount.destination)
    })
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

fn pointer(mount: &MountPlan) -> String {
    format!("/mounts/{}", mount.index)
}
