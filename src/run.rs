//! `run`: create and start in one, and in the foreground a wait for the end with signals and terminal passed on.

use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::create::{Created, Request, check_interrupt, create};
use crate::destroy::destroy;
use crate::error::{Context, Result};
use crate::lifecycle::{after_start, go};
use crate::state::{Store, does_not_exist};
use crate::sys::interrupt;
use crate::sys::process::{kill, prctl};
use crate::tty::Relay;
use crate::{log, sys, wire};

/// The exit code of what SIGKILL has ended.
const KILLED: i32 = 128 + libc::SIGKILL;

/// What `run` adds to [`Request`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub detach: bool,
    /// Keep the container's state after its end.
    pub keep: bool,
    pub no_subreaper: bool,
}

/// Runs a container. In the foreground its exit code is returned: 128 and the signal's number where it was killed.
pub fn run(store: &Store, mut request: Request, options: Options) -> Result<i32> {
    request.at_once = true;
    if options.detach {
        let created = create(store, &request)?;
        start(&created)?;
        return Ok(0);
    }
    if !options.no_subreaper {
        prctl(libc::PR_SET_CHILD_SUBREAPER, 1).context(|| "cannot become the reaper of the container's processes")?;
    }
    // Blocked from now on: none is lost between the start and the wait. But those that ask for an end may interrupt
    // what only prepares the container.
    let signals = catch_signals()?;
    let mut created = create(store, &request)?;
    interrupt::hold();
    check_interrupt().or_else(|error| destroy(&created.container, &created.state).and(Err(error)))?;
    let relay = created.terminal.take().map(|socket| take_terminal(&socket)).transpose()?.flatten();
    start(&created)?;
    // The container may run for long: others may kill and delete it meanwhile.
    created.container.unlock();
    log::flush();
    let code = wait(&signals, created.pid, relay);
    if let Some(why) = created.state.cgroup.out_of_memory(0).filter(|_| code == KILLED) {
        log::warn(why);
    }
    if !options.keep {
        remove(store, &created)?;
    }
    Ok(code)
}

fn start(created: &Created) -> Result<()> {
    if let Some(wire) = &created.wire {
        go(wire, &created.state).or_else(|error| {
            destroy(&created.container, &created.state)?;
            Err(error)
        })?;
    }
    after_start(&created.container, &created.state)
}

fn remove(store: &Store, created: &Created) -> Result<()> {
    match store.open(&created.state.id) {
        Ok(container) => destroy(&container, &created.state),
        Err(error) if error == does_not_exist(&created.state.id) => Ok(()),
        Err(error) => Err(error),
    }
}

fn catch_signals() -> Result<SignalFd> {
    let all = SigSet::all();
    let blocked = all.iter().filter(|signal| !interrupt::signals().contains(*signal)).collect::<SigSet>();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None).context(|| "cannot block signals")?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context(|| "cannot watch for signals")
}

/// Takes the master if the process has a terminal; init's end is closed by now.
fn take_terminal(socket: &OwnedFd) -> Result<Option<Relay>> {
    let Some(number) = wire::receive_descriptor(socket).context(|| "cannot receive the terminal")? else {
        return Ok(None);
    };
    let master = sys::process::inherited(number).context(|| "cannot take the terminal")?;
    Relay::begin(master).map(Some)
}

/// Waits for the end of `pid`. Nothing in the loop allocates: a container may run for years.
fn wait(signals: &SignalFd, pid: Pid, mut relay: Option<Relay>) -> i32 {
    loop {
        let open = match &mut relay {
            Some(relay) => relay.turn(signals),
            None => {
                let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
                true
            }
        };
        if !open {
            // The container closed its terminal; it may go on without.
            relay = None;
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => {}
                Ok(Signal::SIGWINCH) => relay.iter().for_each(Relay::resize),
                _ => {
                    let _ = kill(pid, signal.ssi_signo as i32);
                }
            }
        }
        if let Some(code) = reap(pid) {
            relay.iter().for_each(Relay::finish);
            return code;
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
