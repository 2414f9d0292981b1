//! What systemd is told of the limits, so that it and the kernel agree: else it would undo them when it writes a
//! unit's settings again, as on `systemctl daemon-reload`. One table, from the files of cgroups to properties.

use std::collections::BTreeMap;

use super::text;
use super::value::Value;
use crate::cgroup::resources::Write;
use crate::error::{Error, Result};

/// A property of a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    pub name: String,
    pub value: Value,
    /// Whether an older systemd that does not know it may do without: the kernel is told anyway.
    pub optional: bool,
}

impl Property {
    /// One that systemd has to know.
    pub fn needed(name: &str, value: Value) -> Self {
        Self { name: name.to_owned(), value, optional: false }
    }

    /// One that newer versions of systemd know.
    pub fn optional(name: &str, value: Value) -> Self {
        Self { optional: true, ..Self::needed(name, value) }
    }
}

/// The values that are written to a cgroup, by file.
struct Files<'a>(Vec<(&'a str, &'a str)>);

impl Files<'_> {
    fn get(&self, file: &str) -> Option<&str> {
        self.0.iter().rfind(|(name, _)| *name == file).map(|(_, value)| value.trim())
    }
}

/// A property, and its value if the files have one for it.
type Row = (&'static str, fn(&Files<'_>) -> Option<Value>);

const ROWS: &[Row] = &[
    ("MemoryMin", |files| amount(files.get("memory.min")?)),
    ("MemoryLow", |files| amount(files.get("memory.low")?)),
    ("MemoryHigh", |files| amount(files.get("memory.high")?)),
    ("MemoryMax", |files| amount(files.get("memory.max")?)),
    ("MemorySwapMax", |files| amount(files.get("memory.swap.max")?)),
    ("MemoryZSwapMax", |files| amount(files.get("memory.zswap.max")?)),
    ("MemoryLimit", |files| amount(files.get("memory.limit_in_bytes")?)),
    ("OOMPolicy", |files| oom_policy(files.get("memory.oom.group")?)),
    // There may be a process before init, and systemd takes no 0: what the kernel is told afterwards holds.
    ("TasksMax", |files| at_least_two(files.get("pids.max")?)),
    ("CPUWeight", |files| amount(files.get("cpu.weight")?)),
    // What systemd calls idle.
    ("CPUWeight", |files| files.get("cpu.idle").filter(|value| *value == "1").map(|_| Value::U64(0))),
    ("CPUShares", |files| amount(files.get("cpu.shares")?)),
    ("CPUQuotaPeriodUSec", |files| quota(files).map(|(_, period)| Value::U64(period))),
    ("CPUQuotaPerSecUSec", |files| quota(files).map(|(quota, period)| Value::U64(per_second(quota, period)))),
    ("AllowedCPUs", |files| bits(files.get("cpuset.cpus")?)),
    ("AllowedMemoryNodes", |files| bits(files.get("cpuset.mems")?)),
    ("IOWeight", |files| amount(files.get("io.weight").map(|value| value.strip_prefix("default ").unwrap_or(value))?)),
    ("BlockIOWeight", |files| amount(files.get("blkio.weight")?)),
];

/// The properties for what is written to the cgroup.
pub fn of(writes: &[Write]) -> Vec<Property> {
    of_files(&Files(writes.iter().map(|write| (&*write.file, &*write.value)).collect()))
}

fn of_files(files: &Files<'_>) -> Vec<Property> {
    ROWS.iter().filter_map(|(name, value)| Some(Property::optional(name, value(files)?))).collect()
}

/// Systemd's "no limit".
const INFINITY: u64 = u64::MAX;

fn amount(value: &str) -> Option<Value> {
    match value {
        "max" | "-1" => Some(Value::U64(INFINITY)),
        _ => value.parse().ok().map(Value::U64),
    }
}

fn at_least_two(value: &str) -> Option<Value> {
    amount(if matches!(value, "0" | "1") { "2" } else { value })
}

fn oom_policy(value: &str) -> Option<Value> {
    match value {
        "0" => Some(Value::text("continue")),
        "1" => Some(Value::text("kill")),
        _ => None,
    }
}

/// Quota and period in microseconds, from v2's one file or v1's two.
fn quota(files: &Files<'_>) -> Option<(u64, u64)> {
    const DEFAULT_PERIOD: &str = "100000";
    let (quota, period) = match files.get("cpu.max") {
        Some(both) => both.split_once(' ').unwrap_or((both, DEFAULT_PERIOD)),
        None => {
            let (quota, period) = (files.get("cpu.cfs_quota_us"), files.get("cpu.cfs_period_us"));
            (quota.or(period.map(|_| "max"))?, period.unwrap_or(DEFAULT_PERIOD))
        }
    };
    let quota = if matches!(quota, "max" | "-1") { INFINITY } else { quota.parse().ok()? };
    Some((quota, period.trim().parse().ok().filter(|period| *period > 0)?))
}

/// Systemd counts in whole percent: rounded up, so that it never takes away what was granted.
fn per_second(quota: u64, period: u64) -> u64 {
    const SECOND: u128 = 1_000_000;
    const PERCENT: u128 = SECOND / 100;
    if quota == INFINITY {
        return INFINITY;
    }
    let exact = (u128::from(quota) * SECOND).div_ceil(period.into());
    u64::try_from(exact.next_multiple_of(PERCENT)).unwrap_or(INFINITY)
}

/// A list such as `0-3,7` as bytes of bits, the lowest first.
fn bits(list: &str) -> Option<Value> {
    const MAX: usize = 1 << 13;
    let mut bytes: Vec<u8> = Vec::new();
    for range in list.split(',').map(str::trim) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok().filter(|last| *last < MAX)?);
        bytes.resize(bytes.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|number| bytes[number / 8] |= 1 << (number % 8));
    }
    Some(Value::Array("y".into(), bytes.into_iter().map(Value::Byte).collect()))
}

/// What the keys of annotations that set properties begin with.
pub const ANNOTATION: &str = "org.systemd.property.";

/// Properties by which a container could reach beyond itself, or away from kelson.
const RESERVED: &[&str] =
    &["PIDs", "PIDFDs", "Slice", "Delegate", "DelegateControllers", "DelegateSubgroup", "Controller"];

/// Reads the annotations that set properties.
pub fn annotated(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>> {
    let ours = annotations.iter().filter_map(|(key, text)| Some((key, key.strip_prefix(ANNOTATION)?, text)));
    ours.map(|(key, name, text)| annotation(name, text).map_err(|error| error.pointer(format!("/annotations/{key}"))))
        .collect()
}

fn annotation(name: &str, text: &str) -> Result<Property> {
    if !name.starts_with(|c: char| c.is_ascii_uppercase()) || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Error::new(format!("{name:?} is no name of a unit's property")));
    }
    if RESERVED.contains(&name) {
        return Err(Error::new(format!("the property {name} of the container's unit is kelson's own")));
    }
    let value = text::parse(text)?;
    // systemd.directives(7) has seconds, its bus microseconds.
    match name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) {
        Some(stem) => match microseconds(&value) {
            Some(value) => Ok(Property::needed(&format!("{stem}USec"), value)),
            None => Err(Error::new(format!("{text:?} is no number of seconds"))),
        },
        None => Ok(Property::needed(name, value)),
    }
}

fn microseconds(seconds: &Value) -> Option<Value> {
    const SECOND: u64 = 1_000_000;
    let whole = match seconds {
        Value::Byte(number) => Some(u64::from(*number)),
        Value::I32(number) => u64::try_from(*number).ok(),
        Value::U32(number) => Some(u64::from(*number)),
        Value::I64(number) => u64::try_from(*number).ok(),
        Value::U64(number) => Some(*number),
        Value::Double(number) if *number >= 0.0 => return Some(Value::U64((number * 1e6) as u64)),
        _ => None,
    };
    whole?.checked_mul(SECOND).map(Value::U64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(files: &[(&str, &str)]) -> Vec<(String, Value)> {
        let properties = of_files(&Files(files.to_vec()));
        properties.into_iter().map(|property| (property.name, property.value)).collect()
    }

    fn number(name: &str, value: u64) -> (String, Value) {
        (name.to_owned(), Value::U64(value))
    }

    #[test]
    fn files_become_properties() {
        for (files, wanted) in [
            (&[("memory.max", "1048576")][..], vec![number("MemoryMax", 1_048_576)]),
            (&[("memory.swap.max", "max")], vec![number("MemorySwapMax", u64::MAX)]),
            (&[("memory.limit_in_bytes", "-1")], vec![number("MemoryLimit", u64::MAX)]),
            (&[("pids.max", "0")], vec![number("TasksMax", 2)]),
            (&[("cpu.weight", "79"), ("cpu.idle", "0")], vec![number("CPUWeight", 79)]),
            (&[("cpu.idle", "1")], vec![number("CPUWeight", 0)]),
            (&[("io.weight", "default 200")], vec![number("IOWeight", 200)]),
            (&[("io.weight", "8:0 200")], vec![]),
            (&[("memory.oom.group", "1")], vec![("OOMPolicy".to_owned(), Value::text("kill"))]),
            (&[("hugetlb.2MB.max", "0")], vec![]),
        ] {
            assert_eq!(told(files), wanted, "{files:?}");
        }
    }

    #[test]
    fn a_quota_is_rounded_up_to_a_percent() {
        for (files, period, second) in [
            (&[("cpu.max", "5000 10000")][..], 10_000, 500_000),
            (&[("cpu.max", "max 20000")], 20_000, u64::MAX),
            (&[("cpu.max", "33333 100000")], 100_000, 340_000),
            (&[("cpu.max", "50000")], 100_000, 500_000),
            (&[("cpu.cfs_quota_us", "20000"), ("cpu.cfs_period_us", "40000")], 40_000, 500_000),
            (&[("cpu.cfs_quota_us", "-1")], 100_000, u64::MAX),
            (&[("cpu.cfs_period_us", "40000")], 40_000, u64::MAX),
        ] {
            let wanted = vec![number("CPUQuotaPeriodUSec", period), number("CPUQuotaPerSecUSec", second)];
            assert_eq!(told(files), wanted, "{files:?}");
        }
        assert_eq!(told(&[("cpu.max", "1 0")]), []);
    }

    #[test]
    fn processors_are_bits_the_lowest_first() {
        let bytes = |list: &str| match bits(list) {
            Some(Value::Array(_, values)) => values.into_iter().map(|byte| byte == Value::Byte(0)).collect(),
            _ => vec![],
        };
        assert_eq!(bits("0-3,8"), Some(Value::Array("y".into(), vec![Value::Byte(15), Value::Byte(1)])));
        assert_eq!(bits("7"), Some(Value::Array("y".into(), vec![Value::Byte(128)])));
        assert_eq!(bytes("20"), [true, true, false]);
        for list in ["", "a", "1-", "0-99999999999", "-1"] {
            assert_eq!(bits(list), None, "{list}");
        }
    }

    #[test]
    fn annotations_set_properties() {
        let read = |name: &str, text: &str| {
            annotated(&BTreeMap::from([(format!("{ANNOTATION}{name}"), text.to_owned())]))
                .map(|mut properties| properties.remove(0))
        };
        let property = read("CollectMode", "'inactive-or-failed'").unwrap();
        assert_eq!(property, Property::needed("CollectMode", Value::text("inactive-or-failed")));
        for (name, text, value) in [
            ("TimeoutStopUSec", "uint64 5", 5),
            ("TimeoutStopSec", "5", 5_000_000),
            ("TimeoutStopSec", "double 1.5", 1_500_000),
            ("TimeoutStopSec", "uint64 5", 5_000_000),
        ] {
            assert_eq!(
                read(name, text).unwrap(),
                Property::needed("TimeoutStopUSec", Value::U64(value)),
                "{name} {text}"
            );
        }
        for (name, text) in [
            ("", "1"),
            ("lower", "1"),
            ("A B", "1"),
            ("After", "x"),
            ("PIDs", "[uint32 1]"),
            ("Slice", "'a.slice'"),
            ("TimeoutStopSec", "'a'"),
            ("TimeoutStopSec", "-1"),
            ("TimeoutStopSec", "uint64 18446744073709551615"),
        ] {
            assert!(read(name, text).is_err(), "{name} {text}");
        }
        assert!(annotated(&BTreeMap::from([("else".to_owned(), "[".to_owned())])).unwrap().is_empty());
    }
}
