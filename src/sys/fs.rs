//! Files: `statfs` magic numbers that libc for musl lacks, `memfd` sealing, and the like.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, openat, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};

use super::{descriptor, unit, unless_filtered};

/// `PROC_SUPER_MAGIC`, statfs(2).
pub const PROC_SUPER_MAGIC: i64 = 0x9fa0;
/// `CGROUP2_SUPER_MAGIC`, statfs(2).
pub const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
/// `CGROUP_SUPER_MAGIC`, statfs(2).
pub const CGROUP_SUPER_MAGIC: i64 = 0x0027_e0eb;

/// The magic number of the file system that holds `file`, statfs(2).
pub fn file_system_magic(file: impl AsFd) -> nix::Result<i64> {
    let mut statfs = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the buffer has the size of a statfs and is read only after success.
    unsafe {
        unit(libc::fstatfs(file.as_fd().as_raw_fd(), statfs.as_mut_ptr()).into())?;
        Ok(statfs.assume_init().f_type as i64)
    }
}

/// The magic number of the file system that is at `path`, statfs(2).
pub fn magic_at(path: &Path) -> nix::Result<i64> {
    let mut statfs = std::mem::MaybeUninit::<libc::statfs>::uninit();
    path.with_nix_path(|path| {
        // SAFETY: the path is NUL-terminated, and the buffer has the size of a statfs and is read only after success.
        unsafe {
            unit(libc::statfs(path.as_ptr(), statfs.as_mut_ptr()).into())?;
            Ok(statfs.assume_init().f_type as i64)
        }
    })?
}

/// Opens `path` close-on-exec: what openat(2) does in one call, musl's open takes two for.
pub fn open<P: NixPath + ?Sized>(path: &P, flags: OFlag) -> nix::Result<OwnedFd> {
    openat(AT_FDCWD, path, flags | OFlag::O_CLOEXEC, Mode::empty())
}

/// The text of a short file of the kernel's: in one read(2), as those come.
pub fn read_short<P: NixPath + ?Sized>(path: &P) -> nix::Result<String> {
    let mut bytes = [0; 1024];
    let length = nix::unistd::read(open(path, OFlag::O_RDONLY)?, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// The absolute path of what is at `path`, without symbolic links: `realpath(3)`, without its allocations.
pub fn canonical(path: &Path) -> nix::Result<PathBuf> {
    let place = open(path, OFlag::O_PATH)?;
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    readlinkat(AT_FDCWD, link.as_str()).map(PathBuf::from)
}

/// The whole of a small file, such as those of procfs, whose sizes are not known before.
pub fn read<P: NixPath + ?Sized>(path: &P) -> nix::Result<Vec<u8>> {
    read_at(AT_FDCWD, path)
}

/// The same, of a path below a directory.
pub fn read_at<P: NixPath + ?Sized>(directory: impl AsFd, path: &P) -> nix::Result<Vec<u8>> {
    let file = openat(directory, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    loop {
        match nix::unistd::read(&file, &mut part) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend_from_slice(&part[..length]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// `openat2(2)`; ENOSYS also where a filter refuses the call whatever it is for.
pub fn openat2<P: ?Sized + NixPath>(directory: impl AsFd, path: &P, how: OpenHow) -> nix::Result<OwnedFd> {
    unless_filtered(nix::fcntl::openat2(directory, path, how), || {
        // SAFETY: a size of 0 is invalid, and nothing is read.
        unsafe { libc::syscall(libc::SYS_openat2, -1, c"".as_ptr(), std::ptr::null::<libc::c_void>(), 0) }
    })
}

/// Changes the mode of what `place` (an `O_PATH` descriptor) refers to, fchmodat2(2); before Linux 6.6 by procfs.
pub fn change_mode(place: impl AsFd, mode: u32) -> nix::Result<()> {
    const FCHMODAT2: libc::c_long = 452;
    let number = place.as_fd().as_raw_fd();
    // SAFETY: the path is NUL-terminated, and nothing else is read.
    match unit(unsafe { libc::syscall(FCHMODAT2, number, c"".as_ptr(), mode, libc::AT_EMPTY_PATH) }) {
        Err(Errno::ENOSYS) => {
            let mode = Mode::from_bits_truncate(mode);
            fchmodat(AT_FDCWD, format!("/proc/self/fd/{number}").as_str(), mode, FchmodatFlags::FollowSymlink)
        }
        result => result,
    }
}

/// An anonymous file that can be sealed, `memfd_create(2)`; executable where the kernel asks to be told.
pub fn memfd(name: &CStr) -> nix::Result<OwnedFd> {
    const MFD_EXEC: u32 = 0x10;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let create = |flags: u32| {
        // SAFETY: the name is NUL-terminated and outlives the call.
        descriptor(unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) })
    };
    match create(flags | MFD_EXEC) {
        Err(Errno::EINVAL) => create(flags),
        result => result,
    }
}

/// `TIOCGPTPEER`, `ioctl_tty(2)`: the peer of a pty without going through a path (CVE-2025-52565).
pub fn pty_peer(master: impl AsFd) -> nix::Result<OwnedFd> {
    const TIOCGPTPEER: libc::Ioctl = 0x5441;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and returns a new descriptor.
    descriptor(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), TIOCGPTPEER, flags) }.into())
}

/// `TIOCSCTTY`, `ioctl_tty(2)`: makes `terminal` the controlling terminal of the calling session leader.
pub fn set_controlling_terminal(terminal: impl AsFd) -> nix::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer by value.
    unit(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY as libc::Ioctl, 0) }.into())
}

/// The size of a terminal in rows and columns, `TIOCGWINSZ`.
pub fn window_size(terminal: impl AsFd) -> nix::Result<(u16, u16)> {
    // SAFETY: winsize is plain data, and TIOCGWINSZ fills it.
    unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        unit(libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ as libc::Ioctl, &raw mut size).into())?;
        Ok((size.ws_row, size.ws_col))
    }
}

/// Sets the size of a terminal in rows and columns, `TIOCSWINSZ`.
pub fn set_window_size(terminal: impl AsFd, (rows, columns): (u16, u16)) -> nix::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize.
    unit(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ as libc::Ioctl, &raw const size) }.into())
}

/// `setdomainname(2)`.
pub fn set_domain_name(name: &str) -> nix::Result<()> {
    // SAFETY: the pointer and the length describe `name`.
    unit(unsafe { libc::syscall(libc::SYS_setdomainname, name.as_ptr(), name.len()) })
}

/// `TIOCSPTLCK`, `ioctl_tty(2)`: lets the other end of a pty be opened.
pub fn unlock_pty(master: impl AsFd) -> nix::Result<()> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an integer.
    unit(
        unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCSPTLCK as libc::Ioctl, &raw const unlocked) }.into(),
    )
}

/// Sets an extended attribute to nothing, setxattr(2): that it is there is all that it says.
pub fn set_attribute(path: &Path, name: &CStr) -> nix::Result<()> {
    path.with_nix_path(|path| {
        // SAFETY: both strings are NUL-terminated, and no bytes of a value are read.
        unit(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), std::ptr::null(), 0, 0) }.into())
    })?
}

/// Whether there is an extended attribute, getxattr(2).
pub fn has_attribute(path: &Path, name: &CStr) -> bool {
    let length = path.with_nix_path(|path| {
        // SAFETY: both strings are NUL-terminated, and no bytes of a value are written.
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) }
    });
    length.is_ok_and(|length| length >= 0)
}
