//! `racer PATH_A PATH_B [SECONDS]`: swaps two paths as fast as it can until SIGTERM, SIGINT or the time is over, and
//! says how often it did: the other side of a race with a runtime that resolves a path twice.
#![cfg_attr(not(test), no_main)]

use kelson_conformance::{Result, during, entry, say, sys};
use nix::errno::Errno;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: racer PATH_A PATH_B [SECONDS]";
/// Swaps between two looks at the clock and the signals.
const BATCH: u32 = 256;

entry!("racer", run);

fn run(args: &[OsString]) -> Result<i32> {
    let (one, other, seconds) = match args {
        [_, one, other] => (one, other, None),
        [_, one, other, seconds] => (one, other, Some(seconds)),
        _ => return Err(USAGE.into()),
    };
    let end = seconds.map(end_after).transpose()?;
    let stop = sys::signal_set(libc::SIGTERM) | sys::signal_set(libc::SIGINT);
    sys::block(stop).map_err(during("block signals"))?;
    let (swaps, error) = race(&c_string(one)?, &c_string(other)?, || {
        sys::has_come(stop) || end.is_some_and(|end| Instant::now() >= end)
    });
    say(swaps)?;
    match error {
        Some(errno) if swaps == 0 => Err(format!("no swap worked: {errno}")),
        _ => Ok(0),
    }
}

/// Swaps until `over`. A swap that fails is no end: the runtime may just be making or mounting on one of the paths.
fn race(one: &CString, other: &CString, over: impl Fn() -> bool) -> (u64, Option<Errno>) {
    let (mut swaps, mut error) = (0, None);
    while !over() {
        for _ in 0..BATCH {
            match sys::exchange(one, other) {
                Ok(()) => swaps += 1,
                Err(errno) => error = Some(errno),
            }
        }
    }
    (swaps, error)
}

fn end_after(seconds: &OsString) -> Result<Instant> {
    let text = seconds.to_string_lossy();
    let seconds = text.parse().map_err(during(format!("seconds '{text}'")))?;
    let time = Duration::try_from_secs_f64(seconds).map_err(during(format!("seconds '{text}'")))?;
    Instant::now().checked_add(time).ok_or_else(|| format!("seconds '{text}': too many"))
}

fn c_string(path: &OsString) -> Result<CString> {
    CString::new(path.as_bytes()).map_err(during("path"))
}
