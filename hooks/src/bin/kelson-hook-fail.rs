//! `kelson-hook-fail [--status N] [--signal NAME] [--message TEXT] [--if-exists PATH]`: a hook that fails as told,
//! by a status (1 if none is given) or by a signal; with `--if-exists`, only while PATH is there.

use kelson_hooks::{Result, drain_stdin, during, run, say, signal};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: kelson-hook-fail [--status N] [--signal NAME] [--message TEXT] [--if-exists PATH]";

struct Failure {
    status: u8,
    signal: Option<Signal>,
    message: Option<String>,
    condition: Option<OsString>,
}

fn main() -> ExitCode {
    run("kelson-hook-fail", fail)
}

fn fail(args: &[OsString]) -> Result<()> {
    let failure = parse(args)?;
    // Whether the state could be read is of no interest: the hook is here to fail.
    let _ = drain_stdin();
    if failure.condition.is_some_and(|path| !Path::new(&path).exists()) {
        return Ok(());
    }
    if let Some(message) = failure.message {
        say(&message);
    }
    match failure.signal {
        Some(sig) => signal::end_by(sig),
        None => std::process::exit(failure.status.into()),
    }
}

fn parse(args: &[OsString]) -> Result<Failure> {
    let mut failure = Failure { status: 1, signal: None, message: None, condition: None };
    for option in args.chunks(2) {
        let [name, value] = option else { return Err(USAGE.into()) };
        let text = value.to_string_lossy();
        match name.to_str() {
            Some("--status") => failure.status = text.parse().map_err(during(format!("--status '{text}'")))?,
            Some("--signal") => failure.signal = Some(signal::parse(&text)?),
            Some("--message") => failure.message = Some(text.into_owned()),
            Some("--if-exists") => failure.condition = Some(value.clone()),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(failure)
}
