//! `kelson update`.

use std::fs::File;
use std::path::Path;

use clap::Parser;
use oci_spec::runtime::LinuxIntelRdt;
use serde_json::{Map, Value, json};

use super::{Global, Verb};
use crate::error::{Context, Error, Result};
use crate::spec::{self, Resources, by_text, parse};
use crate::state::Store;
use crate::update::{self, Request};

/// Change the limits of a container
#[derive(Debug, Parser)]
#[command(name = "kelson update", args_override_self = true)]
pub struct Update {
    #[command(flatten)]
    global: Global,
    /// Read what is to change from a JSON file, `-` for standard input, as in linux.resources of config.json; the
    /// limits given as flags are ignored then
    #[arg(long, short, value_name = "FILE", allow_hyphen_values = true)]
    resources: Option<String>,
    /// Weight of the container's input and output, 10 to 1000
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    blkio_weight: Option<String>,
    /// Period of the CPU quota, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_period: Option<String>,
    /// CPU time in each period, in microseconds; -1 for no limit
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// CPU time that may be saved up for later periods, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_burst: Option<String>,
    /// CPU shares relative to other containers
    #[arg(long, value_name = "SHARES", allow_hyphen_values = true)]
    cpu_share: Option<String>,
    /// Period of the real-time CPU limit, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_period: Option<String>,
    /// Real-time CPU time in each period, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<String>,
    /// CPUs to use, such as 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// 1: run only when nothing else wants to; 0: as usual
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    cpu_idle: Option<String>,
    /// Memory limit in bytes, or with a unit such as 50M; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory that the container keeps under pressure
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Limit on memory and swap together; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, hide = true)]
    kernel_memory: Option<String>,
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, hide = true)]
    kernel_memory_tcp: Option<String>,
    /// Limit on the number of processes; -1 for none
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// Schema of the L3 cache (Intel RDT)
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Schema of the memory bandwidth (Intel RDT)
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Verb for Update {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, store: &Store) -> Result<i32> {
        let file = self.resources.as_deref().filter(|file| !file.is_empty()).map(Path::new);
        let resources = file.map_or_else(|| self.flags_as_resources(), read)?;
        let updated = update::update(store, &self.id, &Request { resources, rdt: self.rdt() });
        updated.map(|()| 0).map_err(|error| match file {
            Some(file) => error.of_file(file, "/linux/resources"),
            None => self.place(error),
        })
    }
}

/// Reads a file, or standard input if it is `-`.
fn read(path: &Path) -> Result<Resources> {
    let bytes = if path == Path::new("-") {
        spec::read(std::io::stdin(), 0, path)?
    } else {
        spec::read(File::open(path).on_path("cannot open the new resources", path)?, 0, path)?
    };
    parse(&bytes).map_err(|error| error.of_file(path, ""))
}

/// A limit that was given as a flag.
struct Limit<'a> {
    section: &'static str,
    field: &'static str,
    flag: &'static str,
    text: &'a str,
    read: fn(&str) -> Option<Value>,
}

impl Update {
    /// The limits that are flags: where config.json has them, how they are called, and how they are read.
    fn limits(&self) -> impl Iterator<Item = Limit<'_>> {
        let limits = [
            ("blockIO", "weight", "blkio-weight", &self.blkio_weight, number as fn(&str) -> Option<Value>),
            ("cpu", "period", "cpu-period", &self.cpu_period, number),
            ("cpu", "quota", "cpu-quota", &self.cpu_quota, number),
            ("cpu", "burst", "cpu-burst", &self.cpu_burst, number),
            ("cpu", "shares", "cpu-share", &self.cpu_share, number),
            ("cpu", "realtimePeriod", "cpu-rt-period", &self.cpu_rt_period, number),
            ("cpu", "realtimeRuntime", "cpu-rt-runtime", &self.cpu_rt_runtime, number),
            ("cpu", "idle", "cpu-idle", &self.cpu_idle, number),
            ("cpu", "cpus", "cpuset-cpus", &self.cpuset_cpus, |text| Some(text.into())),
            ("cpu", "mems", "cpuset-mems", &self.cpuset_mems, |text| Some(text.into())),
            ("memory", "limit", "memory", &self.memory, size),
            ("memory", "reservation", "memory-reservation", &self.memory_reservation, size),
            ("memory", "swap", "memory-swap", &self.memory_swap, size),
            ("memory", "kernel", "kernel-memory", &self.kernel_memory, size),
            ("memory", "kernelTCP", "kernel-memory-tcp", &self.kernel_memory_tcp, size),
            ("pids", "limit", "pids-limit", &self.pids_limit, number),
        ];
        limits.into_iter().filter_map(|(section, field, flag, value, read)| {
            let text = value.as_deref().filter(|text| !text.is_empty())?;
            Some(Limit { section, field, flag, text, read })
        })
    }

    /// An error about what was given by a flag.
    fn place(&self, error: Error) -> Error {
        let limits =
            self.limits().map(|limit| (limit.flag, format!("/linux/resources/{}/{}", limit.section, limit.field)));
        let rdt = [("l3-cache-schema", "l3CacheSchema"), ("mem-bw-schema", "memBwSchema")];
        let rdt = rdt.map(|(flag, field)| (flag, format!("/linux/intelRdt/{field}")));
        limits.chain(rdt).fold(error, |error, (flag, pointer)| error.of_flag(&format!("--{flag}"), &pointer))
    }

    /// The flags, put where config.json has them.
    fn flags_as_resources(&self) -> Result<Resources> {
        let mut json = json!({});
        for Limit { section, field, flag, text, read } in self.limits() {
            let wrong = || Error::new(format!("--{flag} cannot be {text:?}"));
            let value = read(text).ok_or_else(wrong)?;
            let section = json.as_object_mut().map(|all| all.entry(section).or_insert_with(|| Map::new().into()));
            if let Some(section) = section {
                section[field] = value;
            }
            // Each by itself, so that the error is about the flag.
            by_text::<Resources>(&json).map_err(|_| wrong())?;
        }
        by_text(&json)
    }

    fn rdt(&self) -> Option<LinuxIntelRdt> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (cache, bandwidth) = (set(&self.l3_cache_schema), set(&self.mem_bw_schema));
        if cache.is_none() && bandwidth.is_none() {
            return None;
        }
        let mut rdt = LinuxIntelRdt::default();
        rdt.set_l3_cache_schema(cache).set_mem_bw_schema(bandwidth);
        Some(rdt)
    }
}

fn number(text: &str) -> Option<Value> {
    text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from)).ok()
}

/// A number of bytes, with a unit of powers of 1024 or without: `-1`, `52428800`, `50M`, `1.5g`, `10 MiB`.
pub fn size(text: &str) -> Option<Value> {
    if text == "-1" {
        return Some((-1).into());
    }
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.')? + 1;
    let (number, unit) = (&text[..end], text[end..].trim_start().to_ascii_lowercase());
    let (prefix, rest) = unit.split_at_checked(1).unwrap_or_default();
    let power = match prefix {
        "" | "b" => 0,
        prefix => 1 + "kmgtp".find(prefix)? as i32,
    };
    if !(rest.is_empty() || power > 0 && matches!(rest, "b" | "ib")) {
        return None;
    }
    let bytes = number.parse::<f64>().ok()? * 1024_f64.powi(power);
    // Beyond 2^53 it is not exact, and need not be.
    #[allow(clippy::cast_precision_loss)]
    (bytes.is_finite() && bytes >= 0.0 && bytes < i64::MAX as f64).then(|| (bytes as i64).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("-1", -1_i64),
            ("0", 0),
            ("67108864", 67_108_864),
            ("50M", 52_428_800),
            ("50m", 52_428_800),
            ("1.5g", 1_610_612_736),
            ("10 MiB", 10_485_760),
            ("2kb", 2048),
            ("7b", 7),
            ("1p", 1_i64 << 50),
        ] {
            assert_eq!(size(text), Some(bytes.into()), "{text}");
        }
        for text in ["", "M", "-2", "5x", "5bb", "5mbi", "1e99999", "0x10", "5 5 M", "99999999999999999999p", "1.2.3"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn flags_go_where_config_json_has_them() {
        let line = ["update", "--memory", "50M", "--cpu-idle", "0", "--pids-limit", "-1", "--cpuset-cpus=", "id"];
        let resources = Update::try_parse_from(line).unwrap().flags_as_resources().unwrap();
        let wanted = json!({"memory": {"limit": 52_428_800}, "cpu": {"idle": 0}, "pids": {"limit": -1}});
        assert_eq!(serde_json::to_value(resources).unwrap(), wanted);
        for (flag, value) in
            [("--blkio-weight", "70000"), ("--cpu-share", "-1"), ("--pids-limit", "x"), ("--memory", "?")]
        {
            let error =
                Update::try_parse_from(["update", flag, value, "id"]).unwrap().flags_as_resources().unwrap_err();
            assert!(error.to_string().contains(flag), "{error}");
        }
    }
}
