//! `events`: what a container uses, now and then, and when its memory runs out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, write};
use serde::Serialize;

use crate::cgroup::oom::Watch;
use crate::cgroup::stats::Stats;
use crate::error::{Context, Error, Result};
use crate::state::{Init, State, Status, Store};
use crate::sys::child;
use crate::sys::process::{Forked, clone_classic, exit_or_crash, pidfd_open};

/// One line, as runc writes it.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

/// Prints what the container uses now.
pub fn once(store: &Store, id: &str) -> Result<()> {
    print(&line("stats", id, Some(load(store, id)?.0.cgroup.stats()))?)
}

/// Prints what the container uses after each interval, and when its memory runs out, until it ends.
pub fn follow(store: &Store, id: &str, interval: Duration) -> Result<()> {
    let (state, init) = load(store, id)?;
    let pidfd = pidfd_open(Pid::from_raw(init.pid)).ok();
    let mut watch = Watch::open(&state.cgroup)?;
    let out_of_memory = line("oom", id, None)?;
    let mut next = Instant::now() + interval;
    // Nothing in the loop allocates: a container may run for years.
    loop {
        let ended = wait(pidfd.as_ref(), watch.as_ref(), next);
        if watch.as_mut().is_some_and(Watch::has_fired) {
            print(&out_of_memory)?;
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            // Not from the time that it was due: after a suspend none is caught up with.
            next = Instant::now() + interval;
            if !sample(&state, init)? {
                return Ok(());
            }
        }
    }
}

fn load(store: &Store, id: &str) -> Result<(State, Init)> {
    let state = store.load(id)?;
    match state.init.filter(|_| state.status() != Status::Stopped) {
        Some(init) => Ok((state, init)),
        None => Err(Error::new("container not running")),
    }
}

/// Waits for something to tell; true once init has ended.
fn wait(pidfd: Option<&OwnedFd>, watch: Option<&Watch>, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    // One more: to wait until the time is over, not almost.
    let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    let init = pidfd.map(|pidfd| PollFd::new(pidfd.as_fd(), PollFlags::POLLIN));
    let has_events = |polled: &PollFd<'_>| polled.revents().is_some_and(|events| !events.is_empty());
    match (init, watch.map(Watch::awaited)) {
        (Some(init), Some(memory)) => {
            let mut both = [init, memory];
            let _ = poll(&mut both, timeout);
            has_events(&both[0])
        }
        (Some(init), None) => {
            let mut one = [init];
            let _ = poll(&mut one, timeout);
            has_events(&one[0])
        }
        (None, memory) => {
            let _ = poll(&mut memory.into_iter().collect::<Vec<_>>(), timeout);
            false
        }
    }
}

/// What the copy of this process that takes a sample ends with.
const GONE: i32 = 2;

/// Prints what is used now; false once the container has ended. A copy of this process does it, and takes along the
/// memory that it needed: what is allocated is never given back (`sys::alloc`).
fn sample(state: &State, init: Init) -> Result<bool> {
    match clone_classic(0).context(|| "cannot make a process for the statistics")? {
        Forked::Child => {
            let printed = if init.is_alive() { print_stats(state).map_or(1, |()| 0) } else { GONE };
            exit_or_crash(printed)
        }
        Forked::Parent { pid, .. } => {
            match child::wait(Some(pid), 0).ok().flatten().and_then(|(_, status)| status.code()) {
                Some(0) => Ok(true),
                Some(GONE) => Ok(false),
                _ => Err(Error::new("cannot print the statistics")),
            }
        }
    }
}

fn print_stats(state: &State) -> Result<()> {
    print(&line("stats", &state.id, Some(state.cgroup.stats()))?)
}

fn line(kind: &str, id: &str, data: Option<Stats>) -> Result<Vec<u8>> {
    let text = serde_json::to_vec(&Event { kind, id, data });
    let mut text = text.map_err(|error| Error::new(format!("cannot write JSON: {error}")))?;
    text.push(b'\n');
    Ok(text)
}

/// A line at once, which no other's can come into.
fn print(mut text: &[u8]) -> Result<()> {
    while !text.is_empty() {
        let written = write(io::stdout(), text).context(|| "cannot write to standard output")?;
        text = &text[written..];
    }
    Ok(())
}
