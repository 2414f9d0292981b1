//! Signals that ask the program to end while it makes a container. Their handler ends the process that is being waited
//! for, so that what is under way fails and is undone as after any other failure.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};

const SIGNALS: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

const NONE: i32 = -1;
/// The signal that has come.
static CAUGHT: AtomicI32 = AtomicI32::new(NONE);
/// A descriptor of the process to end.
static AWAITED: AtomicI32 = AtomicI32::new(NONE);

extern "C" fn on_signal(signal: libc::c_int) {
    CAUGHT.store(signal, Ordering::SeqCst);
    end(AWAITED.load(Ordering::SeqCst));
}

fn end(pidfd: i32) {
    if pidfd == NONE {
        return;
    }
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: async-signal-safe calls only: a system call on a descriptor that is open as long as it is in AWAITED, and
    // the interrupted code's errno put back.
    unsafe {
        let errno = *libc::__errno_location();
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGKILL, info, 0);
        *libc::__errno_location() = errno;
    }
}

/// Catches the signals. They interrupt what waits.
pub fn catch() {
    handle(SigHandler::Handler(on_signal));
}

/// In a copy of this process: the signals end it again.
pub fn release() {
    AWAITED.store(NONE, Ordering::SeqCst);
    handle(SigHandler::SigDfl);
}

/// Those that the caller has this program ignore stay ignored.
fn handle(handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::all());
    for signal in SIGNALS {
        // SAFETY: the handler above does nothing that is not async-signal-safe.
        let old = unsafe { sigaction(signal, &action) };
        if let Some(old) = old.ok().filter(|old| matches!(old.handler(), SigHandler::SigIgn)) {
            // SAFETY: puts back what was there.
            let _ = unsafe { sigaction(signal, &old) };
        }
    }
}

/// The signals that are caught.
pub fn signals() -> SigSet {
    SIGNALS.into_iter().collect()
}

/// Holds the signals back from now on: what is undone is not to be interrupted.
pub fn hold() {
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals()), None);
}

/// The signal that has come, if one has.
pub fn caught() -> Option<Signal> {
    Signal::try_from(CAUGHT.load(Ordering::SeqCst)).ok()
}

/// A process that is being waited for: it ends when one of the signals comes, or has come already.
pub struct Awaited {
    before: i32,
}

impl Awaited {
    /// Until this is dropped, which has to be before `pidfd` is closed.
    #[must_use]
    pub fn new(pidfd: Option<&OwnedFd>) -> Self {
        let number = pidfd.map_or(NONE, AsRawFd::as_raw_fd);
        let before = AWAITED.swap(number, Ordering::SeqCst);
        if caught().is_some() {
            end(number);
        }
        Self { before }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        AWAITED.store(self.before, Ordering::SeqCst);
    }
}
