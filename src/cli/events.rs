//! `kelson events`.

use std::time::Duration;

use clap::Parser;

use super::{Global, Verb};
use crate::error::{Error, Result};
use crate::events;
use crate::state::Store;

/// Show what a container uses, and when its memory runs out, as lines of JSON until it ends
#[derive(Debug, Parser)]
#[command(name = "kelson events", args_override_self = true)]
pub struct Events {
    #[command(flatten)]
    global: Global,
    /// Time between the statistics, such as 100ms, 5s or 1m30s
    #[arg(long, value_name = "TIME", default_value = "5s")]
    interval: String,
    /// Show the statistics once
    #[arg(long)]
    stats: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Verb for Events {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, store: &Store) -> Result<i32> {
        let interval = parse_interval(&self.interval)?;
        if self.stats {
            events::once(store, &self.id)?;
        } else {
            events::follow(store, &self.id, interval)?;
        }
        Ok(0)
    }
}

/// A time as Go writes it: numbers with units, one after the other.
fn parse_interval(text: &str) -> Result<Duration> {
    let wrong =
        || Error::new(format!("the interval {text:?} is no time above zero")).hint("such as 100ms, 5s or 1m30s");
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| c.is_alphabetic()).ok_or_else(wrong)?);
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len()));
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        seconds += factor * number.parse::<f64>().ok().filter(|_| is_number).ok_or_else(wrong)?;
        rest = after;
    }
    // Below this the statistics would only be of themselves.
    let least = Duration::from_millis(1);
    // Beyond this Go has no number for it, and clocks overflow.
    let most = Duration::from_nanos(i64::MAX as u64);
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|time| !time.is_zero() && *time <= most)
        .map(|time| time.max(least))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_go() {
        for (text, milliseconds) in [("5s", 5000), ("100ms", 100), ("1m30s", 90_000), ("1.5s", 1500), ("1h", 3_600_000)]
        {
            assert_eq!(parse_interval(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        assert_eq!(parse_interval("1µs").unwrap(), Duration::from_millis(1));
        assert!(parse_interval("2562047h").is_ok());
        for wrong in ["", "5", "s", "-1s", "0s", "5 s", "1e3s", "5d", "infs", "2562048h", "99999999999999999999h"] {
            assert!(parse_interval(wrong).is_err(), "{wrong}");
        }
    }
}
