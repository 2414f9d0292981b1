//! A hook's process.
//!
//! The standard library's own would do, but that hears of a failure by recvfrom(2), and panics where it may not: a
//! startContainer hook is run with the container's seccomp filter loaded. This needs no more than pipes.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2, write};

use crate::sys::interrupt;
use crate::sys::process::{Forked, clone, exit_or_crash, kill};

pub struct Child {
    pid: Pid,
    pub pidfd: Option<OwnedFd>,
    /// The other end of its standard input, and of its standard error.
    pub input: Option<File>,
    pub output: Option<File>,
}

impl Child {
    /// Starts the program, with nothing as its standard output.
    pub fn spawn(command: &mut Command) -> nix::Result<Self> {
        let (stdin, input) = pipe2(OFlag::O_CLOEXEC)?;
        let (output, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        let (failure, tell) = pipe2(OFlag::O_CLOEXEC)?;
        match clone(0, None)? {
            Forked::Child => {
                interrupt::release();
                let error = command.stdin(stdin).stdout(Stdio::null()).stderr(stderr).exec();
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let _ = write(&tell, &errno.to_ne_bytes());
                exit_or_crash(1)
            }
            Forked::Parent { pid, pidfd } => {
                drop((stdin, stderr, tell));
                let child = Self { pid, pidfd, input: Some(input.into()), output: Some(output.into()) };
                child.hear_of_failure(failure.into())?;
                Ok(child)
            }
        }
    }

    /// Waits until it has become its program; else it is gone.
    fn hear_of_failure(&self, mut failure: File) -> nix::Result<()> {
        let mut errno = [0; 4];
        match failure.read_exact(&mut errno) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
            heard => {
                self.kill();
                Err(heard.map_or(Errno::EIO, |()| Errno::from_raw(i32::from_ne_bytes(errno))))
            }
        }
    }

    /// How it has ended, if it has.
    pub fn try_wait(&self) -> nix::Result<Option<WaitStatus>> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => Ok(None),
            result => result.map(Some),
        }
    }

    /// Ends it, and waits for that.
    pub fn kill(&self) {
        let _ = kill(self.pid, libc::SIGKILL);
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}
