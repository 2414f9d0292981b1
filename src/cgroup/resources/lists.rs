//! Fields that are lists: an entry is a line, or a file of its own.
// One signature for all that stand in the table.
#![allow(clippy::unnecessary_wraps)]

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::convert::{BLOCK_WEIGHTS, io_weight};
use super::{Value, Values};
use crate::error::{Error, Result};
use crate::spec::Resources;

/// One of `blockIO`'s lists of limits for devices.
type Rates<'a> = Option<&'a Vec<LinuxThrottleDevice>>;

pub fn read_bps(resources: &Resources) -> Rates<'_> {
    resources.block_io.as_ref().and_then(|io| io.throttle_read_bps_device().as_ref())
}

pub fn write_bps(resources: &Resources) -> Rates<'_> {
    resources.block_io.as_ref().and_then(|io| io.throttle_write_bps_device().as_ref())
}

pub fn read_iops(resources: &Resources) -> Rates<'_> {
    resources.block_io.as_ref().and_then(|io| io.throttle_read_iops_device().as_ref())
}

pub fn write_iops(resources: &Resources) -> Rates<'_> {
    resources.block_io.as_ref().and_then(|io| io.throttle_write_iops_device().as_ref())
}

/// A line for each entry of a list.
fn lines<T>(list: Option<&Vec<T>>, line: impl Fn(&T) -> String) -> Vec<Value> {
    let entries = list.into_iter().flatten().enumerate();
    entries.map(|(index, entry)| Value { at: format!("/{index}"), text: line(entry), ..Value::default() }).collect()
}

pub fn rates_v1(list: Rates<'_>) -> Values {
    Ok(lines(list, |device| format!("{}:{} {}", device.major(), device.minor(), device.rate())))
}

/// v1 takes a rate of 0 for none, v2 for a mistake.
pub fn rates_v2(list: Rates<'_>, key: &str) -> Values {
    let rate = |rate: u64| if rate == 0 { "max".to_owned() } else { rate.to_string() };
    Ok(lines(list, |device| format!("{}:{} {key}={}", device.major(), device.minor(), rate(device.rate()))))
}

fn check_weight(weight: u16) -> Result<u16> {
    let (least, most) = (BLOCK_WEIGHTS.start(), BLOCK_WEIGHTS.end());
    let wrong = || Error::new(format!("a weight for block devices is {least} to {most}, not {weight}"));
    if BLOCK_WEIGHTS.contains(&weight) { Ok(weight) } else { Err(wrong()) }
}

fn weight(resources: &Resources) -> Result<Option<u16>> {
    let weight = resources.block_io.as_ref().and_then(LinuxBlockIo::weight);
    weight.filter(|weight| *weight != 0).map(check_weight).transpose()
}

/// The file's name changed with the scheduler: CFQ up to Linux 5.0, BFQ after.
pub fn weight_v1(resources: &Resources) -> Values {
    let value = |weight: u16| Value {
        text: weight.to_string(),
        instead: Some(("blkio.bfq.weight".into(), weight.to_string())),
        ..Value::default()
    };
    Ok(weight(resources)?.map(value).into_iter().collect())
}

/// BFQ has v1's weights; the io controller itself other ones.
pub fn weight_v2(resources: &Resources) -> Values {
    let value = |weight: u16| Value {
        text: weight.to_string(),
        instead: Some(("io.weight".into(), io_weight(weight).to_string())),
        ..Value::default()
    };
    Ok(weight(resources)?.map(value).into_iter().collect())
}

/// The weights of single devices: place in the list, device, weight.
fn device_weights(resources: &Resources) -> Result<Vec<(String, String, u16)>> {
    let list = resources.block_io.as_ref().and_then(|io| io.weight_device().as_ref()).into_iter().flatten();
    let set = list.enumerate().filter_map(|(index, entry)| {
        let weight = entry.weight().filter(|weight| *weight != 0)?;
        let (at, device) = (format!("/{index}"), format!("{}:{}", entry.major(), entry.minor()));
        Some(check_weight(weight).map(|weight| (at, device, weight)))
    });
    set.collect()
}

pub fn device_weights_v1(resources: &Resources) -> Values {
    let mut values = Vec::new();
    for (at, device, weight) in device_weights(resources)? {
        let text = format!("{device} {weight}");
        let instead = Some(("blkio.bfq.weight_device".into(), text.clone()));
        values.push(Value { at, text, instead, ..Value::default() });
    }
    let list = resources.block_io.as_ref().and_then(|io| io.weight_device().as_ref()).into_iter().flatten();
    for (index, entry) in list.enumerate() {
        let Some(weight) = entry.leaf_weight().filter(|weight| *weight != 0) else { continue };
        values.push(Value {
            at: format!("/{index}"),
            file: "blkio.leaf_weight_device".into(),
            text: format!("{}:{} {weight}", entry.major(), entry.minor()),
            ..Value::default()
        });
    }
    Ok(values)
}

pub fn device_weights_v2(resources: &Resources) -> Values {
    let list = resources.block_io.as_ref().and_then(|io| io.weight_device().as_ref()).into_iter().flatten();
    if let Some(index) = list.into_iter().position(|entry| entry.leaf_weight().is_some_and(|weight| weight != 0)) {
        let pointer = format!("/linux/resources/blockIO/weightDevice/{index}/leafWeight");
        return Err(Error::new("cgroup v2 has nothing for leafWeight").pointer(pointer));
    }
    let value = |(at, device, weight): (String, String, u16)| Value {
        at,
        text: format!("{device} {weight}"),
        instead: Some(("io.weight".into(), format!("{device} {}", io_weight(weight)))),
        ..Value::default()
    };
    Ok(device_weights(resources)?.into_iter().map(value).collect())
}

/// A file for each page size; what is reserved first, since it comes before what is used. Before Linux 5.7
/// reservations were not counted.
pub fn hugepages(resources: &Resources, suffix: &str) -> Values {
    let mut values = Vec::new();
    for (index, limit) in resources.hugepage_limits.iter().enumerate() {
        let (at, size) = (format!("/{index}"), &limit.page_size);
        if !is_page_size(size) {
            let pointer = format!("/linux/resources/hugepageLimits{at}/pageSize");
            return Err(Error::new(format!("{size:?} is no page size")).pointer(pointer).hint("such as 2MB"));
        }
        for (reserved, optional) in [(".rsvd", true), ("", false)] {
            let file = format!("hugetlb.{size}{reserved}.{suffix}");
            values.push(Value { at: at.clone(), file, text: limit.limit.to_string(), optional, instead: None });
        }
    }
    Ok(values)
}

/// Such as `2MB`: it becomes a part of a file's name.
fn is_page_size(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let unit = &text[digits.len()..];
    let is_number = !digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number && matches!(unit, "KB" | "MB" | "GB")
}

pub fn rdma(resources: &Resources) -> Values {
    let value = |(device, limits): (&String, &oci_spec::runtime::LinuxRdma)| {
        let at = format!("/{}", escape(device));
        let wrong = |message: &str| Error::new(message).pointer(format!("/linux/resources/rdma{at}"));
        if device.is_empty() || device.contains(char::is_whitespace) {
            return Err(wrong("that is no name of a device"));
        }
        let limits = [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())];
        let set = limits.iter().filter_map(|(key, limit)| limit.map(|limit| format!(" {key}={limit}")));
        let set: String = set.collect();
        if set.is_empty() {
            return Err(wrong("one of hcaHandles and hcaObjects has to be set"));
        }
        Ok(Value { at, text: format!("{device}{set}"), ..Value::default() })
    };
    resources.rdma.iter().map(value).collect()
}

pub fn priorities(resources: &Resources) -> Values {
    let list = resources.network.as_ref().and_then(|network| network.priorities().as_ref());
    Ok(lines(list, |entry| format!("{} {}", entry.name(), entry.priority())))
}

/// Files of cgroup v2 by their names. Of a value with several lines, each is a write of its own.
pub fn unified(resources: &Resources) -> Values {
    let mut values = Vec::new();
    for (key, text) in &resources.unified {
        let at = format!("/{}", escape(key));
        if !key.contains('.') || key.starts_with('.') || key.contains('/') || key.contains("..") {
            let pointer = format!("/linux/resources/unified{at}");
            return Err(Error::new(format!("{key:?} is no file of a cgroup")).pointer(pointer));
        }
        let lines = text.split('\n').enumerate().filter(|(number, line)| *number == 0 || !line.is_empty());
        values.extend(lines.map(|(_, line)| Value {
            at: at.clone(),
            file: key.clone(),
            text: line.to_owned(),
            ..Value::default()
        }));
    }
    Ok(values)
}

/// A name as a part of a JSON pointer (RFC 6901).
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
