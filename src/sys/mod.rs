//! Raw system calls that nix lacks: the only module of kelson with `unsafe`.
//!
//! Each function is one system call (or one `prctl`) with owned or borrowed descriptors, and says which
//! manual page it follows. Every descriptor made here is close-on-exec. Nothing here retries, logs or decides.
#![allow(unsafe_code)]

pub mod alloc;
pub mod bpf;
pub mod child;
pub mod fs;
pub mod image;
pub mod interrupt;
pub mod mount;
pub mod poll;
pub mod process;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod socket;

use std::os::fd::{FromRawFd, OwnedFd};

use libc::c_long;
use nix::errno::Errno;

/// The result of a raw system call that returns a number.
fn number(result: c_long) -> nix::Result<c_long> {
    if result == -1 { Err(Errno::last()) } else { Ok(result) }
}

/// The result of a raw system call that returns nothing of interest.
fn unit(result: c_long) -> nix::Result<()> {
    number(result).map(drop)
}

/// The result of a raw system call that returns a new descriptor.
fn descriptor(result: c_long) -> nix::Result<OwnedFd> {
    let fd = number(result)?;
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Turns EPERM into ENOSYS where a filter made for older kernels is behind it, such as old engines': it answers so
/// whatever the arguments are, also to `probe`, a call with ones that the kernel itself calls invalid.
fn unless_filtered<T>(result: nix::Result<T>, probe: impl FnOnce() -> c_long) -> nix::Result<T> {
    match result {
        Err(Errno::EPERM) if number(probe()) == Err(Errno::EPERM) => Err(Errno::ENOSYS),
        result => result,
    }
}
