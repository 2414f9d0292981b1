//! What the process is given: limits, processor, memory, signals.

use super::read;
use crate::{names, sys};
use nix::Result;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};

pub fn rlimits() -> Result<Value> {
    let limit = |(number, name): (usize, &&str)| {
        let (soft, hard) = sys::rlimit(number as u32)?;
        Ok(((*name).to_owned(), json!({ "soft": soft, "hard": hard })))
    };
    names::RLIMITS.iter().enumerate().map(limit).collect::<Result<Map<_, _>>>().map(Value::from)
}

/// A field of /proc/self/status.
pub fn status(field: &str) -> Result<Value> {
    let status = read("/proc/self/status")?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.map(|value| value.trim().into()).ok_or(Errno::ENODATA)
}

pub fn oom_score_adj() -> Result<Value> {
    read("/proc/self/oom_score_adj")?.parse::<i32>().map(Value::from).map_err(|_| Errno::EBADMSG)
}

pub fn scheduler() -> Result<Value> {
    let attr = sys::sched_getattr()?;
    Ok(json!({
        "policy": names::name_at(&names::SCHED_POLICIES, attr.policy.into()),
        "flags": names::flag_names(&names::SCHED_FLAGS, attr.flags),
        "nice": attr.nice,
        "priority": attr.priority,
        "runtime": attr.runtime,
        "deadline": attr.deadline,
        "period": attr.period,
    }))
}

pub fn ioprio() -> Result<Value> {
    const CLASS_SHIFT: u32 = 13;
    let ioprio = sys::ioprio()?;
    let class = names::name_at(&names::IOPRIO_CLASSES, ioprio >> CLASS_SHIFT);
    Ok(json!({ "class": class, "priority": ioprio & ((1 << CLASS_SHIFT) - 1) }))
}

pub fn affinity() -> Result<Value> {
    let cpus = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu) == Ok(true)).collect())
}

pub fn personality() -> Result<Value> {
    sys::personality().map(Value::from)
}

pub fn mempolicy() -> Result<Value> {
    let (policy, nodes) = sys::mempolicy()?;
    let flag_bits = names::MEMORY_POLICY_FLAGS.iter().fold(0, |all, (bit, _)| all | bit);
    Ok(json!({
        "mode": names::name_at(&names::MEMORY_POLICIES, policy & !flag_bits),
        "flags": names::flag_names(&names::MEMORY_POLICY_FLAGS, policy),
        "nodes": (0..1024).filter(|node| nodes[node / 64] >> (node % 64) & 1 == 1).collect::<Vec<_>>(),
    }))
}
