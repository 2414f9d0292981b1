//! What kelson's hooks share: reading the container's state, appending to a log, ending with one clear line.

use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

pub mod signal;

/// The outcome of a hook's step; the error is the text for its user.
pub type Result<T> = std::result::Result<T, String>;

/// Runs the body of the hook `name` with its arguments: an error becomes one line on stderr and status 1.
pub fn run(name: &str, body: impl FnOnce(&[OsString]) -> Result<()>) -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match body(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            say(&format!("{name}: {text}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line on stderr. A runtime may have closed it: that is no reason to fail.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Puts what was being done before the error of doing it.
pub fn during<E: Display>(what: impl Display) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Reads stdin to its end, so that the runtime that writes the state there never meets a closed pipe.
pub fn drain_stdin() -> Result<Vec<u8>> {
    let mut state = Vec::new();
    io::stdin().read_to_end(&mut state).map_err(during("read the container's state from stdin"))?;
    Ok(state)
}

/// The container's state, as the runtime writes it to a hook's stdin.
pub fn read_state() -> Result<Value> {
    serde_json::from_slice(&drain_stdin()?).map_err(during("stdin holds no container state"))
}

/// Appends `record` as one line in a single write(2), so that lines of hooks that run at once never mix.
///
/// The file is private: a state and an environment can hold secrets.
pub fn append_line(file: &OsStr, record: &Value) -> Result<()> {
    let path = file.to_string_lossy();
    let line = format!("{record}\n");
    let mut log =
        OpenOptions::new().append(true).create(true).mode(0o600).open(file).map_err(during(format!("open {path}")))?;
    let written = log.write(line.as_bytes()).map_err(during(format!("append to {path}")))?;
    if written == line.len() {
        return Ok(());
    }
    Err(format!("append to {path}: only {written} of {} bytes were written", line.len()))
}
