//! `kelson-hook-trace FILE NAME`: appends NAME and the time to FILE as one line of JSON: the order of hooks and
//! what passes between them.

use kelson_hooks::{Result, append_line, drain_stdin, during, run};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    run("kelson-hook-trace", trace)
}

fn trace(args: &[OsString]) -> Result<()> {
    let [file, name] = args else { return Err("usage: kelson-hook-trace FILE NAME".into()) };
    // The time is taken first: the runtime may be slow to close stdin.
    let record = json!({
        "hook": name.to_string_lossy(),
        "monotonic": nanoseconds(ClockId::CLOCK_MONOTONIC)?,
        "boottime": nanoseconds(ClockId::CLOCK_BOOTTIME)?,
        "pid": std::process::id(),
    });
    drain_stdin()?;
    append_line(file, &record)
}

fn nanoseconds(clock: ClockId) -> Result<i64> {
    let time = clock_gettime(clock).map_err(during("read the clock"))?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}
