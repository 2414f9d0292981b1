//! `seccomp(2)`: loading a filter.

use std::os::fd::{FromRawFd, OwnedFd};

use seccompiler::sock_filter;

use super::number;

const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;

#[repr(C)]
struct Program {
    length: u16,
    instructions: *const sock_filter,
}

/// Loads a filter into the calling thread; returns the descriptor of its listener where `flags` ask for one, else 0.
pub fn load_filter(flags: u64, program: &[sock_filter]) -> nix::Result<i32> {
    let Ok(length) = u16::try_from(program.len()) else { return Err(nix::errno::Errno::EINVAL) };
    let program = Program { length, instructions: program.as_ptr() };
    // SAFETY: the program describes live instructions of the kernel's layout, which the kernel copies and checks.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    number(result).map(|number| number as i32)
}

/// Takes over the listener whose number [`load_filter`] has returned, without a call: the filter may forbid it.
pub fn listener(number: i32) -> OwnedFd {
    // SAFETY: the kernel has made this descriptor for us, and it is taken once.
    unsafe { OwnedFd::from_raw_fd(number) }
}
