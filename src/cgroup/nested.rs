//! Walking over the cgroups below one.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::Mode;

/// Visits every cgroup below `top`, the deepest first, and then itself: as a descriptor, the path from there, and the
/// whole path. Returns the first error about one that could not be looked into and is still there.
///
/// What a container nests can lie deeper than a path is long, and than files can be open at once; so the walk goes
/// down and up by single steps.
pub fn visit(top: &Path, mut visit: impl FnMut(BorrowedFd<'_>, &Path, &Path)) -> Option<Errno> {
    let mut path = top.to_owned();
    let mut unseen = None;
    let mut note =
        |errno| unseen = unseen.or(Some(errno).filter(|errno| !matches!(errno, Errno::ENOENT | Errno::ENODEV)));
    let opened = open(AT_FDCWD, top).inspect_err(|errno| note(*errno));
    if let Ok(mut place) = opened {
        let mut to_go = vec![names_in(&mut place)];
        while let Some(names) = to_go.last_mut() {
            if let Some(name) = names.pop() {
                path.push(OsStr::from_bytes(name.as_bytes()));
                if let Ok(mut below) = open(&place, &*name).inspect_err(|errno| note(*errno)) {
                    to_go.push(names_in(&mut below));
                    place = below;
                    continue;
                }
            } else {
                to_go.pop();
                if to_go.is_empty() {
                    break;
                }
                let Ok(parent) = open(&place, "..").inspect_err(|errno| note(*errno)) else { break };
                place = parent;
            }
            visit(place.as_fd(), path.file_name().unwrap_or_default().as_ref(), &path);
            path.pop();
        }
    }
    visit(AT_FDCWD, top, top);
    unseen
}

fn open<P: nix::NixPath + ?Sized>(place: impl AsFd, name: &P) -> nix::Result<Dir> {
    Dir::openat(place, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// The names of the cgroups in one.
fn names_in(place: &mut Dir) -> Vec<CString> {
    let is_cgroup = |entry: &nix::dir::Entry| {
        entry.file_type() == Some(Type::Directory) && ![c".", c".."].contains(&entry.file_name())
    };
    place.iter().flatten().filter(is_cgroup).map(|entry| entry.file_name().to_owned()).collect()
}
