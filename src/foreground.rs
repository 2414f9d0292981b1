//! The foreground of `run` and `exec`: signals and the terminal passed on to a process until it ends.

use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::error::{Context, Result};
use crate::sys::process::{inherited, kill};
use crate::tty::Relay;
use crate::wire::receive_descriptor;

/// The caller's signals and terminal.
pub struct Foreground {
    signals: SignalFd,
    relay: Option<Relay>,
}

impl Foreground {
    /// Blocks signals from now on, but for `open`: none is lost between the start and the wait.
    pub fn begin(open: SigSet) -> Result<Self> {
        let all = SigSet::all();
        let blocked: SigSet = all.iter().filter(|signal| !open.contains(*signal)).collect();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None).context(|| "cannot block signals")?;
        let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context(|| "cannot watch for signals")?;
        Ok(Self { signals, relay: None })
    }

    /// Takes the terminal's master, if the process has sent one; its end of the socket is closed by now.
    pub fn take_terminal(&mut self, socket: Option<OwnedFd>) -> Result<()> {
        let number = socket.map(receive_descriptor).transpose().context(|| "cannot receive the terminal")?.flatten();
        if let Some(number) = number {
            self.relay = Some(Relay::begin(inherited(number).context(|| "cannot take the terminal")?)?);
        }
        Ok(())
    }

    /// Waits for the end of `pid`; its exit code, or 128 and the number of the signal that killed it. Nothing in the
    /// loop allocates: a process may run for years.
    pub fn wait(mut self, pid: Pid) -> i32 {
        loop {
            let open = match &mut self.relay {
                Some(relay) => relay.turn(&self.signals),
                None => {
                    let _ = poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
                    true
                }
            };
            if !open {
                // The process closed its terminal; it may go on without.
                self.relay = None;
            }
            self.pass_signals_on(pid);
            if let Some(code) = reap(pid) {
                self.relay.iter().for_each(Relay::finish);
                return code;
            }
        }
    }

    fn pass_signals_on(&self, pid: Pid) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => {}
                Ok(Signal::SIGWINCH) => self.relay.iter().for_each(Relay::resize),
                _ => {
                    let _ = kill(pid, signal.ssi_signo as i32);
                }
            }
        }
    }
}

/// Reaps whatever has ended; the exit code if `pid` is among it.
fn reap(pid: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(ended, status)) if ended == pid => code = Some(status),
            Ok(WaitStatus::Signaled(ended, signal, _)) if ended == pid => code = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(_) => return code,
            Ok(_) => {}
        }
    }
}
