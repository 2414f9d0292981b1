//! Who the process is and what it may do.

use super::{lossy, read};
use crate::{names, sys};
use nix::Result;
use nix::errno::Errno;
use nix::sys::{prctl, stat};
use nix::unistd::{Gid, Uid, getgroups, getpgrp, getpid, getppid, getresgid, getresuid, getsid, setfsgid, setfsuid};
use serde_json::{Value, json};

pub fn pid() -> Value {
    getpid().as_raw().into()
}

pub fn ppid() -> Value {
    getppid().as_raw().into()
}

pub fn pgid() -> Value {
    getpgrp().as_raw().into()
}

pub fn sid() -> Result<Value> {
    getsid(None).map(|session| session.as_raw().into())
}

/// An id that setfsuid(2) and setfsgid(2) refuse: they answer with the one in force.
const NO_ID: u32 = u32::MAX;

pub fn uid() -> Result<Value> {
    let ids = getresuid()?;
    let fs = setfsuid(Uid::from_raw(NO_ID));
    Ok(ids_value([ids.real, ids.effective, ids.saved, fs].map(Uid::as_raw)))
}

pub fn gid() -> Result<Value> {
    let ids = getresgid()?;
    let fs = setfsgid(Gid::from_raw(NO_ID));
    Ok(ids_value([ids.real, ids.effective, ids.saved, fs].map(Gid::as_raw)))
}

fn ids_value([real, effective, saved, fs]: [u32; 4]) -> Value {
    json!({ "real": real, "effective": effective, "saved": saved, "fs": fs })
}

pub fn groups() -> Result<Value> {
    Ok(getgroups()?.into_iter().map(Gid::as_raw).collect())
}

/// As four octal digits. The mask can only be seen by setting it.
pub fn umask() -> Value {
    let mask = stat::umask(stat::Mode::empty());
    stat::umask(mask);
    format!("{:04o}", mask.bits()).into()
}

pub fn caps() -> Result<Value> {
    let sets = sys::capabilities()?;
    Ok(json!({
        "inheritable": capability_names(sets.inheritable),
        "permitted": capability_names(sets.permitted),
        "effective": capability_names(sets.effective),
        "bounding": capability_names(bits(sys::in_bounding_set)?),
        "ambient": capability_names(bits(sys::in_ambient_set)?),
    }))
}

/// The set of all capabilities that `holds` is true for; the kernel says EINVAL behind the last that it knows.
fn bits(holds: fn(i32) -> Result<bool>) -> Result<u64> {
    let mut set = 0;
    for bit in 0..64 {
        match holds(bit) {
            Ok(held) => set |= u64::from(held) << bit,
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(set)
}

/// Names; a bit without one stays a number.
fn capability_names(set: u64) -> Value {
    let held = (0..64_usize).filter(|bit| set >> bit & 1 == 1);
    held.map(|bit| names::CAPABILITIES.get(bit).map_or_else(|| json!(bit), |name| json!(name))).collect()
}

pub fn no_new_privs() -> Result<Value> {
    prctl::get_no_new_privs().map(Value::from)
}

pub fn seccomp() -> Result<Value> {
    sys::seccomp_mode().map(Value::from)
}

pub fn dumpable() -> Result<Value> {
    sys::dumpable().map(Value::from)
}

pub fn keyring() -> Result<Value> {
    sys::describe_session_keyring().map(|text| lossy(&text).into())
}

/// AppArmor's own file, or in older kernels the one that it shares with other modules.
pub fn apparmor() -> Result<Value> {
    read("/proc/self/attr/apparmor/current").or_else(|_| read("/proc/self/attr/current")).map(Value::from)
}

pub fn selinux() -> Result<Value> {
    read("/proc/self/attr/current").map(Value::from)
}
