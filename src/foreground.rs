//! The foreground of `run` and `exec`: signals and the terminal passed on to a process until it ends.

use std::io::Stdin;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid};

use crate::error::{Context, Result};
use crate::notify::Proxy;
use crate::sys::child::wait;
use crate::sys::poll::{Place, poll};
use crate::sys::process::{inherited, kill, prctl};
use crate::sys::{interrupt, signal};
use crate::tty::Relay;
use crate::wire::receive_descriptor;

/// The exit code of what SIGKILL has ended.
pub const KILLED: i32 = 128 + libc::SIGKILL;

/// The caller's signals and terminal.
pub struct Foreground {
    signals: SignalFd,
    relay: Option<Relay>,
    /// What the process says of itself to the caller's service manager.
    pub notifications: Option<Proxy>,
    input: Stdin,
}

impl Foreground {
    /// Blocks signals from now on, but for `open`: none is lost between the start and the wait.
    pub fn begin(open: SigSet) -> Result<Self> {
        let all = signal::all();
        let mut blocked = all;
        open.iter().for_each(|signal| blocked.remove(signal));
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None).context(|| "cannot block signals")?;
        let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context(|| "cannot watch for signals")?;
        Ok(Self { signals, relay: None, notifications: None, input: std::io::stdin() })
    }

    /// For a container: reaps whatever it leaves, and lets the signals that ask for an end interrupt what only prepares
    /// it.
    pub fn of_container(no_subreaper: bool) -> Result<Self> {
        if !no_subreaper {
            prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
                .context(|| "cannot become the reaper of the container's processes")?;
        }
        Self::begin(interrupt::signals())
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
            let ready = self.pause();
            if let Some(notifications) = &self.notifications {
                // The manager goes on to watch this process, which ends with the container.
                notifications.pass_on(getpid());
            }
            self.relay.iter_mut().for_each(|relay| relay.turn(ready));
            self.pass_signals_on(pid);
            if let Some(code) = reap(pid) {
                return self.finish(code);
            }
        }
    }

    /// Waits until something is to be done; what is ready of the relay's places.
    fn pause(&self) -> [bool; 3] {
        let relay = self.relay.as_ref();
        let nothing = || [(); 3].map(|()| Place::new(None::<&OwnedFd>, PollFlags::empty()));
        let [master, input, output] = relay.map_or_else(nothing, |relay| relay.places(&self.input));
        let signals = Place::new(Some(&self.signals), PollFlags::POLLIN);
        let notifications = Place::new(self.notifications.as_ref(), PollFlags::POLLIN);
        let mut places = [master, input, output, signals, notifications];
        let _ = poll(&mut places, relay.map_or(-1, Relay::patience));
        let [master, input, output, ..] = places.map(|place| place.is_ready());
        [master, input, output]
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

    /// Passes the last of what the process wrote on.
    fn finish(&mut self, code: i32) -> i32 {
        if let Some(notifications) = &self.notifications {
            notifications.pass_on(getpid());
        }
        let is_to_end = |signal: i32| matches!(signal, libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM);
        let signals = &self.signals;
        if let Some(relay) = &mut self.relay {
            relay.finish(|| matches!(signals.read_signal(), Ok(Some(signal)) if is_to_end(signal.ssi_signo as i32)));
        }
        code
    }
}

/// Reaps whatever has ended; the exit code if `pid` is among it.
fn reap(pid: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match wait(None, libc::WNOHANG) {
            Ok(Some((ended, status))) if ended == pid => {
                code = status.code().or(status.signal().map(|signal| 128 + signal));
            }
            Ok(Some(_)) | Err(Errno::EINTR) => {}
            Ok(None) | Err(_) => return code,
        }
    }
}
