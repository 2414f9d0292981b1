//! Profiles to test with: made at random, and those that are shipped.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::seccomp::arch::{ARCHES, Arch};
use crate::seccomp::engine::{self, Circumstances, USUAL_CAPABILITIES};
use crate::seccomp::profile::{ACTIONS, OPERATORS};
use crate::seccomp::tables::Syscall;
use crate::spec;

/// A generator of numbers (xorshift64*): the same ones in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// A value at which something may change.
    pub fn value(&mut self) -> u64 {
        let near = [0, 1, 2, 3, 7, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1_0000_0000, 0x2_0000_0001, u64::MAX];
        if self.one_in(8) { self.next() } else { self.of(&near) }
    }
}

/// A profile for some of the names, as JSON. With `plain`, no two rules for one call contradict each other.
pub fn random(random: &mut Random, names: &[&str], plain: bool) -> Value {
    let default = action(random);
    let other = action(random);
    let mut syscalls = Vec::new();
    for _ in 0..random.below(12) {
        let action = if plain { other } else { action(random) };
        let mut rule = json!({"names": (0..=random.below(6)).map(|_| random.of(names)).collect::<Vec<_>>()});
        rule["action"] = action.0.into();
        if let Some(errno) = action.1 {
            rule["errnoRet"] = errno.into();
        }
        if random.one_in(2) {
            rule["args"] = (0..=random.below(3)).map(|_| argument(random)).collect();
        }
        syscalls.push(rule);
    }
    let mut profile = json!({"defaultAction": default.0, "syscalls": syscalls});
    if let Some(errno) = default.1 {
        profile["defaultErrnoRet"] = errno.into();
    }
    profile
}

fn action(random: &mut Random) -> (&'static str, Option<u32>) {
    let known: Vec<_> = ACTIONS.iter().map(|(name, _)| *name).filter(|name| *name != "SCMP_ACT_NOTIFY").collect();
    let name = random.of(&known);
    let errno = matches!(name, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE").then(|| random.of(&[1, 13, 22, 38]));
    (name, errno)
}

fn argument(random: &mut Random) -> Value {
    let operator = OPERATORS[random.below(OPERATORS.len())].0;
    json!({"index": random.below(6), "value": random.value(), "valueTwo": random.value(), "op": operator})
}

/// The names of an architecture's system calls.
pub fn names(arch: &Arch) -> Vec<&'static str> {
    Syscall::all().filter(|syscall| arch.number(*syscall).is_some()).map(Syscall::name).collect()
}

/// The names of all architectures' system calls.
pub fn all_names() -> Vec<&'static str> {
    ARCHES.iter().flat_map(names).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

pub fn parse(profile: &Value) -> spec::seccomp::Seccomp {
    serde_json::from_value(profile.clone()).expect("a profile")
}

/// The profiles in the directory KELSON_PROFILES, or else podman's if it is installed: each as an engine would write it
/// into config.json for a container with no more than the usual capabilities, on a machine.
pub fn shipped(machine: &'static Arch) -> Vec<(String, spec::seccomp::Seccomp)> {
    let files: Vec<PathBuf> = match std::env::var_os("KELSON_PROFILES") {
        Some(directory) => std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect(),
        None => vec!["/usr/share/containers/seccomp.json".into()],
    };
    let name = |file: &Path| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    files.into_iter().filter_map(|file| Some((name(&file), load(&file, machine)?))).collect()
}

/// A profile, or the one of a config.json; None where there is no such file.
pub fn load(file: &Path, machine: &'static Arch) -> Option<spec::seccomp::Seccomp> {
    let circumstances = Circumstances { capabilities: USUAL_CAPABILITIES.to_vec(), machine, kernel: (6, 18) };
    let bytes = std::fs::read(file).ok()?;
    let mut value: Value = serde_json::from_slice(&bytes).unwrap();
    let inner = value.pointer_mut("/linux/seccomp").map(|profile| profile.to_string().into_bytes());
    Some(engine::resolve(&inner.unwrap_or(bytes), &circumstances).unwrap().profile)
}

/// The shape of docker's default profile: a long list of allowed calls, and a few that depend on arguments.
pub fn docker_like() -> Value {
    let refused = [
        "acct",
        "add_key",
        "bpf",
        "clone",
        "clone3",
        "delete_module",
        "fanotify_init",
        "init_module",
        "kexec_load",
        "keyctl",
        "mount",
        "name_to_handle_at",
        "open_by_handle_at",
        "perf_event_open",
        "personality",
        "pivot_root",
        "process_vm_readv",
        "ptrace",
        "quotactl",
        "reboot",
        "setns",
        "socket",
        "swapoff",
        "swapon",
        "syslog",
        "umount2",
        "unshare",
        "userfaultfd",
        "ustat",
        "vm86",
    ];
    let allowed: Vec<_> = all_names().into_iter().filter(|name| !refused.contains(name)).collect();
    let personality = |value: u64| {
        let args = json!([{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]);
        json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": args})
    };
    let with = |name: &str, operator: &str, value: u64, two: u64| {
        let args = json!([{"index": 0, "value": value, "valueTwo": two, "op": operator}]);
        json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args})
    };
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": allowed, "action": "SCMP_ACT_ALLOW"},
            personality(0), personality(8), personality(0x20000), personality(0x20008), personality(0xffff_ffff),
            with("socket", "SCMP_CMP_LT", 38, 0), with("socket", "SCMP_CMP_EQ", 39, 0), with("socket", "SCMP_CMP_GT", 40, 0),
            with("clone", "SCMP_CMP_MASKED_EQ", 0x7e02_0000, 0),
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    })
}
