//! What a container uses, in the words of runc's `events`: field by field, with runc's order and its rules of what is
//! left out, since programs decode it.

mod parse;
mod read;

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// All of it.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    cpu: Cpu,
    cpuset: CpuSet,
    memory: Memory,
    pids: Pids,
    blkio: BlockIo,
    hugetlb: BTreeMap<String, HugePages>,
    intel_rdt: BTreeMap<String, String>,
    /// runc knows of none either since network configuration is the engine's.
    network_interfaces: Option<()>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Cpu {
    #[serde(skip_serializing_if = "is_zero")]
    usage: CpuUsage,
    #[serde(skip_serializing_if = "is_zero")]
    throttling: Throttling,
    #[serde(skip_serializing_if = "is_zero")]
    psi: Option<Pressure>,
}

/// In nanoseconds.
#[derive(Debug, Default, PartialEq, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    #[serde(skip_serializing_if = "is_zero")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

/// Pressure stall information.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Pressure {
    #[serde(skip_serializing_if = "is_zero")]
    some: Stalls,
    #[serde(skip_serializing_if = "is_zero")]
    full: Stalls,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Stalls {
    #[serde(serialize_with = "as_go_does")]
    avg10: f64,
    #[serde(serialize_with = "as_go_does")]
    avg60: f64,
    #[serde(serialize_with = "as_go_does")]
    avg300: f64,
    total: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct CpuSet {
    #[serde(skip_serializing_if = "is_zero")]
    cpus: Vec<u16>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "is_zero")]
    mems: Vec<u16>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: MemoryEntry,
    #[serde(skip_serializing_if = "is_zero")]
    swap: MemoryEntry,
    #[serde(skip_serializing_if = "is_zero")]
    kernel: MemoryEntry,
    #[serde(rename = "kernelTCP", skip_serializing_if = "is_zero")]
    kernel_tcp: MemoryEntry,
    #[serde(skip_serializing_if = "is_zero")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "is_zero")]
    psi: Option<Pressure>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct MemoryEntry {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    /// 0 where there is none.
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockIo {
    #[serde(skip_serializing_if = "is_zero")]
    io_service_bytes_recursive: Vec<DeviceEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    io_serviced_recursive: Vec<DeviceEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    io_queue_recursive: Vec<DeviceEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    io_service_time_recursive: Vec<DeviceEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    io_wait_time_recursive: Vec<DeviceEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    io_merged_recursive: Vec<DeviceEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    io_time_recursive: Vec<DeviceEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    sectors_recursive: Vec<DeviceEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    psi: Option<Pressure>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct DeviceEntry {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    #[serde(skip_serializing_if = "is_zero")]
    op: String,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct HugePages {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

/// What Go's encoder leaves out of a field marked so.
fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A number without a fraction has no point.
#[allow(clippy::trivially_copy_pass_by_ref, clippy::float_cmp)] // as serde calls it; exactly whole
fn as_go_does<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if number.trunc() == *number { serializer.serialize_u64(*number as u64) } else { serializer.serialize_f64(*number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_left_out_as_by_runc() {
        let text = serde_json::to_string(&Stats::default()).unwrap();
        let cpuset = concat!(
            r#"{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"#,
            r#""memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0}"#
        );
        let rest = r#""memory":{},"pids":{},"blkio":{},"hugetlb":{},"intel_rdt":{},"network_interfaces":null}"#;
        assert_eq!(text, format!(r#"{{"cpu":{{}},"cpuset":{cpuset},{rest}"#));
    }

    #[test]
    fn numbers_look_as_go_writes_them() {
        let stalls = Stalls { avg10: 0.0, avg60: 1.5, avg300: 12.0, total: 7 };
        let text = serde_json::to_string(&Pressure { some: stalls, full: Stalls::default() }).unwrap();
        assert_eq!(text, r#"{"some":{"avg10":0,"avg60":1.5,"avg300":12,"total":7}}"#);
    }
}
