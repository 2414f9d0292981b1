//! Runs the runtime from a copy that no container can write (CVE-2019-5736): a container's process can open
//! `/proc/PID/exe` of the runtime that is about to become it, and would otherwise hold the host's own binary.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use std::os::unix::ffi::OsStrExt;

use crate::error::{Context, Error, Result};
use crate::safepath::reopen;
use crate::sys;
use crate::sys::mount::{self, MountAttr, attr};
use crate::sys::process::SEALED;

const OWN_BINARY: &str = "/proc/self/exe";

/// Goes on as the copy: at once where the kernel exchanges what a process runs, else by execve(2), in which what the first
/// has as `began` is kept.
pub fn ensure(began: u64) -> Result<u64> {
    if let Some(began) = std::env::var_os(SEALED).filter(|_| is_sealed()) {
        return Ok(began.to_str().and_then(|began| began.parse().ok()).unwrap_or_default());
    }
    let copy = match read_only_clone() {
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EINVAL) => sealed_memfd()?,
        result => result.context(|| "cannot clone the runtime's own binary")?,
    };
    if reopen(&copy, OFlag::O_RDONLY).and_then(|file| sys::image::go_on_from(file.as_fd())).is_ok() {
        return Ok(began);
    }
    let text = |string: &std::ffi::OsStr| CString::new(string.as_bytes()).unwrap_or_default();
    let arguments: Vec<_> = std::env::args_os().map(|argument| text(&argument)).collect();
    let mut environment = sys::process::own_environment();
    environment.push(text(format!("{SEALED}={began}").as_ref()));
    let errno = sys::process::exec_descriptor(
        &copy,
        &sys::process::pointers(&arguments),
        &sys::process::pointers(&environment),
    );
    Err(Error::new("cannot run the runtime from its sealed copy").errno(errno))
}

fn is_sealed() -> bool {
    let Ok(file) = sys::fs::open(OWN_BINARY, OFlag::O_RDONLY) else { return false };
    let read_only = fstatvfs(&file).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY));
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).unwrap_or(0);
    read_only || SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE)
}

/// A detached mount of the binary alone, read-only: nothing is copied.
fn read_only_clone() -> nix::Result<OwnedFd> {
    let tree = mount::clone_tree(AT_FDCWD, c"/proc/self/exe", false)?;
    let attributes = MountAttr { set: attr::RDONLY, propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    mount::set_attributes(&tree, false, &attributes)?;
    Ok(tree)
}

/// A copy in memory, for where mounting is not allowed.
fn sealed_memfd() -> Result<OwnedFd> {
    let memory = sys::fs::memfd(c"kelson").context(|| "cannot make a sealed copy of the runtime")?;
    let mut copy = File::from(memory);
    let mut binary = File::open(OWN_BINARY).on_path("cannot open", OWN_BINARY)?;
    std::io::copy(&mut binary, &mut copy).context(|| "cannot copy the runtime")?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(copy.as_fd(), FcntlArg::F_ADD_SEALS(seals)).context(|| "cannot seal the copy of the runtime")?;
    Ok(copy.into())
}
