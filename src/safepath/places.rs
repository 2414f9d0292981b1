//! Where mounts of a container go, and what is restricted later.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use super::{Leaf, Root};

/// The container's tree while mounts are made in it: its root, and what was mounted on places that kelson or the kernel
/// relies on. Below those a path is resolved in what was mounted, wherever it is by now: one who can swap directories of
/// the rootfs would else have what is done there miss its files.
pub struct Places<'a> {
    root: &'a Root,
    /// With their paths, in the order in which they were mounted.
    mounts: Vec<(PathBuf, Root)>,
    /// Whether something was mounted on /dev: what lies there then is not the image's.
    has_dev: bool,
}

impl<'a> Places<'a> {
    /// The tree of `root`, with nothing mounted in it.
    pub fn new(root: &'a Root) -> Self {
        Self { root, mounts: Vec::new(), has_dev: false }
    }

    /// Takes note of what was mounted at `path`, if that is one to rely on.
    pub fn add(&mut self, path: &Path, tree: &OwnedFd) -> io::Result<()> {
        if ["/proc", "/sys"].iter().any(|known| path == Path::new(known)) {
            self.mounts.push((path.to_owned(), Root::new(tree.try_clone()?)));
        }
        self.has_dev |= path == Path::new("/dev");
        Ok(())
    }

    /// Opens `path` as a place.
    pub fn open(&self, path: &Path) -> nix::Result<OwnedFd> {
        let (tree, below) = self.find(path);
        tree.open(below)
    }

    /// Opens `path` as a place, making what is missing. In /proc, /sys and /dev no symbolic link of the image leads
    /// elsewhere (CVE-2019-19921, CVE-2023-27561, CVE-2026-41579); sysfs's own are followed within it, and those of the
    /// host's /dev, such as /dev/log, within the root.
    pub fn open_or_create(&self, path: &Path, leaf: Leaf) -> nix::Result<OwnedFd> {
        let (tree, below) = if self.mounted_on(path).is_some() { (self.root, path) } else { self.find(path) };
        let is_reserved = ["/proc", "/sys", "/dev"].iter().any(|reserved| path.starts_with(reserved));
        if is_reserved && below == path {
            match tree.open_or_create_plain(path, leaf) {
                Err(Errno::ELOOP) if self.has_dev && path.starts_with("/dev") && path != Path::new("/dev") => {
                    tree.open_or_create(path, leaf)
                }
                result => result,
            }
        } else {
            tree.open_or_create(below, leaf)
        }
    }

    /// The file system on `path`, if it is one of those noted.
    pub fn mounted_on(&self, path: &Path) -> Option<&Root> {
        // The last is on top.
        self.mounts.iter().rev().find(|(place, _)| place == path).map(|(_, tree)| tree)
    }

    /// The tree that has `path`, and the path in it.
    fn find<'b>(&'b self, path: &'b Path) -> (&'b Root, &'b Path) {
        let is_below = |path: &Path| !path.components().any(|name| name == Component::ParentDir);
        for (place, tree) in self.mounts.iter().rev() {
            match path.strip_prefix(place) {
                Ok(below) if below.as_os_str().is_empty() => return (tree, Path::new(".")),
                Ok(below) if is_below(below) => return (tree, below),
                _ => {}
            }
        }
        (self.root, path)
    }
}
