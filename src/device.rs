//! Device nodes: the defaults of config-linux.md, those of `linux.devices`, and the links beside them.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, makedev, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};

use crate::error::{Context, Error, Result};
use crate::safepath::{Leaf, Root, exists_at, file_type};
use crate::spec::Device;
use crate::sys::fs::change_mode;
use crate::sys::mount;

/// One device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    pub path: PathBuf,
    pub kind: SFlag,
    pub major: u64,
    pub minor: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Its JSON pointer; empty for a default device.
    pub pointer: String,
}

/// config-linux.md, "Default Devices": path, major, minor.
const DEFAULTS: &[(&str, u64, u64)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// What the kernel has room for in the number of a device: 12 and 20 bits.
const MAX_MAJOR: u64 = (1 << 12) - 1;
const MAX_MINOR: u64 = (1 << 20) - 1;

/// Links that programs expect in /dev, and where they lead.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// The devices of config.json and the defaults that it does not name itself.
pub fn plan(devices: &[Device]) -> Result<Vec<DevicePlan>> {
    let own: Vec<_> = devices.iter().enumerate().map(|(index, device)| one(index, device)).collect::<Result<_>>()?;
    let missing = DEFAULTS.iter().filter(|(path, ..)| !own.iter().any(|device| device.path == Path::new(path)));
    let defaults = missing.map(|(path, major, minor)| DevicePlan {
        path: path.into(),
        kind: SFlag::S_IFCHR,
        major: *major,
        minor: *minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
        pointer: String::new(),
    });
    Ok(defaults.chain(own.iter().cloned()).collect())
}

fn one(index: usize, device: &Device) -> Result<DevicePlan> {
    let pointer = format!("/linux/devices/{index}");
    let wrong = |field: &str, message: String| Err(Error::new(message).pointer(format!("{pointer}/{field}")));
    if !device.path.is_absolute() || device.path.file_name().is_none() {
        return wrong("path", format!("a device needs an absolute path, not {}", device.path.display()));
    }
    let kind = match device.kind.as_str() {
        "c" | "u" => SFlag::S_IFCHR,
        "b" => SFlag::S_IFBLK,
        "p" => SFlag::S_IFIFO,
        other => return wrong("type", format!("a device's type is c, u, b or p, not {other:?}")),
    };
    // The kernel cuts off what it has no room for, and makes another device.
    let number = |field: &str, value: i64, most: u64| match u64::try_from(value) {
        _ if kind == SFlag::S_IFIFO => Ok(0),
        Ok(number) if number <= most => Ok(number),
        _ => Err(Error::new(format!("{field} is a number from 0 to {most}, not {value}"))
            .pointer(format!("{pointer}/{field}"))),
    };
    Ok(DevicePlan {
        path: device.path.clone(),
        kind,
        major: number("major", device.major, MAX_MAJOR)?,
        minor: number("minor", device.minor, MAX_MINOR)?,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
        pointer: pointer.clone(),
    })
}

/// Makes every device; where the kernel does not let a user namespace make nodes, the host's are bound.
pub fn create(devices: &[DevicePlan], root: &Root, user_namespace: bool) -> Result<()> {
    let is_ptmx = |device: &DevicePlan| device.path == Path::new("/dev/ptmx");
    // What `link` puts there: what a user namespace has bound it could not take away.
    let is_linked = devices.iter().any(is_ptmx) && root.open(Path::new("/dev/pts/ptmx")).is_ok();
    for neighbours in devices.chunk_by(|one, next| one.path.parent() == next.path.parent()) {
        let placed = |device: &DevicePlan, error: Error| error.path(&device.path).pointer(&*device.pointer);
        let directory = directory(&neighbours[0].path, root).map_err(|error| placed(&neighbours[0], error))?;
        for device in neighbours.iter().filter(|device| !(is_linked && is_ptmx(device))) {
            one_node(device, &directory, root, user_namespace).map_err(|error| placed(device, error))?;
        }
    }
    Ok(())
}

fn one_node(device: &DevicePlan, directory: &OwnedFd, root: &Root, user_namespace: bool) -> Result<()> {
    let name = device.path.file_name().ok_or_else(|| Error::new("a device needs a name"))?;
    if user_namespace && device.kind != SFlag::S_IFIFO {
        return bind_from_host(device, root);
    }
    let mode = Mode::from_bits_truncate(device.mode);
    match mknodat(directory, name, device.kind, mode, makedev(device.major, device.minor)) {
        Ok(()) => own(device, directory, name),
        Err(Errno::EEXIST) => check_existing(device, directory, name),
        Err(Errno::EPERM) => bind_from_host(device, root),
        Err(errno) => Err(Error::new("cannot make a device").errno(errno)),
    }
}

/// The directory of a device, which no symbolic link of the image may lead elsewhere (CVE-2026-41579).
fn directory(path: &Path, root: &Root) -> Result<OwnedFd> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let opened = if directory.starts_with("/dev") {
        root.open_or_create_plain(directory, Leaf::Directory)
    } else {
        root.open_or_create(directory, Leaf::Directory)
    };
    opened.context(|| "cannot open the directory of a device")
}

/// Sets what mknod(2) does not, of the very node: by its name it may be another file by now.
fn own(device: &DevicePlan, directory: &OwnedFd, name: &OsStr) -> Result<()> {
    if device.uid == 0 && device.gid == 0 && device.mode & 0o6000 == 0 {
        return Ok(());
    }
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let node = openat(directory, name, flags, Mode::empty()).context(|| "cannot open a device that was made")?;
    check(device, fstat(&node))?;
    let owner = (Some(Uid::from_raw(device.uid)), Some(Gid::from_raw(device.gid)));
    fchownat(&node, "", owner.0, owner.1, AtFlags::AT_EMPTY_PATH).context(|| "cannot give a device to its owner")?;
    // The umask is 0 here, but changing the owner clears set-id bits.
    if device.mode & 0o6000 != 0 {
        change_mode(&node, device.mode).context(|| "cannot set a device's mode")?;
    }
    Ok(())
}

/// "If a file already exists at path that does not match the requested device, the runtime MUST generate an error."
fn check_existing(device: &DevicePlan, directory: &OwnedFd, name: &OsStr) -> Result<()> {
    check(device, fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW))
}

fn check(device: &DevicePlan, found: nix::Result<FileStat>) -> Result<()> {
    let stat = found.context(|| "cannot look at")?;
    let numbered = device.kind != SFlag::S_IFIFO;
    if file_type(&stat) == device.kind && (!numbered || stat.st_rdev == makedev(device.major, device.minor)) {
        return Ok(());
    }
    Err(Error::new("another file is where a device belongs").errno(Errno::EEXIST))
}

fn bind_from_host(device: &DevicePlan, root: &Root) -> Result<()> {
    let path = CString::new(device.path.as_os_str().as_bytes()).map_err(|_| Error::new("a path holds a NUL byte"))?;
    let place = root.open_or_create_plain(&device.path, Leaf::File).context(|| "cannot make a place for a device")?;
    match mount::clone_tree(AT_FDCWD, &path, false) {
        Ok(tree) => cut_off(&tree).and_then(|()| mount::move_mount(&tree, &place)),
        Err(Errno::ENOSYS) => {
            let target = crate::safepath::descriptor_path(&place);
            let none: Option<&str> = None;
            nix::mount::mount(Some(&device.path), target.as_str(), none, nix::mount::MsFlags::MS_BIND, none)
        }
        Err(errno) => Err(errno),
    }
    .context(|| "cannot bind a device of the host, which a user namespace may not make itself")
}

/// What the container mounts over a device must not cover the host's.
fn cut_off(tree: &OwnedFd) -> nix::Result<()> {
    match mount::set_propagation(tree, false, libc::MS_PRIVATE) {
        // Before Linux 5.12, where the whole mount namespace is cut off.
        Err(Errno::ENOSYS) => Ok(()),
        result => result,
    }
}

/// Makes the links in /dev: `fd` and its like where /proc has them, and `ptmx` to the container's own devpts.
pub fn link(root: &Root) -> Result<()> {
    let directory = root
        .open_or_create_plain(Path::new("/dev"), Leaf::Directory)
        .on_path("cannot open the directory of devices", "/dev")?;
    for (name, target) in LINKS {
        make_link(&directory, name, target)?;
    }
    if root.open(Path::new("/proc/kcore")).is_ok() {
        make_link(&directory, "core", "/proc/kcore")?;
    }
    if exists_at(&directory, OsStr::new("pts/ptmx")) {
        replace_link(&directory, "ptmx", "pts/ptmx")?;
    }
    Ok(())
}

fn make_link(directory: impl AsFd, name: &str, target: &str) -> Result<()> {
    match symlinkat(target, directory, name) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(Error::new("cannot make a link").path(Path::new("/dev").join(name)).errno(errno)),
    }
}

/// The image's own `/dev/ptmx` would be the host's multiplexer, or a trap.
fn replace_link(directory: &OwnedFd, name: &str, target: &str) -> Result<()> {
    if readlinkat(directory, name).is_ok_and(|found| found.as_os_str() == target) {
        return Ok(());
    }
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => make_link(directory, name, target),
        Err(errno) => Err(Error::new("cannot replace").path(Path::new("/dev").join(name)).errno(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(kind: &str) -> Device {
        Device { path: "/dev/x".into(), kind: kind.into(), major: 1, minor: 2, ..Device::default() }
    }

    #[test]
    fn a_configured_device_replaces_the_default() {
        let mut null = device("c");
        null.path = "/dev/null".into();
        null.file_mode = Some(0o600);
        let plan = plan(&[null]).unwrap();
        let nulls: Vec<_> = plan.iter().filter(|device| device.path == Path::new("/dev/null")).collect();
        assert_eq!(plan.len(), DEFAULTS.len());
        assert_eq!((nulls.len(), nulls[0].mode), (1, 0o600));
    }

    #[test]
    fn impossible_devices_are_refused() {
        assert!(plan(&[device("")]).is_err());
        assert!(plan(&[Device { path: "dev/x".into(), ..device("c") }]).is_err());
        for (major, minor) in [(-1, 0), (0, -1), (4096, 0), (0, 1 << 20), (i64::MAX, 0)] {
            assert!(plan(&[Device { major, minor, ..device("c") }]).is_err(), "{major}:{minor}");
            assert!(plan(&[Device { major, minor, ..device("p") }]).is_ok(), "a FIFO has no number");
        }
        assert!(plan(&[Device { major: 4095, minor: (1 << 20) - 1, ..device("b") }]).is_ok());
        assert!(plan(&[device("u"), device("b"), device("p")]).is_ok());
    }
}
