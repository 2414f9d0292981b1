//! The names of what the kernel numbers: errors, signals, capabilities, limits, policies.

use nix::errno::Errno;
use nix::sys::signal::Signal;

/// The highest errno of Linux.
const LAST_ERRNO: i32 = 133;
/// The first real-time signal a program can use: the C libraries keep two or three for themselves.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// The errno called `text`: a name such as EPERM, or a number.
pub fn errno(text: &str) -> Option<i32> {
    let number = text.parse().ok().or_else(|| (1..=LAST_ERRNO).find(|n| format!("{:?}", Errno::from_raw(*n)) == text));
    number.filter(|n| (0..=LAST_ERRNO).contains(n))
}

/// The signal called `text`: a name with or without SIG, such as TERM or SIGRTMIN+3, or a number.
pub fn signal_number(text: &str) -> Option<i32> {
    let number = text.parse().ok().or_else(|| {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        let realtime = name.strip_prefix("RTMIN").map(|offset| offset.trim_start_matches('+').parse().unwrap_or(0));
        realtime
            .map(|offset: i32| SIGRTMIN.saturating_add(offset))
            .or_else(|| Some(format!("SIG{name}").parse::<Signal>().ok()? as i32))
    });
    number.filter(|n| (1..=SIGRTMAX).contains(n))
}

/// The name of a signal.
pub fn signal_name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().into(),
        Err(_) if number == SIGRTMIN => "SIGRTMIN".into(),
        Err(_) if number > SIGRTMIN => format!("SIGRTMIN+{}", number - SIGRTMIN),
        Err(_) => number.to_string(),
    }
}

/// Capabilities, by their bit.
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Resource limits, by the kernel's number on `x86_64` and `aarch64`.
pub const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// Scheduling policies, by number; 4 was never used.
pub const SCHED_POLICIES: [&str; 8] =
    ["SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "4", "SCHED_IDLE", "SCHED_DEADLINE", "SCHED_EXT"];

/// Scheduling flags, by bit.
pub const SCHED_FLAGS: [(u64, &str); 7] = [
    (0x01, "SCHED_FLAG_RESET_ON_FORK"),
    (0x02, "SCHED_FLAG_RECLAIM"),
    (0x04, "SCHED_FLAG_DL_OVERRUN"),
    (0x08, "SCHED_FLAG_KEEP_POLICY"),
    (0x10, "SCHED_FLAG_KEEP_PARAMS"),
    (0x20, "SCHED_FLAG_UTIL_CLAMP_MIN"),
    (0x40, "SCHED_FLAG_UTIL_CLAMP_MAX"),
];

/// I/O priority classes, by number.
pub const IOPRIO_CLASSES: [&str; 4] = ["IOPRIO_CLASS_NONE", "IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"];

/// NUMA memory policies, by number.
pub const MEMORY_POLICIES: [&str; 7] = [
    "MPOL_DEFAULT",
    "MPOL_PREFERRED",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

/// Flags that `get_mempolicy(2)` returns with the policy, by bit.
pub const MEMORY_POLICY_FLAGS: [(u64, &str); 3] =
    [(1 << 13, "MPOL_F_NUMA_BALANCING"), (1 << 14, "MPOL_F_RELATIVE_NODES"), (1 << 15, "MPOL_F_STATIC_NODES")];

/// Mount flags as statfs(2) has them, by bit.
pub const MOUNT_FLAGS: [(u64, &str); 9] = [
    (1, "ro"),
    (2, "nosuid"),
    (4, "nodev"),
    (8, "noexec"),
    (16, "sync"),
    (1024, "noatime"),
    (2048, "nodiratime"),
    (4096, "relatime"),
    (8192, "nosymfollow"),
];

/// The name at `index`, or the number itself where there is none yet.
pub fn name_at(names: &[&str], index: u64) -> String {
    usize::try_from(index)
        .ok()
        .and_then(|index| names.get(index))
        .map_or_else(|| index.to_string(), ToString::to_string)
}

/// The names of the bits that are set.
pub fn flag_names(table: &[(u64, &'static str)], bits: u64) -> Vec<&'static str> {
    table.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names_and_numbers() {
        assert_eq!(errno("ENOSYS"), Some(38));
        assert_eq!(errno("38"), Some(38));
        assert_eq!(errno("EHWPOISON"), Some(LAST_ERRNO));
        assert_eq!(errno("ENONSENSE"), None);
        assert_eq!(errno("4096"), None);
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["TERM", "SIGTERM", "15"] {
            assert_eq!(signal_number(text), Some(15));
        }
        assert_eq!(signal_number("SIGRTMIN+3"), Some(37));
        assert_eq!(signal_name(37), "SIGRTMIN+3");
        assert_eq!(signal_number("NONSENSE"), None);
        assert_eq!(signal_number("65"), None);
    }
}
