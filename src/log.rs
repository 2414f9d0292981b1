//! The log: runc's text or JSON lines, each one write(2) on a file opened for appending.
//!
//! Engines read the log of a failed verb as one JSON value (podman) or as a stream of them (containerd), so a
//! failure writes exactly one line: warnings wait until it is known that there is none.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Context, Error, Result};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

struct Log {
    /// None: standard error.
    file: Option<File>,
    format: Format,
    debug: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Opens the log, once.
pub fn open(path: Option<&Path>, format: Format, debug: bool) -> Result<()> {
    let open = |path: &Path| {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o644).open(path).on_path("cannot open the log", path)
    };
    let file = path.map(open).transpose()?;
    let _ = LOG.set(Log { file, format, debug });
    Ok(())
}

/// Notes something that does not stop the verb. Written by [`flush`].
pub fn warn(message: impl Into<String>) {
    WARNINGS.lock().unwrap_or_else(PoisonError::into_inner).push(message.into());
}

/// Writes a line for `--debug`.
pub fn debug(message: impl FnOnce() -> String) {
    if LOG.get().is_some_and(|log| log.debug) {
        write("debug", &message(), &[]);
    }
}

/// Writes the warnings so far.
pub fn flush() {
    for warning in WARNINGS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        write("warning", &warning, &[]);
    }
}

/// Writes a line to standard error, which may be full or closed.
pub fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Has a panic told of as any error is. The process ends there.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        error(&Error::new(format!("a fault of kelson itself: {panic}")).hint("please report it, with this line"));
        crate::sys::process::exit_or_crash(255);
    }));
}

/// Writes the error that ends the program; on standard error too where the log is a file, as runc does.
pub fn error(error: &Error) {
    let message = error.to_string();
    if LOG.get().is_some_and(|log| log.file.is_some()) {
        // It may quote what the image says.
        say(&message.replace(|character: char| character.is_control() && character != '\n', "?"));
    }
    write("error", &message, &error.details());
}

fn write(level: &str, message: &str, details: &[(&'static str, String)]) {
    let time = rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    let log = LOG.get();
    let message = shorten(message);
    let line = match log.map_or(Format::Text, |log| log.format) {
        Format::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
        Format::Json => json_line(level, &message, &time, details),
    };
    let _ = match log.and_then(|log| log.file.as_ref()) {
        Some(mut file) => file.write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
}

/// Takes the middle out of a text so long, by a path of config.json, that one write(2) might not take it whole.
fn shorten(text: &str) -> Cow<'_, str> {
    const HEAD: usize = 4000;
    const TAIL: usize = 1000;
    let length = text.chars().count();
    if length <= HEAD + TAIL {
        return text.into();
    }
    text.chars().take(HEAD).chain(" ... ".chars()).chain(text.chars().skip(length - TAIL)).collect()
}

/// `{level,msg,time}` as engines decode it; the keys beside them are ours and ignored there.
fn json_line(level: &str, message: &str, time: &str, details: &[(&'static str, String)]) -> String {
    let mut object = serde_json::Map::new();
    for (key, value) in [("level", level), ("msg", message), ("time", time)] {
        object.insert(key.to_owned(), value.into());
    }
    for (key, value) in details {
        object.insert((*key).to_owned(), shorten(value).into());
    }
    format!("{}\n", serde_json::Value::Object(object))
}

/// Seconds since 1970 in UTC, as RFC 3339 writes them.
pub fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days from 1 March 0000, so that a leap day ends its year (400-year eras of 146097 days).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

/// Now, in UTC with nanoseconds, as `created` in the state has it.
pub fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = rfc3339(now.as_secs());
    format!("{}.{:09}Z", seconds.trim_end_matches('Z'), now.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_calendar_times() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_392_000), "2026-11-23T00:00:00Z");
        assert_eq!(rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn a_json_line_is_one_line() {
        let line = json_line("error", "a\n\"b\"", "t", &[("errno", "ENOENT".into())]);
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((value["msg"].as_str(), value["errno"].as_str()), (Some("a\n\"b\""), Some("ENOENT")));
    }
}
