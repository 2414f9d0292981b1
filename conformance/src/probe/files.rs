//! The probe's commands on files.

use super::{errno_of, lossy, name_of, or_error};
use crate::{Result, during, names, say, sys};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, readlink};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, major, makedev, minor, mknod};
use nix::sys::statfs::fstatfs;
use serde_json::{Map, Value, json};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// `write FILE TEXT`: an error's name goes to stderr.
pub fn write(args: &[OsString]) -> Result<i32> {
    let [file, text] = args else { return Err("usage: probe write FILE TEXT".into()) };
    let written = fs::write(file, text.as_encoded_bytes());
    written.map(|()| 0).map_err(|error| format!("write {}: {}", lossy(file), name_of(errno_of(&error))))
}

/// `open-write PATH`: says "ok" or the error's name, and writes nothing.
pub fn open_write(args: &[OsString]) -> Result<i32> {
    let [path] = args else { return Err("usage: probe open-write PATH".into()) };
    say_outcome(open(path.as_os_str(), OFlag::O_WRONLY | OFlag::O_NOCTTY | OFlag::O_NONBLOCK, Mode::empty()))
}

/// `mknod PATH c|b|p|f [MAJ MIN]`: says "ok" or the error's name.
pub fn make_node(args: &[OsString]) -> Result<i32> {
    const USAGE: &str = "usage: probe mknod PATH c|b|p|f [MAJ MIN]";
    let [path, kind, numbers @ ..] = args else { return Err(USAGE.into()) };
    let kind = match kind.to_str() {
        Some("c") => SFlag::S_IFCHR,
        Some("b") => SFlag::S_IFBLK,
        Some("p") => SFlag::S_IFIFO,
        Some("f") => SFlag::S_IFREG,
        _ => return Err(USAGE.into()),
    };
    let number = |text: &OsString| lossy(text).parse().map_err(during(format!("device number '{}'", lossy(text))));
    let device = match numbers {
        [] => 0,
        [major, minor] => makedev(number(major)?, number(minor)?),
        _ => return Err(USAGE.into()),
    };
    say_outcome(mknod(path.as_os_str(), kind, Mode::from_bits_truncate(0o600), device))
}

fn say_outcome<T>(outcome: nix::Result<T>) -> Result<i32> {
    say(outcome.map_or_else(name_of, |_| "ok".into()))?;
    Ok(0)
}

/// `stat PATH…`: an object by path. A symbolic link is itself, not what it leads to.
pub fn stat(args: &[OsString]) -> Result<i32> {
    if args.is_empty() {
        return Err("usage: probe stat PATH...".into());
    }
    let entry = |path: &OsString| (lossy(path), or_error(describe(path)));
    say(Value::from(args.iter().map(entry).collect::<Map<_, _>>()))?;
    Ok(0)
}

fn describe(path: &OsStr) -> nix::Result<Value> {
    let file = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
    let found = fstat(&file)?;
    let magic = fstatfs(&file)?.filesystem_type().0;
    let flags = sys::mount_flags(file.as_fd())?;
    let mut entry = json!({
        "type": kind(&found),
        "mode": format!("{:04o}", found.st_mode & 0o7777),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "rdev": device(found.st_rdev),
        "size": found.st_size,
        "flags": names::flag_names(&names::MOUNT_FLAGS, flags),
        "fsMagic": format!("{magic:#x}"),
    });
    if kind(&found) == "symlink" {
        entry["target"] = lossy(&readlink(path)?).into();
    }
    Ok(entry)
}

fn kind(found: &FileStat) -> &'static str {
    match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => "file",
        SFlag::S_IFDIR => "directory",
        SFlag::S_IFLNK => "symlink",
        SFlag::S_IFCHR => "char",
        SFlag::S_IFBLK => "block",
        SFlag::S_IFIFO => "fifo",
        SFlag::S_IFSOCK => "socket",
        _ => "unknown",
    }
}

/// A device's numbers as "major:minor".
pub(super) fn device(rdev: u64) -> String {
    format!("{}:{}", major(rdev), minor(rdev))
}

/// `echo-fd N`: copies what descriptor N has to its end.
pub fn echo_fd(args: &[OsString]) -> Result<i32> {
    let [number] = args else { return Err("usage: probe echo-fd N".into()) };
    let number = lossy(number);
    let fd = number.parse().map_err(during(format!("descriptor '{number}'")))?;
    let mut buffer = [0; 4096];
    loop {
        match sys::read(fd, &mut buffer) {
            Ok(0) => return Ok(0),
            Ok(size) => put(buffer.get(..size).unwrap_or_default())?,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(format!("read descriptor {fd}: {}", name_of(errno))),
        }
    }
}

fn put(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(during("write to stdout"))
}
