//! The table: each field of `linux.resources`, and its file on v1 and on v2.
// One signature for all that stand in the table.
#![allow(clippy::unnecessary_wraps)]

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork};

use super::convert::{cpu_max, process_limit, shares, swap_max, swap_total, weight};
use super::{Value, Values, lists};
use crate::error::{Error, Result};
use crate::spec::Resources;

/// A field of the spec.
pub struct Field {
    /// Its JSON pointer below `/linux/resources`.
    pub name: &'static str,
    /// Other fields that its value depends on.
    pub with: &'static [&'static str],
    /// Where v1 has it; none: it cannot be expressed there.
    pub v1: Option<File>,
    pub v2: Option<File>,
}

/// A file of a cgroup, and what a field comes to in it.
pub struct File {
    pub controller: &'static str,
    pub name: &'static str,
    pub values: fn(&Resources) -> Values,
}

const fn field(name: &'static str, v1: Option<File>, v2: Option<File>) -> Field {
    Field { name, with: &[], v1, v2 }
}

const fn file(controller: &'static str, name: &'static str, values: fn(&Resources) -> Values) -> Option<File> {
    Some(File { controller, name, values })
}

const NONE: Option<File> = None;

impl Field {
    const fn with(mut self, others: &'static [&'static str]) -> Self {
        self.with = others;
        self
    }
}

/// In the order in which they are written. The kernel checks some against others (memory against swap, a burst
/// against its quota): what it refuses is written once more after the rest.
pub const FIELDS: &[Field] = &[
    field(
        "memory/limit",
        file("memory", "memory.limit_in_bytes", |r| number(bytes(r, LinuxMemory::limit)?)),
        file("memory", "memory.max", |r| number_or_max(bytes(r, LinuxMemory::limit)?)),
    ),
    field(
        "memory/swap",
        file("memory", "memory.memsw.limit_in_bytes", swap_total),
        file("memory", "memory.swap.max", swap_max),
    )
    .with(&["memory/limit"]),
    field(
        "memory/reservation",
        file("memory", "memory.soft_limit_in_bytes", |r| number(bytes(r, LinuxMemory::reservation)?)),
        file("memory", "memory.low", |r| number_or_max(bytes(r, LinuxMemory::reservation)?)),
    ),
    field(
        "memory/kernel",
        #[allow(deprecated)]
        file("memory", "memory.kmem.limit_in_bytes", |r| number(bytes(r, LinuxMemory::kernel)?)),
        NONE,
    ),
    field(
        "memory/kernelTCP",
        file("memory", "memory.kmem.tcp.limit_in_bytes", |r| number(bytes(r, LinuxMemory::kernel_tcp)?)),
        NONE,
    ),
    field(
        "memory/swappiness",
        file("memory", "memory.swappiness", |r| number(memory(r, LinuxMemory::swappiness))),
        NONE,
    ),
    field(
        "memory/disableOOMKiller",
        file("memory", "memory.oom_control", |r| switch(memory(r, LinuxMemory::disable_oom_killer))),
        file("memory", "", |r| {
            only(memory(r, LinuxMemory::disable_oom_killer), false, "cannot keep the OOM killer off")
        }),
    ),
    field(
        "memory/useHierarchy",
        file("memory", "memory.use_hierarchy", |r| switch(memory(r, LinuxMemory::use_hierarchy))),
        file("memory", "", |r| only(memory(r, LinuxMemory::use_hierarchy), true, "always counts what is nested")),
    ),
    field(
        "cpu/idle",
        file("cpu", "cpu.idle", |r| number(cpu(r, LinuxCpu::idle))),
        file("cpu", "cpu.idle", |r| number(cpu(r, LinuxCpu::idle))),
    ),
    // Written again after it was idle, which takes the weight away.
    field(
        "cpu/shares",
        file("cpu", "cpu.shares", |r| if is_idle(r) { Ok(Vec::new()) } else { shares(r) }),
        file("cpu", "cpu.weight", |r| {
            number(cpu(r, LinuxCpu::shares).filter(|shares| *shares != 0 && !is_idle(r)).map(weight))
        }),
    )
    .with(&["cpu/idle"]),
    field(
        "cpu/realtimePeriod",
        file("cpu", "cpu.rt_period_us", |r| number(cpu(r, LinuxCpu::realtime_period).filter(|n| *n != 0))),
        NONE,
    ),
    field(
        "cpu/realtimeRuntime",
        file("cpu", "cpu.rt_runtime_us", |r| number(cpu(r, LinuxCpu::realtime_runtime).filter(|n| *n != 0))),
        NONE,
    ),
    field(
        "cpu/period",
        file("cpu", "cpu.cfs_period_us", |r| number(cpu(r, LinuxCpu::period).filter(|n| *n != 0))),
        // In one line with the quota.
        file("cpu", "cpu.max", |_| Ok(Vec::new())),
    ),
    field(
        "cpu/quota",
        file("cpu", "cpu.cfs_quota_us", |r| number(cpu(r, LinuxCpu::quota).filter(|n| *n != 0))),
        file("cpu", "cpu.max", cpu_max),
    )
    .with(&["cpu/period"]),
    field(
        "cpu/burst",
        file("cpu", "cpu.cfs_burst_us", |r| number(cpu(r, LinuxCpu::burst))),
        file("cpu", "cpu.max.burst", |r| number(cpu(r, LinuxCpu::burst))),
    ),
    field("cpu/cpus", file("cpuset", "cpuset.cpus", cpus), file("cpuset", "cpuset.cpus", cpus)),
    field("cpu/mems", file("cpuset", "cpuset.mems", mems), file("cpuset", "cpuset.mems", mems)),
    field("pids/limit", file("pids", "pids.max", process_limit), file("pids", "pids.max", process_limit)),
    field(
        "blockIO/weight",
        file("blkio", "blkio.weight", lists::weight_v1),
        file("io", "io.bfq.weight", lists::weight_v2),
    ),
    field(
        "blockIO/leafWeight",
        file("blkio", "blkio.leaf_weight", |r| {
            number(r.block_io.as_ref().and_then(LinuxBlockIo::leaf_weight).filter(|weight| *weight != 0))
        }),
        NONE,
    ),
    field(
        "blockIO/weightDevice",
        file("blkio", "blkio.weight_device", lists::device_weights_v1),
        file("io", "io.bfq.weight", lists::device_weights_v2),
    ),
    field(
        "blockIO/throttleReadBpsDevice",
        file("blkio", "blkio.throttle.read_bps_device", |r| lists::rates_v1(lists::read_bps(r))),
        file("io", "io.max", |r| lists::rates_v2(lists::read_bps(r), "rbps")),
    ),
    field(
        "blockIO/throttleWriteBpsDevice",
        file("blkio", "blkio.throttle.write_bps_device", |r| lists::rates_v1(lists::write_bps(r))),
        file("io", "io.max", |r| lists::rates_v2(lists::write_bps(r), "wbps")),
    ),
    field(
        "blockIO/throttleReadIOPSDevice",
        file("blkio", "blkio.throttle.read_iops_device", |r| lists::rates_v1(lists::read_iops(r))),
        file("io", "io.max", |r| lists::rates_v2(lists::read_iops(r), "riops")),
    ),
    field(
        "blockIO/throttleWriteIOPSDevice",
        file("blkio", "blkio.throttle.write_iops_device", |r| lists::rates_v1(lists::write_iops(r))),
        file("io", "io.max", |r| lists::rates_v2(lists::write_iops(r), "wiops")),
    ),
    field(
        "hugepageLimits",
        file("hugetlb", "", |r| lists::hugepages(r, "limit_in_bytes")),
        file("hugetlb", "", |r| lists::hugepages(r, "max")),
    ),
    field("rdma", file("rdma", "rdma.max", lists::rdma), file("rdma", "rdma.max", lists::rdma)),
    field(
        "network/classID",
        file("net_cls", "net_cls.classid", |r| {
            number(r.network.as_ref().and_then(LinuxNetwork::class_id).filter(|id| *id != 0))
        }),
        NONE,
    ),
    field("network/priorities", file("net_prio", "net_prio.ifpriomap", lists::priorities), NONE),
    // Last: who writes these means exactly them.
    field("unified", file("", "", lists::unified), file("", "", lists::unified)),
];

pub(super) fn memory<T>(resources: &Resources, field: fn(&LinuxMemory) -> Option<T>) -> Option<T> {
    resources.memory.as_ref().and_then(field)
}

/// A number of bytes, where 0 is "not set", as engines send it, and -1 is "no limit".
pub(super) fn bytes(resources: &Resources, field: fn(&LinuxMemory) -> Option<i64>) -> Result<Option<i64>> {
    match memory(resources, field) {
        Some(..=-2) => Err(Error::new("a limit on memory is a number of bytes, or -1 for none")),
        Some(0) | None => Ok(None),
        set => Ok(set),
    }
}

pub(super) fn cpu<T>(resources: &Resources, field: fn(&LinuxCpu) -> Option<T>) -> Option<T> {
    resources.cpu.as_ref().and_then(field)
}

/// An idle cgroup has a weight of its own, and takes no other.
fn is_idle(resources: &Resources) -> bool {
    cpu(resources, LinuxCpu::idle) == Some(1)
}

fn cpus(resources: &Resources) -> Values {
    text(resources.cpu.as_ref().and_then(|cpu| cpu.cpus().clone()))
}

fn mems(resources: &Resources) -> Values {
    text(resources.cpu.as_ref().and_then(|cpu| cpu.mems().clone()))
}

pub(super) fn text(value: Option<String>) -> Values {
    Ok(value.filter(|text| !text.is_empty()).map(|text| Value { text, ..Value::default() }).into_iter().collect())
}

pub(super) fn number(value: Option<impl ToString>) -> Values {
    text(value.map(|value| value.to_string()))
}

pub(super) fn number_or_max(value: Option<i64>) -> Values {
    text(value.map(or_max))
}

pub(super) fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn switch(value: Option<bool>) -> Values {
    number(value.map(u8::from))
}

/// A switch that v2 does not have, since it always is as `fixed`.
fn only(value: Option<bool>, fixed: bool, why: &str) -> Values {
    match value {
        Some(value) if value != fixed => Err(Error::new(format!("cgroup v2 {why}"))),
        _ => Ok(Vec::new()),
    }
}
