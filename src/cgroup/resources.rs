//! One table of the resources: each field of the spec, its file on v1 and on v2, and how its value is written.

use oci_spec::runtime::{LinuxCpu, LinuxMemory};

use crate::error::{Error, Result};
use crate::spec::Resources;

/// One value for one file of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where config.json asks for it.
    pub pointer: String,
    pub controller: String,
    pub file: String,
    pub value: String,
    /// Files that are a refinement, and absent from older kernels.
    pub ignored_where_missing: bool,
}

/// What a value is turned into: nothing where config.json has none.
type Value = fn(&Resources) -> Result<Option<String>>;

/// A field of the spec.
struct Field {
    pointer: &'static str,
    controller: &'static str,
    /// File and value on v1; none where v1 cannot express it.
    v1: Option<(&'static str, Value)>,
    v2: Option<(&'static str, Value)>,
}

/// In the order in which they are written.
const FIELDS: &[Field] = &[
    Field {
        pointer: "memory/limit",
        controller: "memory",
        v1: Some(("memory.limit_in_bytes", |r| Ok(memory(r, LinuxMemory::limit).map(|n| n.to_string())))),
        v2: Some(("memory.max", |r| Ok(memory(r, LinuxMemory::limit).map(or_max)))),
    },
    Field {
        pointer: "memory/swap",
        controller: "memory",
        v1: Some(("memory.memsw.limit_in_bytes", |r| Ok(memory(r, LinuxMemory::swap).map(|n| n.to_string())))),
        v2: Some(("memory.swap.max", swap_max)),
    },
    Field {
        pointer: "memory/reservation",
        controller: "memory",
        v1: Some(("memory.soft_limit_in_bytes", |r| Ok(memory(r, LinuxMemory::reservation).map(|n| n.to_string())))),
        v2: Some(("memory.low", |r| Ok(memory(r, LinuxMemory::reservation).map(or_max)))),
    },
    Field {
        pointer: "memory/kernelTCP",
        controller: "memory",
        v1: Some(("memory.kmem.tcp.limit_in_bytes", |r| Ok(memory(r, LinuxMemory::kernel_tcp).map(|n| n.to_string())))),
        v2: None,
    },
    Field {
        pointer: "memory/swappiness",
        controller: "memory",
        v1: Some(("memory.swappiness", |r| Ok(r.memory.and_then(|m| m.swappiness()).map(|n| n.to_string())))),
        v2: None,
    },
    Field {
        pointer: "memory/disableOOMKiller",
        controller: "memory",
        v1: Some(("memory.oom_control", |r| {
            Ok(r.memory.and_then(|m| m.disable_oom_killer()).filter(|on| *on).map(|_| "1".into()))
        })),
        v2: None,
    },
    Field {
        pointer: "cpu/shares",
        controller: "cpu",
        v1: Some(("cpu.shares", |r| Ok(cpu(r, LinuxCpu::shares).filter(|n| *n != 0).map(|n| n.to_string())))),
        v2: Some(("cpu.weight", |r| Ok(cpu(r, LinuxCpu::shares).filter(|n| *n != 0).map(|n| weight(n).to_string())))),
    },
    Field {
        pointer: "cpu/realtimePeriod",
        controller: "cpu",
        v1: Some(("cpu.rt_period_us", |r| {
            Ok(cpu(r, LinuxCpu::realtime_period).filter(|n| *n != 0).map(|n| n.to_string()))
        })),
        v2: None,
    },
    Field {
        pointer: "cpu/realtimeRuntime",
        controller: "cpu",
        v1: Some(("cpu.rt_runtime_us", |r| {
            Ok(cpu(r, LinuxCpu::realtime_runtime).filter(|n| *n != 0).map(|n| n.to_string()))
        })),
        v2: None,
    },
    Field {
        pointer: "cpu/period",
        controller: "cpu",
        v1: Some(("cpu.cfs_period_us", |r| Ok(cpu(r, LinuxCpu::period).filter(|n| *n != 0).map(|n| n.to_string())))),
        // In the line of the quota.
        v2: Some(("cpu.max", |_| Ok(None))),
    },
    Field {
        pointer: "cpu/quota",
        controller: "cpu",
        v1: Some(("cpu.cfs_quota_us", |r| Ok(cpu(r, LinuxCpu::quota).filter(|n| *n != 0).map(|n| n.to_string())))),
        v2: Some(("cpu.max", |r| Ok(cpu_max(r)))),
    },
    Field {
        pointer: "cpu/burst",
        controller: "cpu",
        v1: Some(("cpu.cfs_burst_us", |r| Ok(cpu(r, LinuxCpu::burst).map(|n| n.to_string())))),
        v2: Some(("cpu.max.burst", |r| Ok(cpu(r, LinuxCpu::burst).map(|n| n.to_string())))),
    },
    Field {
        pointer: "cpu/idle",
        controller: "cpu",
        v1: Some(("cpu.idle", |r| Ok(cpu(r, LinuxCpu::idle).map(|n| n.to_string())))),
        v2: Some(("cpu.idle", |r| Ok(cpu(r, LinuxCpu::idle).map(|n| n.to_string())))),
    },
    Field {
        pointer: "cpu/cpus",
        controller: "cpuset",
        v1: Some(("cpuset.cpus", |r| Ok(text(r.cpu.as_ref().and_then(|cpu| cpu.cpus().as_deref()))))),
        v2: Some(("cpuset.cpus", |r| Ok(text(r.cpu.as_ref().and_then(|cpu| cpu.cpus().as_deref()))))),
    },
    Field {
        pointer: "cpu/mems",
        controller: "cpuset",
        v1: Some(("cpuset.mems", |r| Ok(text(r.cpu.as_ref().and_then(|cpu| cpu.mems().as_deref()))))),
        v2: Some(("cpuset.mems", |r| Ok(text(r.cpu.as_ref().and_then(|cpu| cpu.mems().as_deref()))))),
    },
    Field {
        pointer: "pids/limit",
        controller: "pids",
        v1: Some(("pids.max", |r| Ok(r.pids.and_then(|pids| pids.limit).map(or_max)))),
        v2: Some(("pids.max", |r| Ok(r.pids.and_then(|pids| pids.limit).map(or_max)))),
    },
];

/// Reads `linux.resources` for v1 or v2. What the hierarchy cannot express is an error.
pub fn plan(resources: &Resources, unified: bool) -> Result<Vec<Write>> {
    refuse_unsupported(resources)?;
    let mut writes = Vec::new();
    for field in FIELDS {
        let pointer = format!("/linux/resources/{}", field.pointer);
        let (here, other) = if unified { (field.v2, field.v1) } else { (field.v1, field.v2) };
        let (Some((file, value)), expressible) = (here.or(other), here.is_some()) else { continue };
        let Some(value) = value(resources).map_err(|error| error.pointer(&*pointer))? else { continue };
        if !expressible {
            let version = if unified { 2 } else { 1 };
            return Err(Error::new(format!("cgroup v{version} has nothing for {}", field.pointer)).pointer(pointer));
        }
        writes.push(Write {
            pointer,
            controller: field.controller.into(),
            file: file.into(),
            value,
            ignored_where_missing: false,
        });
    }
    writes.extend(hugepages(resources, unified)?);
    writes.extend(unified_keys(resources, unified)?);
    Ok(writes)
}

/// Fields that the project does not apply yet: better an error than a limit that is not there.
fn refuse_unsupported(resources: &Resources) -> Result<()> {
    let is_set = |value: &serde_json::Value| match value {
        serde_json::Value::Null => false,
        serde_json::Value::Number(number) => number.as_f64() != Some(0.0),
        serde_json::Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    let sections = [("blockIO", &resources.block_io), ("network", &resources.network), ("rdma", &resources.rdma)];
    for (name, section) in sections {
        if let Some((field, _)) = section.iter().find(|(_, value)| is_set(value)) {
            return Err(Error::new(format!("{name} cannot be limited by this version of kelson"))
                .pointer(format!("/linux/resources/{name}/{field}")));
        }
    }
    Ok(())
}

fn memory(resources: &Resources, field: fn(&LinuxMemory) -> Option<i64>) -> Option<i64> {
    // 0 was "not set" to runc before and still is to engines.
    resources.memory.as_ref().and_then(field).filter(|value| *value != 0)
}

fn cpu<T>(resources: &Resources, field: fn(&LinuxCpu) -> Option<T>) -> Option<T> {
    resources.cpu.as_ref().and_then(field)
}

fn text(value: Option<&str>) -> Option<String> {
    value.filter(|text| !text.is_empty()).map(str::to_owned)
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// v1 counts memory and swap together, v2 swap alone.
fn swap_max(resources: &Resources) -> Result<Option<String>> {
    let limit = memory(resources, LinuxMemory::limit);
    match (memory(resources, LinuxMemory::swap), limit) {
        (None, Some(-1)) => Ok(Some("max".to_owned())),
        (None, _) => Ok(None),
        (Some(..=-1), _) => Ok(Some("max".to_owned())),
        (Some(_), None | Some(..=-1)) => Err(Error::new("a limit on swap needs a limit on memory")),
        (Some(swap), Some(limit)) if swap < limit => {
            Err(Error::new("the limit on memory and swap together is below the one on memory"))
        }
        (Some(swap), Some(limit)) => Ok(Some((swap - limit).to_string())),
    }
}

/// CPU shares (2 to 262144, 1024 by default) as a weight (1 to 10000, 100 by default): the curve through these
/// three points that runc 1.3 and crun 1.23 use.
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            // Exact: far below 2^52.
            #[allow(clippy::cast_precision_loss)]
            let logarithm = (shares as f64).log2();
            let exponent = (logarithm * logarithm + 125.0 * logarithm) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

fn cpu_max(resources: &Resources) -> Option<String> {
    let quota = cpu(resources, LinuxCpu::quota).filter(|quota| *quota != 0);
    let period = cpu(resources, LinuxCpu::period).filter(|period| *period != 0);
    match (quota, period) {
        (None, None) => None,
        (quota, None) => quota.map(or_max),
        (quota, Some(period)) => Some(format!("{} {period}", quota.map_or("max".to_owned(), or_max))),
    }
}

fn hugepages(resources: &Resources, unified: bool) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    for (index, limit) in resources.hugepage_limits.iter().enumerate() {
        let size = &limit.page_size;
        let digits = size.trim_end_matches(|c: char| c.is_ascii_uppercase());
        let is_size = matches!(&size[digits.len()..], "KB" | "MB" | "GB")
            && !digits.starts_with('0')
            && !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit());
        let pointer = format!("/linux/resources/hugepageLimits/{index}");
        if !is_size {
            return Err(Error::new(format!("{size:?} is no page size"))
                .pointer(pointer + "/pageSize")
                .hint("such as 2MB"));
        }
        let suffix = if unified { "max" } else { "limit_in_bytes" };
        for (rsvd, optional) in [(".rsvd", true), ("", false)] {
            writes.push(Write {
                pointer: pointer.clone(),
                controller: "hugetlb".into(),
                file: format!("hugetlb.{size}{rsvd}.{suffix}"),
                value: limit.limit.to_string(),
                ignored_where_missing: optional,
            });
        }
    }
    Ok(writes)
}

fn unified_keys(resources: &Resources, unified: bool) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    for (key, value) in &resources.unified {
        let pointer = format!("/linux/resources/unified/{}", key.replace('~', "~0").replace('/', "~1"));
        if !unified {
            return Err(Error::new("`unified` needs cgroup v2").pointer(pointer));
        }
        if !key.contains('.') || key.contains('/') || key.contains("..") {
            return Err(Error::new(format!("{key:?} is no file of a cgroup")).pointer(pointer));
        }
        let controller = key.split('.').next().unwrap_or_default().to_owned();
        let (file, value) = (key.clone(), value.clone());
        writes.push(Write { pointer, controller, file, value, ignored_where_missing: false });
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str, unified: bool) -> Result<Vec<(String, String)>> {
        let writes = plan(&serde_json::from_str(json).unwrap(), unified)?;
        Ok(writes.into_iter().map(|write| (write.file, write.value)).collect())
    }

    fn pair(file: &str, value: &str) -> (String, String) {
        (file.to_owned(), value.to_owned())
    }

    #[test]
    fn the_same_fields_go_to_the_files_of_each_version() {
        let json = r#"{"memory":{"limit":1048576,"swap":3145728},"pids":{"limit":0},
            "cpu":{"shares":1024,"quota":5000,"period":10000,"cpus":"0-1"}}"#;
        let v1 = written(json, false).unwrap();
        assert!(v1.contains(&pair("memory.memsw.limit_in_bytes", "3145728")));
        assert!(v1.contains(&pair("cpu.cfs_quota_us", "5000")));
        let v2 = written(json, true).unwrap();
        assert!(v2.contains(&pair("memory.max", "1048576")));
        assert!(v2.contains(&pair("memory.swap.max", "2097152")));
        assert!(v2.contains(&pair("cpu.max", "5000 10000")));
        assert!(v2.contains(&pair("cpu.weight", "100")));
        assert!(v2.contains(&pair("pids.max", "0")));
        assert_eq!(v2.iter().filter(|(file, _)| file == "cpu.max").count(), 1);
    }

    #[test]
    fn swap_is_converted_as_runc_does() {
        for (json, wanted) in [
            (r#"{"memory":{"limit":-1}}"#, Some("max")),
            (r#"{"memory":{"limit":10,"swap":-1}}"#, Some("max")),
            (r#"{"memory":{"limit":10,"swap":10}}"#, Some("0")),
            (r#"{"memory":{"limit":10}}"#, None),
        ] {
            let writes = written(json, true).unwrap();
            let swap = writes.iter().find(|(file, _)| file == "memory.swap.max").map(|(_, value)| value.as_str());
            assert_eq!(swap, wanted, "{json}");
        }
        assert!(written(r#"{"memory":{"swap":10}}"#, true).is_err());
        assert!(written(r#"{"memory":{"limit":10,"swap":9}}"#, true).is_err());
    }

    #[test]
    fn shares_become_weights() {
        for (shares, wanted) in [(1, 1), (2, 1), (1024, 100), (262_144, 10_000), (300_000, 10_000), (10_000, 627)] {
            assert!(weight(shares).abs_diff(wanted) <= 2, "{shares}: {} and not {wanted}", weight(shares));
        }
    }

    #[test]
    fn ghsa_5g49_rx9x_qfc6_no_path_in_a_file_name() {
        for json in [
            r#"{"hugepageLimits":[{"pageSize":"2MB/../../x","limit":1}]}"#,
            r#"{"hugepageLimits":[{"pageSize":"","limit":1}]}"#,
            r#"{"unified":{"../cgroup.kill":"1"}}"#,
            r#"{"unified":{"a/b":"1"}}"#,
        ] {
            assert!(written(json, true).is_err(), "{json}");
        }
    }

    #[test]
    fn what_cannot_be_expressed_is_an_error_and_not_silence() {
        assert!(written(r#"{"memory":{"swappiness":10}}"#, true).is_err());
        assert!(written(r#"{"unified":{"memory.high":"1"}}"#, false).is_err());
        assert!(written(r#"{"blockIO":{"weight":10}}"#, true).is_err());
        assert!(
            written(
                r#"{"blockIO":{"weight":0,"weightDevice":[]},"network":{},"memory":{"disableOOMKiller":false}}"#,
                true
            )
            .is_ok()
        );
    }
}
