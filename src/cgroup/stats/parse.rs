//! The formats of cgroup files (cgroup-v2.rst, "Interface Files"; v1's per controller).

use std::collections::BTreeMap;

use super::{DeviceEntry, Pressure, Stalls};

/// A single value; `max` is the greatest.
pub fn value(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Lines of `KEY VALUE`.
pub fn keyed(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(key, number)| Some((key.to_owned(), number.trim().parse().ok()?))).collect()
}

/// Numbers with spaces between them.
pub fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// A list such as `0-2,7`.
pub fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and `full`.
pub fn pressure(text: &str) -> Pressure {
    let stalls = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_default();
        let field = |name: &str| {
            line.split_whitespace().filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|it| it.1)
        };
        let average = |name: &str| field(name).and_then(|number| number.parse().ok()).unwrap_or_default();
        let total = field("total").and_then(|number| number.parse().ok()).unwrap_or_default();
        Stalls { avg10: average("avg10"), avg60: average("avg60"), avg300: average("avg300"), total }
    };
    Pressure { some: stalls("some "), full: stalls("full ") }
}

/// v1's `8:0 Read 4096` and `8:0 4096`; the line of totals is none of a device.
pub fn device_lines(text: &str) -> Vec<DeviceEntry> {
    let entry = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let (op, value) = rest.split_once(' ').unwrap_or(("", rest));
        let (major, minor, value) = (major.parse().ok()?, minor.parse().ok()?, value.trim().parse().ok()?);
        Some(DeviceEntry { major, minor, op: op.to_owned(), value })
    };
    text.lines().filter_map(entry).collect()
}

/// v2's `8:0 rbytes=4096 wbytes=0 …`: the values of `keys`, under the names that v1 has for them.
pub fn device_pairs(text: &str, keys: &[(&str, &str)]) -> Vec<DeviceEntry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let Some((device, rest)) = line.split_once(' ') else { continue };
        for (key, op) in keys {
            let pair = rest.split_whitespace().filter_map(|pair| pair.split_once('=')).find(|(name, _)| name == key);
            let Some(value) = pair.and_then(|(_, value)| value.parse::<u64>().ok()) else { continue };
            entries.extend(device_lines(&format!("{device} {op} {value}")));
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_is_read_and_nonsense_is_not() {
        assert_eq!((value("7\n"), value("max\n"), value("-")), (Some(7), Some(u64::MAX), None));
        assert_eq!(keyed("a 1\nb x\nc 3\n").into_iter().collect::<Vec<_>>(), [("a".into(), 1), ("c".into(), 3)]);
        assert_eq!(list("0-2,7\n"), [0, 1, 2, 7]);
        assert!(list("\n").is_empty());
        assert_eq!(numbers("1 2 \n"), [1, 2]);
    }

    #[test]
    fn pressure_has_two_kinds() {
        let text = "some avg10=1.53 avg60=0.00 avg300=0.10 total=55\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        let read = pressure(text);
        assert_eq!(read.some, Stalls { avg10: 1.53, avg60: 0.0, avg300: 0.1, total: 55 });
        assert_eq!(read.full, Stalls::default());
    }

    #[test]
    fn devices_of_both_versions_come_to_the_same() {
        let entry = |op: &str, value| DeviceEntry { major: 8, minor: 16, op: op.into(), value };
        let v1 = device_lines("8:16 Read 4096\n8:16 Write 5\nTotal 4101\n");
        let v2 = device_pairs("8:16 rbytes=4096 wbytes=5 rios=1\nfoo\n", &[("rbytes", "Read"), ("wbytes", "Write")]);
        assert_eq!(v1, [entry("Read", 4096), entry("Write", 5)]);
        assert_eq!(v1, v2);
        assert_eq!(device_lines("8:16 3\n"), [entry("", 3)]);
    }
}
