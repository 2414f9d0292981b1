//! `kelson kill`.

use clap::Parser;
use nix::sys::signal::Signal;

use super::{Global, Verb};
use crate::error::{Error, Result};
use crate::lifecycle;
use crate::state::Store;

/// Send a signal to a container's first process
#[derive(Debug, Parser)]
#[command(name = "kelson kill", args_override_self = true)]
pub struct Kill {
    #[command(flatten)]
    global: Global,
    /// Send it to all processes of the container
    #[arg(long, short)]
    all: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// The signal: KILL, SIGKILL or 9
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    signal: String,
}

impl Verb for Kill {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, store: &Store) -> Result<i32> {
        let signal = if self.signal.is_empty() { libc::SIGTERM } else { parse_signal(&self.signal)? };
        lifecycle::kill(store, &self.id, signal, self.all).map(|()| 0)
    }
}

/// A signal by number, 0 for a mere look whether somebody is there, or by name, with or without `SIG`; real-time ones as
/// `RTMIN+3` and `RTMAX-3`.
fn parse_signal(text: &str) -> Result<i32> {
    const MIN: i32 = 34;
    const MAX: i32 = 64;
    let unknown = || Error::new(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=MAX).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |base: &str, from: i32, sign: i32, separator: char| -> Option<i32> {
        let rest = name.strip_prefix(base)?;
        let offset = if rest.is_empty() { 0 } else { rest.strip_prefix(separator)?.parse::<i32>().ok()? };
        Some(from + sign * offset).filter(|number| (MIN..=MAX).contains(number))
    };
    let known = || format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32);
    known()
        .or_else(|| real_time("RTMIN", MIN, 1, '+'))
        .or_else(|| real_time("RTMAX", MAX, -1, '-'))
        .or_else(|| (name == "POLL").then_some(libc::SIGIO))
        .ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("0", 0),
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("term", 15),
            ("RTMIN+3", 37),
            ("SIGRTMAX", 64),
            ("SIGCHLD", 17),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "-9", "65", "SIG", "MOON", "RTMIN+31", "RTMIN-1", "9 "] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
