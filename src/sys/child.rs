//! Children: how one becomes a program, and how their ends are heard of.
//!
//! The standard library's way to start one hears of a failure by recvfrom(2), and panics where it may not: a
//! startContainer hook is run with the container's seccomp filter loaded. This needs no more than pipes. nix's way to
//! wait loses who was killed by a real-time signal.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};

use super::process::{Forked, clone, exit_or_crash, kill, pointers};
use super::{interrupt, number, signal};

/// What a child becomes.
pub struct Program<'a> {
    pub path: &'a CStr,
    pub arguments: &'a [CString],
    pub environment: &'a [CString],
    /// Where it starts, if that can be entered.
    pub directory: &'a CStr,
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
}

/// A child that becomes a program.
pub struct Child {
    pid: Pid,
    /// Absent on kernels before 5.3.
    pub pidfd: Option<OwnedFd>,
    /// Why it could not; closed once it could.
    failure: File,
}

impl Child {
    /// Starts the program, with no signal blocked.
    pub fn start(program: &Program) -> nix::Result<Self> {
        let (failure, tell) = pipe2(OFlag::O_CLOEXEC)?;
        let lists = [program.arguments, program.environment].map(pointers);
        match clone(0, None)? {
            Forked::Child => {
                let errno = program.exec(&lists).to_ne_bytes();
                // SAFETY: the pointer and the length describe `errno`.
                unsafe { libc::write(tell.as_raw_fd(), errno.as_ptr().cast(), errno.len()) };
                exit_or_crash(1)
            }
            Forked::Parent { pid, pidfd } => Ok(Self { pid, pidfd, failure: failure.into() }),
        }
    }

    /// How it has ended, if it has; an error if it could not become the program.
    pub fn try_wait(&mut self) -> nix::Result<Option<ExitStatus>> {
        let Some((_, status)) = wait(Some(self.pid), libc::WNOHANG)? else { return Ok(None) };
        let mut errno = [0; 4];
        match self.failure.read_exact(&mut errno) {
            Ok(()) => Err(Errno::from_raw(i32::from_ne_bytes(errno))),
            Err(_) => Ok(Some(status)),
        }
    }

    /// Ends it, and waits for that.
    pub fn kill(&self) {
        let _ = kill(self.pid, libc::SIGKILL);
        while wait(Some(self.pid), 0) == Err(Errno::EINTR) {}
    }
}

impl Program<'_> {
    /// Becomes the program; returns only on failure. System calls alone: in a program that has threads, as the tests
    /// have, one of them may have held a lock when this copy was made.
    fn exec(&self, [arguments, environment]: &[Vec<*const libc::c_char>; 2]) -> i32 {
        interrupt::release();
        signal::unblock();
        // SAFETY: paths that end in NUL, open descriptors, and lists that end in null; all outlive the calls.
        unsafe {
            // The standard library has this program ignore it.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            libc::chdir(self.directory.as_ptr());
            for (number, descriptor) in (0..).zip(&self.stdio) {
                libc::dup2(descriptor.as_raw_fd(), number);
            }
            libc::execve(self.path.as_ptr(), arguments.as_ptr(), environment.as_ptr());
        }
        Errno::last_raw()
    }
}

/// Has children waited for: a caller that ignores SIGCHLD would leave it so, and the kernel none to wait for.
pub fn keep_children() {
    // SAFETY: no function is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Waits for the end of `pid`, or of any child; with `WNOHANG` for nobody's.
pub fn wait(pid: Option<Pid>, flags: i32) -> nix::Result<Option<(Pid, ExitStatus)>> {
    let mut status = 0;
    // SAFETY: the status is written on success.
    let ended = number(unsafe { libc::waitpid(pid.map_or(-1, Pid::as_raw), &raw mut status, flags) }.into())?;
    Ok((ended > 0).then(|| (Pid::from_raw(ended as i32), ExitStatus::from_raw(status))))
}
