//! Signals, the real-time ones too, some of which the C library keeps for itself: `sigfillset(3)` and `sigaction(3)` leave
//! them out.

use nix::sys::signal::SigSet;

/// Every signal there is.
pub fn all() -> SigSet {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: a set is bits alone, each of which may be 1.
    unsafe {
        set.as_mut_ptr().write_bytes(0xff, 1);
        SigSet::from_sigset_t_unchecked(set.assume_init())
    }
}

/// Gives every signal its default action and blocks none, so that the program starts as the spec expects: what a
/// caller ignores or blocks would otherwise stay so across execve(2).
pub fn reset() {
    // The kernel's own `struct sigaction` of `SIG_DFL` is all zeros.
    let default = [0_u64; 4];
    let nothing = std::ptr::null_mut::<libc::c_void>();
    for signal in 1..=64 {
        // SAFETY: the action and the size of its mask are the kernel's; KILL and STOP are refused and stay as they are.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nothing, size_of::<u64>()) };
    }
    unblock();
}

/// Blocks none.
pub fn unblock() {
    let (how, none) = (libc::SIG_SETMASK, 0_u64);
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: an empty mask of the size that the kernel has it in.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, std::ptr::from_ref(&none), nothing, size_of::<u64>()) };
}
