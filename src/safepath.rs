//! Paths that an attacker may have shaped: resolved by descriptor, never by name twice.
//!
//! [`Root`] resolves below a container's rootfs as if it were `/`: symbolic links stay inside, magic links are
//! refused (CVE-2021-30465, CVE-2024-45310, CVE-2025-31133). [`Procfs`] writes to files of a procfs that is
//! known to be one, and never to something mounted over it (CVE-2019-16884, CVE-2025-52881).

mod places;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat, mknodat};

use crate::error::{Context, Error, Result};
use crate::sys;
use crate::sys::fs::openat2;

pub use places::Places;

/// How many symbolic links one resolution may follow, as in the kernel.
const MAX_LINKS: usize = 40;

/// What to make where a path's last component does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// A directory, mode 0755.
    Directory,
    /// An empty regular file, mode 0644.
    File,
}

impl Leaf {
    fn make(self, directory: &OwnedFd, name: &OsStr) -> nix::Result<()> {
        match self {
            Self::Directory => mkdirat(directory, name, Mode::from_bits_truncate(0o755)),
            Self::File => mknodat(directory, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0),
        }
    }
}

/// A directory that is `/` for the paths resolved in it.
pub struct Root(OwnedFd);

impl Root {
    /// Resolves below `directory`.
    pub fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// Opens `path` for use as a place (`O_PATH`), following symbolic links inside the root.
    pub fn open(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.open_with(path, OFlag::O_PATH)
    }

    /// Opens `path` with `flags`, following symbolic links inside the root.
    pub fn open_with(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // The kernel says EAGAIN when a rename elsewhere made it unsure about a `..`.
        for _ in 0..32 {
            match openat2(&self.0, path, how) {
                Err(Errno::EAGAIN) => {}
                Err(Errno::ENOSYS) => break,
                result => return result,
            }
        }
        let place = Walk::new(self.0.as_fd(), path)?.run(None)?;
        if flags.contains(OFlag::O_PATH) { Ok(place) } else { reopen(&place, flags) }
    }

    /// Opens `path` as a place, making what is missing: directories on the way, then `leaf`.
    pub fn open_or_create(&self, path: &Path, leaf: Leaf) -> nix::Result<OwnedFd> {
        match self.open(path) {
            Err(Errno::ENOENT) => match self.make_last(path, leaf, ResolveFlag::RESOLVE_NO_MAGICLINKS) {
                Some(place) => Ok(place),
                None => Walk::new(self.0.as_fd(), path)?.run(Some(leaf)),
            },
            result => result,
        }
    }

    /// Like [`Root::open_or_create`], but a symbolic link anywhere in `path` is ELOOP.
    pub fn open_or_create_plain(&self, path: &Path, leaf: Leaf) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
        match openat2(&self.0, path, how) {
            Err(Errno::ENOENT | Errno::ENOSYS | Errno::EAGAIN) => {
                if let Some(place) = self.make_last(path, leaf, ResolveFlag::RESOLVE_NO_SYMLINKS) {
                    return Ok(place);
                }
                let mut walk = Walk::new(self.0.as_fd(), path)?;
                walk.links = MAX_LINKS;
                walk.run(Some(leaf))
            }
            result => result,
        }
    }

    /// Makes the last component of `path` where it is the only one missing; nothing where it takes more than that.
    fn make_last(&self, path: &Path, leaf: Leaf, resolve: ResolveFlag) -> Option<OwnedFd> {
        let (parent, name) = (path.parent()?, path.file_name()?);
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
        let parent = openat2(&self.0, parent, how.resolve(ResolveFlag::RESOLVE_IN_ROOT | resolve)).ok()?;
        leaf.make(&parent, name).ok()?;
        openat2(&parent, name, how.resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS)).ok()
    }

    /// Opens the directory that holds `path`'s last component, making what is missing; and that component.
    pub fn open_parent<'a>(&self, path: &'a Path) -> nix::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.open_or_create(parent, Leaf::Directory)?, name))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens the file called `name` of the directory's own file system: no link, and nothing mounted over it.
pub fn open_within(directory: &OwnedFd, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    match openat2(directory, name, OpenHow::new().flags(flags).resolve(resolve)) {
        // Before Linux 5.6: what is mounted over it shows as another device.
        Err(Errno::ENOSYS) => {
            let file = openat(directory, name, flags, Mode::empty())?;
            if fstat(&file)?.st_dev == fstat(directory)?.st_dev { Ok(file) } else { Err(Errno::EXDEV) }
        }
        result => result,
    }
}

/// Opens anew, with `flags`, the file that `place` (an `O_PATH` descriptor) refers to.
pub fn reopen(place: &OwnedFd, flags: OFlag) -> nix::Result<OwnedFd> {
    sys::fs::open(descriptor_path(place).as_str(), flags)
}

/// The path by which calls without a descriptor variant reach `place`.
pub fn descriptor_path(place: impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", place.as_fd().as_raw_fd())
}

/// A resolution in user space, one component at a time: it makes what is missing, which openat2 cannot, and
/// stands in for openat2 before Linux 5.6. `..` goes back to a descriptor already held, so that a rename
/// meanwhile cannot lead outside.
struct Walk {
    /// The directories from the root to the current place.
    trail: Vec<OwnedFd>,
    ahead: VecDeque<OsString>,
    links: usize,
}

impl Walk {
    fn new(root: BorrowedFd<'_>, path: &Path) -> nix::Result<Self> {
        let root = openat(root, ".", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { trail: vec![root], ahead: names(path).collect(), links: 0 })
    }

    fn run(mut self, create: Option<Leaf>) -> nix::Result<OwnedFd> {
        while let Some(name) = self.ahead.pop_front() {
            if name == ".." {
                if self.trail.len() > 1 {
                    self.trail.pop();
                }
                continue;
            }
            let place = self.enter(&name, create)?;
            if file_type(&fstat(&place)?) == SFlag::S_IFLNK {
                self.follow(&place)?;
            } else {
                self.trail.push(place);
            }
        }
        self.trail.pop().ok_or(Errno::ENOENT)
    }

    fn here(&self) -> &OwnedFd {
        // The trail begins with the root and `run` never pops that.
        &self.trail[self.trail.len() - 1]
    }

    fn enter(&self, name: &OsStr, create: Option<Leaf>) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = || openat(self.here(), name, flags, Mode::empty());
        match (open(), create) {
            (Err(Errno::ENOENT), Some(leaf)) => {
                let leaf = if self.ahead.is_empty() { leaf } else { Leaf::Directory };
                match leaf.make(self.here(), name) {
                    Ok(()) | Err(Errno::EEXIST) => open(),
                    Err(errno) => Err(errno),
                }
            }
            (result, _) => result,
        }
    }

    fn follow(&mut self, link: &OwnedFd) -> nix::Result<()> {
        self.links += 1;
        // A magic link's text is no path: procfs is never walked through.
        if self.links > MAX_LINKS || sys::fs::file_system_magic(link)? == sys::fs::PROC_SUPER_MAGIC {
            return Err(Errno::ELOOP);
        }
        let target = readlinkat(link, "")?;
        if Path::new(&target).is_absolute() {
            self.trail.truncate(1);
        }
        for name in names(Path::new(&target)).collect::<Vec<_>>().into_iter().rev() {
            self.ahead.push_front(name);
        }
        Ok(())
    }
}

fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// What tells a file from all others: its file system's device and its inode.
pub fn identity(stat: FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// The file type bits of a stat.
pub fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Whether a path from config.json stays a single component when used as a name: no slash, no dots.
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.bytes().any(|byte| byte == b'/' || byte == 0)
}

/// A procfs that is known to be one.
pub struct Procfs(OwnedFd);

impl Procfs {
    /// Takes `root`, which has to be the root of a procfs.
    pub fn new(root: OwnedFd) -> Result<Self> {
        let magic = sys::fs::file_system_magic(&root).context(|| "cannot look at /proc")?;
        if magic != sys::fs::PROC_SUPER_MAGIC {
            return Err(Error::new("not procfs").path("/proc").hint("something else is mounted on /proc"));
        }
        Ok(Self(root))
    }

    /// The host's own procfs; for use before anything of the container is mounted.
    pub fn host() -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        Self::new(sys::fs::open("/proc", flags).on_path("cannot open", "/proc")?)
    }

    /// Opens a file below it, refusing anything that is mounted over it and any magic link.
    pub fn open(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let flags = flags | OFlag::O_CLOEXEC;
        match openat2(&self.0, path, OpenHow::new().flags(flags).resolve(resolve)) {
            Err(Errno::ENOSYS) => self.open_by_steps(path, flags),
            result => result,
        }
    }

    /// Before Linux 5.6: one component at a time; what is mounted over one shows as another device.
    fn open_by_steps(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let device = fstat(&self.0)?.st_dev;
        let mut place = openat(&self.0, ".", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let own = (name == "self").then(|| readlinkat(&self.0, "self")).transpose()?;
            let name = own.unwrap_or_else(|| name.into());
            let flags = if names.peek().is_some() { OFlag::O_PATH | OFlag::O_CLOEXEC } else { flags };
            place = openat(&place, name.as_os_str(), flags | OFlag::O_NOFOLLOW, Mode::empty())?;
            if fstat(&place)?.st_dev != device {
                return Err(Errno::EXDEV);
            }
        }
        Ok(place)
    }

    /// Writes `value` to a file below it in one write(2).
    pub fn write(&self, path: &str, value: &str) -> nix::Result<()> {
        let file = self.open(path, OFlag::O_WRONLY)?;
        nix::unistd::write(&file, value.as_bytes()).map(drop)
    }
}

/// Reads a small file of the container at `path`: a regular one of at most `limit` bytes, else nothing
/// (CVE-2022-4318 class: FIFOs, devices and giants in the image).
pub fn read_small_file(root: &Root, path: &Path, limit: usize) -> Option<Vec<u8>> {
    let place = root.open(path).ok()?;
    let stat = fstat(&place).ok()?;
    if file_type(&stat) != SFlag::S_IFREG || stat.st_size as usize > limit {
        return None;
    }
    let file = root.open_with(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).ok()?;
    let again = fstat(&file).ok()?;
    if identity(again) != identity(stat) {
        return None;
    }
    let mut bytes = Vec::with_capacity(stat.st_size as usize);
    io::Read::read_to_end(&mut io::Read::take(std::fs::File::from(file), limit as u64), &mut bytes).ok()?;
    Some(bytes)
}

/// Whether `path` names an existing thing below `directory`, without following a link at its end.
pub fn exists_at(directory: impl AsFd, path: &OsStr) -> bool {
    nix::sys::stat::fstatat(directory, path.as_bytes(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("kelson-safepath-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("root/etc")).unwrap();
            Self(path)
        }

        fn root(&self) -> Root {
            Root::new(fs::File::open(self.0.join("root")).unwrap().into())
        }

        fn walk(&self, path: &str, create: Option<Leaf>) -> nix::Result<OwnedFd> {
            Walk::new(self.root().as_fd(), Path::new(path))?.run(create)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn links_stay_inside_the_root() {
        let tree = Tree::new("inside");
        symlink("/etc", tree.0.join("root/absolute")).unwrap();
        symlink("../../../etc", tree.0.join("root/relative")).unwrap();
        for name in ["absolute", "relative", "/absolute/../etc", "../../etc"] {
            let wanted = fstat(tree.root().open(Path::new("etc")).unwrap()).unwrap().st_ino;
            assert_eq!(fstat(tree.root().open(Path::new(name)).unwrap()).unwrap().st_ino, wanted, "{name}");
            assert_eq!(fstat(tree.walk(name, None).unwrap()).unwrap().st_ino, wanted, "walk {name}");
        }
    }

    #[test]
    fn what_is_missing_is_made_inside_even_behind_a_dangling_link() {
        let tree = Tree::new("create");
        symlink("/run", tree.0.join("root/var-run")).unwrap();
        tree.root().open_or_create(Path::new("/var-run/secrets/token"), Leaf::File).unwrap();
        assert!(tree.0.join("root/run/secrets/token").is_file());
        tree.root().open_or_create(Path::new("/a/b"), Leaf::Directory).unwrap();
        assert!(tree.0.join("root/a/b").is_dir());
    }

    #[test]
    fn a_loop_of_links_ends() {
        let tree = Tree::new("loop");
        symlink("two", tree.0.join("root/one")).unwrap();
        symlink("one", tree.0.join("root/two")).unwrap();
        assert_eq!(tree.walk("one", Some(Leaf::Directory)).unwrap_err(), Errno::ELOOP);
    }

    #[test]
    fn magic_links_are_refused() {
        let root = Root::new(fs::File::open("/").unwrap().into());
        assert_eq!(root.open(Path::new("/proc/self/root/etc")).unwrap_err(), Errno::ELOOP);
        let walk = Walk::new(root.as_fd(), Path::new("/proc/self/root/etc")).unwrap();
        assert_eq!(walk.run(None).unwrap_err(), Errno::ELOOP);
    }

    #[test]
    fn procfs_is_verified_and_not_left() {
        let other = fs::File::open("/tmp").unwrap();
        assert!(Procfs::new(other.into()).is_err());
        let procfs = Procfs::host().unwrap();
        assert!(procfs.open("self/root", OFlag::O_PATH).is_err());
        assert!(procfs.open("sys/kernel/ostype", OFlag::O_RDONLY).is_ok());
        assert!(procfs.open_by_steps("self/status", OFlag::O_RDONLY).is_ok());
        assert!(procfs.open_by_steps("self/root", OFlag::O_RDONLY).is_err());
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let tree = Tree::new("small");
        fs::write(tree.0.join("root/etc/passwd"), "root").unwrap();
        nix::unistd::mkfifo(&tree.0.join("root/etc/fifo"), Mode::S_IRWXU).unwrap();
        assert_eq!(read_small_file(&tree.root(), Path::new("/etc/passwd"), 64).as_deref(), Some(&b"root"[..]));
        assert_eq!(read_small_file(&tree.root(), Path::new("/etc/passwd"), 2), None);
        assert_eq!(read_small_file(&tree.root(), Path::new("/etc/fifo"), 64), None);
    }
}
