//! The container's root: made from the rootfs, restricted, and entered.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount as mount2, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};
use nix::unistd::{chroot, fchdir, pivot_root};

use crate::error::{Context, Error, Result};
use crate::safepath::{Places, Root, descriptor_path, file_type};
use crate::sys::fs::open;
use crate::sys::mount::{self, FsContext, MountAttr, attr};
use crate::sys::process::capabilities;

const NONE: Option<&str> = None;
/// How long writers inside may keep the root from becoming read-only.
const WRITERS: Duration = Duration::from_secs(1);

/// The rootfs and how it is entered.
#[derive(Clone, Debug, Default)]
pub struct RootfsPlan {
    /// On the host, absolute.
    pub path: PathBuf,
    pub readonly: bool,
    /// `MS_*` flags for `/` once inside; none keeps it private.
    pub propagation: Option<(u64, bool)>,
    /// Paths that show nothing.
    pub masked: Vec<PathBuf>,
    pub readonly_paths: Vec<PathBuf>,
    /// Whether the container has a mount namespace that is not the runtime's.
    pub own_mounts: bool,
    /// Whether hooks look for the rootfs, with what is mounted in it, at its own path.
    pub is_seen_by_hooks: bool,
    /// Whether it is put together detached from everything, and init enters a mount namespace that has nothing else
    /// (Linux 7.1, see [`can_be_detached`]). The host's mounts are not copied then, whose number is of no concern, and are
    /// never in reach.
    pub is_detached: bool,
    /// `--no-pivot`: for a host whose own root is a ramdisk, which cannot be pivoted away.
    pub no_pivot: bool,
}

/// Reads `linux.rootfsPropagation`; runc also takes the forms with a leading `r`.
pub fn parse_propagation(text: &str) -> Result<Option<(u64, bool)>> {
    let flag = match text.strip_prefix('r').unwrap_or(text) {
        "" => return Ok(None),
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "private" => libc::MS_PRIVATE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => {
            return Err(Error::new(format!("rootfsPropagation cannot be {text:?}"))
                .pointer("/linux/rootfsPropagation")
                .hint("shared, slave, private or unbindable"));
        }
    };
    Ok(Some((flag, text.starts_with('r'))))
}

/// The kernel's id of the mount that is at `place` now, statx(2); 0 where it cannot be told.
pub fn mount_id(place: impl AsFd) -> u64 {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fdinfo/{}", place.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok()).unwrap_or(0)
}

/// Unmounts the rootfs of a container without a mount namespace of its own, if the mount with that id is still there.
pub fn detach(path: &Path, id: u64) {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    if id != 0 && open(path, flags).is_ok_and(|place| mount_id(place) == id) {
        let _ = umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
}

/// Whether the kernel lets this process put a rootfs together detached, and enter it where there is nothing to pivot.
pub fn can_be_detached() -> bool {
    const CHROOT: u64 = 1 << 18;
    mount::has_empty_namespaces() && capabilities().is_ok_and(|sets| sets.effective & CHROOT != 0)
}

/// Clones the rootfs for the container, before its process exists; nothing where init has to do it itself.
pub fn clone_root(plan: &RootfsPlan) -> Result<Option<OwnedFd>> {
    match clone_private(plan) {
        Ok(tree) => Ok(Some(tree)),
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(None),
        Err(errno) => Err(Error::new("cannot open the rootfs").path(&plan.path).errno(errno).pointer("/root/path")),
    }
}

fn clone_private(plan: &RootfsPlan) -> nix::Result<OwnedFd> {
    let path = open(&plan.path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    let tree = mount::clone_tree(&path, c"", true)?;
    // A slave still sees what the host mounts below the rootfs; shared mounts would show ours to the host.
    let propagation = match plan.propagation {
        Some((flag, _)) if flag == libc::MS_SHARED || flag == libc::MS_SLAVE => libc::MS_SLAVE,
        _ => libc::MS_PRIVATE,
    };
    mount::set_propagation(&tree, true, propagation)?;
    Ok(tree)
}

impl RootfsPlan {
    /// Whether mounts in the container are to be seen on the host, where a volume is shared.
    pub fn is_shared(&self) -> bool {
        self.propagation.is_some_and(|(flag, _)| flag == libc::MS_SHARED)
    }

    /// Where the rootfs is attached: on the root itself in a mount namespace of the container's own, so that it
    /// needs no path; on its own path where the mounts are the runtime's, or hooks look for it.
    fn place(&self) -> &Path {
        if self.own_mounts && !self.is_seen_by_hooks { Path::new("/") } else { &self.path }
    }
}

/// Cuts the mount that `path` is in off from its peers on the host, which would get what is attached there too.
fn cut_off(path: &Path) -> nix::Result<()> {
    // Only the path of a mount's own root names it: that is one of those above.
    let cut = |place: &Path| mount2(NONE, place, NONE, MsFlags::MS_PRIVATE, NONE);
    path.ancestors().map(cut).find(|result| *result != Err(Errno::EINVAL)).unwrap_or(Ok(()))
}

/// Cuts the new mount namespace off from the host's and attaches the rootfs. Nothing that is mounted from here on is
/// seen outside: what is attached goes below a mount without peers.
pub fn attach(plan: &RootfsPlan, tree: Option<OwnedFd>) -> Result<Root> {
    if plan.own_mounts && !plan.is_detached {
        // As slaves, the host's mounts still tell volumes that ask for it what is mounted there later. As peers they
        // also tell the host: then only what the rootfs goes below is cut off, and the rest in `enter`.
        let slaves = || mount2(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE);
        let peers = || cut_off(Path::new("/")).and_then(|()| cut_off(plan.place()));
        let cut = if plan.is_shared() { peers() } else { slaves() };
        cut.context(|| "cannot cut the new mount namespace off from the host's")?;
    }
    let tree = match tree {
        Some(tree) => tree,
        None => match clone_private(plan) {
            Ok(tree) => tree,
            Err(Errno::ENOSYS) if !plan.is_detached => return attach_classic(plan),
            Err(errno) => return Err(Error::new("cannot open the rootfs").path(&plan.path).errno(errno)),
        },
    };
    if !plan.is_detached {
        attach_tree(plan, &tree)?;
    }
    Ok(Root::new(tree))
}

fn attach_tree(plan: &RootfsPlan, tree: impl AsFd) -> Result<()> {
    let top = open(plan.place(), OFlag::O_PATH | OFlag::O_DIRECTORY).on_path("cannot open", plan.place())?;
    mount::move_mount(tree, &top).on_path("cannot attach the rootfs", &plan.path)
}

/// The same by mount(2), for kernels before 5.12.
fn attach_classic(plan: &RootfsPlan) -> Result<Root> {
    mount2(Some(&plan.path), &plan.path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .on_path("cannot bind mount the rootfs", &plan.path)?;
    let root = open(&plan.path, OFlag::O_PATH | OFlag::O_DIRECTORY).on_path("cannot open the rootfs", &plan.path)?;
    if plan.place() != plan.path {
        move_to_top(&plan.path)?;
    }
    Ok(Root::new(root))
}

/// Moves the rootfs onto the root of the mount namespace.
fn move_to_top(path: &Path) -> Result<()> {
    mount2(Some(path), "/", NONE, MsFlags::MS_MOVE, NONE).on_path("cannot move the rootfs onto the root", path)
}

/// Makes the rootfs `/`, and drops everything of the host. A detached one comes into the empty mount namespace that the
/// caller is in by now.
pub fn enter(plan: &RootfsPlan, root: &Root) -> Result<()> {
    if plan.is_detached {
        attach_tree(plan, root)?;
    }
    fchdir(root).context(|| "cannot enter the rootfs")?;
    if plan.is_detached || !plan.own_mounts {
        return chroot(".").context(|| "cannot change the root");
    }
    if plan.no_pivot {
        // Nothing is unmounted here, so the host's procfs and sysfs would stay within reach of a mount(2) that
        // the kernel allows only where a full one is visible.
        for path in ["/proc", "/sys"] {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
        // One who may call chroot(2) gets out of a root that is not on top of the mount namespace.
        if plan.is_seen_by_hooks {
            move_to_top(Path::new("."))?;
        }
        return chroot(".").context(|| "cannot change the root");
    }
    let host = plan.is_shared().then(|| open("/", OFlag::O_PATH | OFlag::O_DIRECTORY)).transpose();
    let host = host.context(|| "cannot open the host's root")?;
    pivot_root(".", ".").map_err(|errno| {
        Error::new("cannot pivot into the rootfs")
            .path(&plan.path)
            .errno(errno)
            .hint("where the host runs from a ramdisk, --no-pivot is needed")
    })?;
    // The old root now lies on top of the new one, which is the current directory: umount2(2) goes to the top, mount(2)
    // does not.
    if let Some(host) = host {
        fchdir(host)
            .and_then(|()| mount2(NONE, ".", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE))
            .context(|| "cannot cut the host's mounts off before they are unmounted here")?;
    }
    umount2(".", MntFlags::MNT_DETACH).context(|| "cannot unmount the host's file systems")?;
    nix::unistd::chdir("/").context(|| "cannot enter the new root")
}

/// Sets what concerns the root itself, last: until then mount points are made in it, and in the mounts that become
/// read-only `late`.
pub fn finish(plan: &RootfsPlan, root: &Root, late: &[(String, OwnedFd)]) -> Result<()> {
    if let Some((propagation, recursive)) = plan.propagation.filter(|_| plan.own_mounts) {
        let flags = MsFlags::from_bits_retain(propagation) | if recursive { MsFlags::MS_REC } else { MsFlags::empty() };
        mount2(NONE, "/", NONE, flags, NONE)
            .context(|| "cannot set the propagation of the root")
            .map_err(|error| error.pointer("/linux/rootfsPropagation"))?;
    }
    for (pointer, mount) in late {
        make_read_only(mount).context(|| "cannot make a mount read-only").map_err(|error| error.pointer(pointer))?;
    }
    if plan.readonly {
        let made = make_read_only(root).context(|| "cannot make the root read-only");
        made.map_err(|error| error.pointer("/root/readonly"))?;
    }
    Ok(())
}

/// What a hook has left may be at work in there: the access time of what it reads is written, too.
fn make_read_only(mount: impl AsFd) -> nix::Result<()> {
    let deadline = Instant::now() + WRITERS;
    loop {
        match try_read_only(&mount) {
            Err(Errno::EBUSY) if Instant::now() < deadline => sleep(Duration::from_millis(1)),
            result => return result,
        }
    }
}

/// By mount(2) it takes the working directory there, and then to the root.
fn try_read_only(mount: impl AsFd) -> nix::Result<()> {
    match mount::set_attributes(&mount, false, &MountAttr { set: attr::RDONLY, ..MountAttr::default() }) {
        Err(Errno::ENOSYS) => {
            fchdir(&mount)?;
            mount2(NONE, ".", NONE, remount_read_only("."), NONE)?;
            nix::unistd::chdir("/")
        }
        result => result,
    }
}

/// Flags that add read-only to a mount and repeat what it has, which may be locked.
fn remount_read_only(path: &str) -> MsFlags {
    let kept =
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME;
    let now = nix::sys::statvfs::statvfs(path).map_or(0, |stat| stat.flags().bits());
    MsFlags::from_bits_truncate(now) & kept | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY
}

/// Empties that cover masked paths: inodes of our own, since the container's `/dev/null` may be anything
/// (CVE-2025-31133).
struct Masks {
    tmpfs: OwnedFd,
    is_attached: bool,
}

impl Masks {
    fn new() -> nix::Result<Self> {
        let context = FsContext::open(c"tmpfs")?;
        context.set(c"source", Some(c"tmpfs"))?;
        context.set(c"mode", Some(c"755"))?;
        let tmpfs = context.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
        mkdirat(&tmpfs, "directory", Mode::from_bits_truncate(0o555))?;
        mknodat(&tmpfs, "file", SFlag::S_IFREG, Mode::from_bits_truncate(0o444), 0)?;
        mount::set_attributes(&tmpfs, false, &MountAttr { set: attr::RDONLY, ..MountAttr::default() })?;
        Ok(Self { tmpfs, is_attached: false })
    }

    fn cover(&mut self, place: &OwnedFd, is_directory: bool) -> nix::Result<()> {
        if is_directory && !self.is_attached {
            // It goes below the first cover, out of sight: to close what is attached nowhere waits for a grace
            // period of RCU.
            mount::move_mount(&self.tmpfs, place)?;
            self.is_attached = true;
            return mount::move_mount(mount::clone_tree(&self.tmpfs, c"directory", false)?, &self.tmpfs);
        }
        let name = if is_directory { c"directory" } else { c"file" };
        mount::move_mount(mount::clone_tree(&self.tmpfs, name, false)?, place)
    }
}

/// Covers the masked paths and makes the read-only ones so. What does not exist needs neither.
pub fn restrict(plan: &RootfsPlan, places: &Places) -> Result<()> {
    if !plan.masked.is_empty() {
        let mut masks = match Masks::new() {
            Ok(masks) => Some(masks),
            Err(Errno::ENOSYS) => None,
            Err(errno) => return Err(Error::new("cannot make the cover of masked paths").errno(errno)),
        };
        for (index, path) in plan.masked.iter().enumerate() {
            mask(masks.as_mut(), path, places).map_err(|error| error.pointer(format!("/linux/maskedPaths/{index}")))?;
        }
    }
    for (index, path) in plan.readonly_paths.iter().enumerate() {
        cover_read_only(path, places).map_err(|error| error.pointer(format!("/linux/readonlyPaths/{index}")))?;
    }
    Ok(())
}

fn find(path: &Path, places: &Places) -> Result<Option<OwnedFd>> {
    match places.open(path) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(Error::new("cannot resolve a path to restrict").path(path).errno(errno)),
    }
}

fn mask(masks: Option<&mut Masks>, path: &Path, places: &Places) -> Result<()> {
    let Some(place) = find(path, places)? else { return Ok(()) };
    let stat = fstat(&place).on_path("cannot look at", path)?;
    let is_directory = file_type(&stat) == SFlag::S_IFDIR;
    match masks {
        Some(masks) => masks.cover(&place, is_directory),
        None => mask_classic(&place, is_directory),
    }
    .on_path("cannot mask", path)
}

/// By mount(2): an empty tmpfs for a directory, the host's `/dev/null` for a file, both before pivoting.
fn mask_classic(place: &OwnedFd, is_directory: bool) -> nix::Result<()> {
    let target = descriptor_path(place);
    if is_directory {
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        return mount2(Some("tmpfs"), target.as_str(), Some("tmpfs"), flags, Some("size=0k"));
    }
    mount2(Some("/dev/null"), target.as_str(), NONE, MsFlags::MS_BIND, NONE)
}

fn cover_read_only(path: &Path, places: &Places) -> Result<()> {
    let Some(place) = find(path, places)? else { return Ok(()) };
    let read_only = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
    let covered = mount::clone_tree(place.as_fd(), c"", true).and_then(|tree| {
        mount::set_attributes(&tree, true, &read_only)?;
        mount::move_mount(&tree, &place)
    });
    match covered {
        Err(Errno::ENOSYS) => {
            let target = descriptor_path(&place);
            mount2(Some(target.as_str()), target.as_str(), NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).and_then(
                |()| {
                    let top = places.open(path)?;
                    let top = descriptor_path(&top);
                    mount2(NONE, top.as_str(), NONE, remount_read_only(&top), NONE)
                },
            )
        }
        result => result,
    }
    .on_path("cannot make read-only", path)
}
