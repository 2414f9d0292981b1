//! mount(2), for kernels before 5.12 or where a filter hides the newer calls. Places are reached through the
//! host's `/proc/self/fd`, so that they are still resolved once, by descriptor.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount as mount2};
use nix::sys::stat::{SFlag, stat};
use nix::sys::statvfs::statvfs;

use super::attach::{find, open};
use super::options::{Propagation, classic_flags, classic_superblock_flag};
use super::{MountPlan, Parameter, copy};
use crate::error::{Context, Error, Result};
use crate::safepath::{Leaf, Places, descriptor_path};

const NONE: Option<&str> = None;
/// mount(2) takes a page of options, and cuts off without a word what is more.
const MOST_DATA: usize = 4095;

/// A bind mount, then its flags in a second call, as mount(2) wants it.
pub fn bind(mount: &MountPlan, source: &Path, recursive: bool, places: &Places) -> Result<OwnedFd> {
    if mount.id_map.is_some() || !mount.recursive_attributes.is_empty() {
        let message = "idmapped mounts and recursive options need mount_setattr(2), Linux 5.12";
        return Err(Error::new(message).path(&mount.destination).errno(Errno::ENOSYS));
    }
    let kind = stat(source).on_path("cannot open the source of a bind mount", source)?.st_mode & SFlag::S_IFMT.bits();
    let leaf = if kind == SFlag::S_IFDIR.bits() { Leaf::Directory } else { Leaf::File };
    let place = find(mount, places, leaf)?;
    let depth = if recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    mount2(Some(source), descriptor_path(&place).as_str(), NONE, MsFlags::MS_BIND | depth, NONE)
        .on_path("cannot bind mount", &mount.destination)?;
    let place = open(mount, places, leaf)?;
    if mount.destination == Path::new("/proc") {
        crate::safepath::Procfs::new(place.try_clone().context(|| "cannot duplicate a descriptor")?)?;
    }
    for propagation in &mount.propagation {
        propagate(&place, *propagation).on_path("cannot set the propagation of", &mount.destination)?;
    }
    if !mount.attributes.is_empty() {
        let cleared = classic_flags(mount.attributes.clear);
        let flags = current_flags(&place) & !cleared | classic_flags(mount.attributes.set);
        remount(&place, flags).on_path("cannot change the attributes of a mount", &mount.destination)?;
    }
    Ok(place)
}

/// A new file system.
pub fn file_system(mount: &MountPlan, name: &CStr, parameters: &[Parameter], places: &Places) -> Result<OwnedFd> {
    let mut source = "none".to_owned();
    let mut data = Vec::new();
    let mut flags = classic_flags(mount.attributes.set);
    for Parameter { key, value } in parameters {
        let key = key.to_string_lossy();
        match value.as_ref().map(|value| value.to_string_lossy()) {
            Some(value) if key == "source" => source = value.into_owned(),
            Some(value) => data.push(format!("{key}={value}")),
            None if key == "ro" || classic_superblock_flag(&key) != 0 => flags |= classic_superblock_flag(&key),
            None if matches!(&*key, "async" | "nomand" | "nolazytime") => {}
            None => data.push(key.into_owned()),
        }
    }
    let data = data.join(",");
    if data.len() > MOST_DATA {
        let message =
            format!("cannot mount `{}`: its options have more than {MOST_DATA} bytes", name.to_string_lossy());
        return Err(Error::new(message).path(&mount.destination));
    }
    let place = find(mount, places, Leaf::Directory)?;
    let flags = MsFlags::from_bits_retain(flags);
    let target = descriptor_path(&place);
    mount2(Some(source.as_str()), target.as_str(), Some(name), flags, Some(data.as_str()))
        .context(|| format!("cannot mount `{}`", name.to_string_lossy()))
        .map_err(|error| error.path(&mount.destination))?;
    let below = place;
    let place = open(mount, places, Leaf::Directory)?;
    if mount.copy_up {
        copy::tree(&below, &place).on_path("cannot copy up into the tmpfs", &mount.destination)?;
    }
    for propagation in &mount.propagation {
        propagate(&place, *propagation).on_path("cannot set the propagation of", &mount.destination)?;
    }
    Ok(place)
}

/// Changes the flags of the mount at `place`.
pub fn remount(place: &OwnedFd, flags: libc::c_ulong) -> nix::Result<()> {
    let flags = MsFlags::from_bits_retain(flags) | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    mount2(NONE, descriptor_path(place).as_str(), NONE, flags, NONE)
}

/// Changes the propagation of the mount at `place`.
pub fn propagate(place: &OwnedFd, propagation: Propagation) -> nix::Result<()> {
    let depth = if propagation.recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    let flags = MsFlags::from_bits_retain(propagation.flag) | depth;
    mount2(NONE, descriptor_path(place).as_str(), NONE, flags, NONE)
}

/// The flags that a mount has now: the kernel keeps those that a remount repeats, and refuses to drop locked ones.
fn current_flags(place: &OwnedFd) -> libc::c_ulong {
    // The first bits of statvfs's flags are those of mount(2); `relatime` is not, and is the default.
    const SAME: libc::c_ulong =
        libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_NOATIME | libc::MS_NODIRATIME;
    statvfs(descriptor_path(place).as_str()).map_or(0, |stat| stat.flags().bits() & SAME)
}
