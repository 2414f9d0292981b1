//! Copying a directory of the image into a new tmpfs, for `tmpcopyup`: by descriptors, links not followed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use crate::safepath::file_type;

/// Copies what is in the directory `from` into the directory `to`.
pub fn tree(from: &OwnedFd, to: impl AsFd) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut directory = Dir::openat(from, ".", flags, Mode::empty())?;
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to.as_fd(), name)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: impl AsFd, name: &std::ffi::CStr) -> io::Result<()> {
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    let kind = file_type(&stat);
    let open = |flags| openat(from, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
    match kind {
        SFlag::S_IFDIR => {
            mkdirat(&to, name, Mode::S_IRWXU)?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            tree(&open(OFlag::O_RDONLY | OFlag::O_DIRECTORY)?, openat(&to, name, flags, Mode::empty())?)?;
        }
        SFlag::S_IFLNK => symlinkat(readlinkat(from, name)?.as_os_str(), &to, name)?,
        SFlag::S_IFREG => {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let mut source = std::fs::File::from(open(OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
            io::copy(&mut source, &mut std::fs::File::from(openat(&to, name, flags, mode)?))?;
        }
        _ => mknodat(&to, name, kind, mode, stat.st_rdev)?,
    }
    keep_owner_and_mode(&to, name, &stat, mode)
}

fn keep_owner_and_mode(to: impl AsFd, name: &std::ffi::CStr, stat: &FileStat, mode: Mode) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchownat(&to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if file_type(stat) != SFlag::S_IFLNK {
        nix::sys::stat::fchmodat(&to, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)?;
    }
    Ok(())
}
