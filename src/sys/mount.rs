//! The mount API of Linux 5.2 and later: `open_tree(2)`, `move_mount(2)`, `fsopen(2)`, `mount_setattr(2)`.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::{descriptor, unit, unless_filtered};

const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_NAMESPACE: libc::c_uint = 2;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSPICK_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSCONFIG_CMD_RECONFIGURE: libc::c_uint = 7;

/// `MOUNT_ATTR_*` of `mount_setattr(2)`.
pub mod attr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    pub const ATIME: u64 = 0x70;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const IDMAP: u64 = 0x0010_0000;
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MountAttr {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear, before those to set.
    pub clear: u64,
    /// `MS_SHARED`, `MS_PRIVATE`, `MS_SLAVE`, `MS_UNBINDABLE`, or 0 to leave it.
    pub propagation: u64,
    /// A descriptor, with `IDMAP`.
    pub user_namespace: u64,
}

/// `UNSHARE_EMPTY_MNTNS` of `unshare(2)`, Linux 7.1: a mount namespace with nothing in it but an empty directory.
pub const UNSHARE_EMPTY: u64 = 0x0010_0000;

/// Whether `UNSHARE_EMPTY` can be asked for, and detached trees of mounts be put together for it: by asking for what came
/// with the same kernel, for no file.
pub fn has_empty_namespaces() -> bool {
    let (none, attributes) = (-1, MountAttr::default());
    // SAFETY: fsmount takes a descriptor and two integers.
    let made = unit(unsafe { libc::syscall(libc::SYS_fsmount, none, FSMOUNT_CLOEXEC | FSMOUNT_NAMESPACE, 0) });
    // A filter may know only some of the calls. This one looks at nothing where nothing is to be changed.
    // SAFETY: an empty C string, and a `struct mount_attr` of that size.
    let set = || unsafe {
        let flags = libc::AT_EMPTY_PATH as libc::c_uint;
        libc::syscall(libc::SYS_mount_setattr, none, c"".as_ptr(), flags, &raw const attributes, size_of::<MountAttr>())
    };
    made == Err(Errno::EBADF) && unit(set()).is_ok()
}

/// A detached clone of the mount at `path` below `directory`; empty for `directory` itself.
pub fn clone_tree(directory: impl AsFd, path: &CStr, recursive: bool) -> nix::Result<OwnedFd> {
    let depth = if recursive { AT_RECURSIVE } else { 0 };
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | depth | libc::AT_EMPTY_PATH as libc::c_uint;
    let call = |directory: libc::c_int, flags: libc::c_uint| {
        // SAFETY: the path is NUL-terminated and outlives the call.
        unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), flags) }
    };
    let directory = directory.as_fd().as_raw_fd();
    unless_filtered(descriptor(call(directory, flags)), || call(directory, libc::c_uint::MAX))
}

/// Opens `path` as a place (`O_PATH`); what an automounter has there is mounted.
pub fn open_place(path: &CStr) -> nix::Result<OwnedFd> {
    let call = |flags: libc::c_uint| {
        // SAFETY: the path is NUL-terminated and outlives the call.
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) }
    };
    unless_filtered(descriptor(call(OPEN_TREE_CLOEXEC)), || call(libc::c_uint::MAX))
}

/// Attaches the detached mount `from` on top of `to`, both by descriptor.
pub fn move_mount(from: impl AsFd, to: impl AsFd) -> nix::Result<()> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty C strings.
    unit(unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) })
}

/// Changes the attributes of the mount whose root is `mount`.
pub fn set_attributes(mount: impl AsFd, recursive: bool, attributes: &MountAttr) -> nix::Result<()> {
    let depth = if recursive { AT_RECURSIVE } else { 0 };
    let flags = libc::AT_EMPTY_PATH as libc::c_uint | depth;
    let (mount, path, size) = (mount.as_fd().as_raw_fd(), c"".as_ptr(), size_of::<MountAttr>());
    let attributes = std::ptr::from_ref(attributes);
    let call = |flags: libc::c_uint| {
        // SAFETY: the attributes are a `struct mount_attr` of the size given.
        unsafe { libc::syscall(libc::SYS_mount_setattr, mount, path, flags, attributes, size) }
    };
    unless_filtered(unit(call(flags)), || call(libc::c_uint::MAX))
}

/// Sets how mounts travel to and from `mount`: `MS_SHARED`, `MS_PRIVATE`, `MS_SLAVE` or `MS_UNBINDABLE`.
pub fn set_propagation(mount: impl AsFd, recursive: bool, propagation: u64) -> nix::Result<()> {
    set_attributes(mount, recursive, &MountAttr { propagation, ..MountAttr::default() })
}

/// Makes `mount` an idmapped mount with the mappings of `user_namespace`.
pub fn set_id_map(mount: impl AsFd, recursive: bool, user_namespace: BorrowedFd<'_>) -> nix::Result<()> {
    let user_namespace = user_namespace.as_raw_fd() as u64;
    set_attributes(mount, recursive, &MountAttr { set: attr::IDMAP, user_namespace, ..MountAttr::default() })
}

/// A file system being configured, fsopen(2). What the kernel says about it can be read back.
pub struct FsContext(OwnedFd);

impl FsContext {
    /// A new context for the file system type `name`.
    pub fn open(name: &CStr) -> nix::Result<Self> {
        let call = |flags: libc::c_uint| {
            // SAFETY: the name is NUL-terminated and outlives the call.
            unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), flags) }
        };
        // Whoever may not mount gets EPERM from the kernel, too; mount(2) will tell.
        unless_filtered(descriptor(call(FSOPEN_CLOEXEC)), || call(libc::c_uint::MAX)).map(Self)
    }

    /// A context for changes of the superblock that is mounted at `path`, `fspick(2)`.
    pub fn pick(path: &CStr) -> nix::Result<Self> {
        // SAFETY: the path is NUL-terminated and outlives the call.
        let file = unsafe { libc::syscall(libc::SYS_fspick, libc::AT_FDCWD, path.as_ptr(), FSPICK_CLOEXEC) };
        descriptor(file).map(Self)
    }

    /// Makes the changes.
    pub fn reconfigure(&self) -> nix::Result<()> {
        self.configure(FSCONFIG_CMD_RECONFIGURE, std::ptr::null(), std::ptr::null())
    }

    /// Sets `key` to `value`, or as a flag where there is no value.
    pub fn set(&self, key: &CStr, value: Option<&CStr>) -> nix::Result<()> {
        match value {
            Some(value) => self.configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr()),
            None => self.configure(FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null()),
        }
    }

    /// Makes the superblock and mounts it, detached, with `attributes` (`MOUNT_ATTR_*`).
    pub fn mount(&self, attributes: u64) -> nix::Result<OwnedFd> {
        self.configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
        // SAFETY: fsmount takes a descriptor and two integers.
        descriptor(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
    }

    /// The kernel's own messages about this context, joined; empty where it said nothing.
    pub fn messages(&self) -> String {
        let mut lines = Vec::new();
        let mut buffer = [0; 512];
        while let Ok(length) = nix::unistd::read(&self.0, &mut buffer) {
            let line = String::from_utf8_lossy(&buffer[..length]);
            // Each message begins with its level: "e ", "w " or "i ".
            lines.push(line.trim().get(2..).unwrap_or_default().to_owned());
            if length == 0 || lines.len() == 8 {
                break;
            }
        }
        lines.join("; ")
    }

    fn configure(
        &self,
        command: libc::c_uint,
        key: *const libc::c_char,
        value: *const libc::c_char,
    ) -> nix::Result<()> {
        // SAFETY: key and value are null or NUL-terminated, as each caller above passes them.
        let result = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) };
        unit(result)
    }
}
