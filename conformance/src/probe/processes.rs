//! The probe's commands on processes, signals and memory.
// nix's waitpid is fine here: no child of these commands is ended by a real-time signal.
#![allow(clippy::disallowed_methods)]

use super::{lossy, name_of};
use crate::{Result, during, names, say, sys};
use libc::{SIGKILL, SIGTERM};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpid, getppid, pipe};
use std::ffi::OsString;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

/// The one argument of a command that takes one.
fn only<T: FromStr>(args: &[OsString], usage: &str) -> Result<T> {
    let [argument] = args else { return Err(format!("usage: probe {usage}")) };
    lossy(argument).parse().map_err(|_| format!("'{}' is not valid (usage: probe {usage})", lossy(argument)))
}

/// `sleep SECONDS`: fractions are allowed.
pub fn sleep(args: &[OsString]) -> Result<i32> {
    let time = Duration::try_from_secs_f64(only(args, "sleep SECONDS")?).map_err(during("sleep"))?;
    thread::sleep(time);
    Ok(0)
}

/// `wait-term`: says "ready", then ends well at SIGTERM.
pub fn wait_term(_: &[OsString]) -> Result<i32> {
    let terminate = sys::signal_set(SIGTERM);
    sys::block(terminate).map_err(during("block SIGTERM"))?;
    say("ready")?;
    sys::wait_for(terminate).map_err(during("wait for SIGTERM"))?;
    Ok(0)
}

/// `signals`: says "ready", then each signal's name, until SIGTERM.
pub fn signals(_: &[OsString]) -> Result<i32> {
    sys::block(u64::MAX).map_err(during("block signals"))?;
    say("ready")?;
    loop {
        let signal = sys::wait_for(u64::MAX).map_err(during("wait for a signal"))?;
        say(names::signal_name(signal))?;
        if signal == SIGTERM {
            return Ok(0);
        }
    }
}

/// `exit N`
pub fn exit(args: &[OsString]) -> Result<i32> {
    only::<u8>(args, "exit N").map(i32::from)
}

/// `kill-self SIGNAL`
pub fn kill_self(args: &[OsString]) -> Result<i32> {
    let text: String = only(args, "kill-self SIGNAL")?;
    let signal = names::signal_number(&text).ok_or_else(|| format!("unknown signal '{text}'"))?;
    sys::end_by(signal).map_err(during(format!("raise {text}")))?;
    Err(format!("{text} did not end this process (PID {})", getpid()))
}

/// `memory MIB`: writes to each page of that much, then says "ok".
pub fn memory(args: &[OsString]) -> Result<i32> {
    let mib: usize = only(args, "memory MIB")?;
    let size = mib.saturating_mul(1 << 20);
    let mut memory = Vec::new();
    memory.try_reserve_exact(size).map_err(during(format!("allocate {mib} MiB")))?;
    memory.resize(size, 1_u8);
    black_box(&memory);
    say("ok")?;
    Ok(0)
}

/// `fork N`: says how many of N children there can be at once, and on stderr why not more.
pub fn fork(args: &[OsString]) -> Result<i32> {
    let wanted: usize = only(args, "fork N")?;
    let mut children = Vec::new();
    let mut refusal = None;
    while children.len() < wanted && refusal.is_none() {
        sys::spawn(idle).map_or_else(|errno| refusal = Some(errno), |child| children.push(child));
    }
    say(children.len())?;
    for child in children {
        let _ = kill(child, Signal::SIGKILL);
        let _ = waitpid(child, None);
    }
    if let Some(errno) = refusal {
        let _ = writeln!(std::io::stderr(), "probe: fork: {}", name_of(errno));
    }
    Ok(0)
}

/// Sleeps until its parent ends it, or ends itself.
fn idle() -> i32 {
    match sys::end_with_parent(SIGKILL) {
        Ok(()) => loop {
            thread::park();
        },
        Err(_) => 1,
    }
}

const ORPHANS: usize = 3;
const ADOPTION: Duration = Duration::from_secs(5);
const REAPING: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(1);

/// `zombies`: leaves orphans that end, and says for each who got it and when it was reaped. A probe that gets them
/// itself (as PID 1 or a subreaper) reaps them.
pub fn zombies(_: &[OsString]) -> Result<i32> {
    let (reader, writer) = pipe().map_err(during("make a pipe"))?;
    let writer = File::from(writer);
    let child = sys::spawn(|| leave_orphans(&writer)).map_err(during("fork"))?;
    drop(writer);
    waitpid(child, None).map_err(during("wait for the child"))?;
    let orphans: Vec<String> = BufReader::new(File::from(reader)).lines().map_while(std::result::Result::ok).collect();
    if orphans.len() != ORPHANS {
        return Err(format!("{} of {ORPHANS} orphans were adopted", orphans.len()));
    }
    let since = Instant::now();
    orphans.iter().try_fold(0, |worst, orphan| Ok(worst.max(follow(orphan, since)?)))
}

fn leave_orphans(adopted: &File) -> i32 {
    let parent = getpid();
    let left = (0..ORPHANS).all(|_| sys::spawn(|| orphan(adopted, parent)).is_ok());
    i32::from(!left)
}

/// Waits until it is one, says "PID PARENT", and ends.
fn orphan(mut adopted: &File, parent: Pid) -> i32 {
    let since = Instant::now();
    while getppid() == parent && since.elapsed() < ADOPTION {
        thread::sleep(PAUSE);
    }
    let line = format!("{} {}\n", getpid(), getppid());
    i32::from(adopted.write_all(line.as_bytes()).is_err())
}

/// Waits until the orphan on this line is gone: 0 if it went, 1 if it is still a zombie when the time is over.
fn follow(orphan: &str, since: Instant) -> Result<i32> {
    let (pid, parent) = orphan.split_once(' ').unwrap_or_default();
    let pid = Pid::from_raw(pid.parse().map_err(during("an orphan's PID"))?);
    while since.elapsed() < REAPING {
        if parent == getpid().to_string() {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
        if kill(pid, None) == Err(Errno::ESRCH) {
            say(format!("orphan {pid} of {parent} was reaped after {} ms", since.elapsed().as_millis()))?;
            return Ok(0);
        }
        thread::sleep(PAUSE);
    }
    say(format!("orphan {pid} of {parent} was not reaped in {} s", REAPING.as_secs()))?;
    Ok(1)
}
