//! `seccomp(2)`: loading a filter.

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
