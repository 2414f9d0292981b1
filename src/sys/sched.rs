//! Scheduling, I/O priority, NUMA policy.

use nix::unistd::Pid;

use super::unit;

/// `struct sched_attr` of `sched_setattr(2)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerAttributes {
    /// Filled in by [`set_scheduler`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// Sets the scheduling of `pid` (0: the caller), `sched_setattr(2)`.
pub fn set_scheduler(pid: Pid, attributes: SchedulerAttributes) -> nix::Result<()> {
    let attributes = SchedulerAttributes { size: size_of::<SchedulerAttributes>() as u32, ..attributes };
    // SAFETY: the attributes carry their own size.
    unit(unsafe { libc::syscall(libc::SYS_sched_setattr, pid.as_raw(), &raw const attributes, 0) })
}

/// Makes the calling thread an ordinary one, with the nice value that it has, `sched_setscheduler(2)`: musl has none.
pub fn become_ordinary() -> nix::Result<()> {
    let no_priority: libc::c_int = 0;
    // SAFETY: `struct sched_param` is one int on Linux.
    unit(unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_OTHER, &raw const no_priority) })
}

/// Sets the I/O priority of `pid` (0: the caller), `ioprio_set(2)`: class 1 to 3, level 0 to 7.
pub fn set_io_priority(pid: Pid, class: u32, level: u32) -> nix::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    let value = class << IOPRIO_CLASS_SHIFT | level;
    // SAFETY: integers.
    unit(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, pid.as_raw(), value) })
}

/// Sets the NUMA policy of the caller, `set_mempolicy(2)`; `nodes` is a bit mask, least node first.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> nix::Result<()> {
    // The kernel counts one bit more than it reads.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the mask is null or holds `bits - 1` bits.
    unit(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) })
}

/// Lets the caller run on every CPU of its cpuset, whatever its parent was bound to.
pub fn reset_affinity() -> nix::Result<()> {
    // As many as the kernel can be built for.
    set_affinity(Pid::from_raw(0), &[u64::MAX; 8192 / 64])
}

/// Binds `pid` (0: the caller) to the CPUs of a bit mask, `sched_setaffinity(2)`.
pub fn set_affinity(pid: Pid, cpus: &[u64]) -> nix::Result<()> {
    // SAFETY: the pointer and the length in bytes describe `cpus`.
    unit(unsafe { libc::syscall(libc::SYS_sched_setaffinity, pid.as_raw(), size_of_val(cpus), cpus.as_ptr()) })
}
