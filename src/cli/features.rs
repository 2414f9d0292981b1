//! `kelson features`: what this binary supports, as runtime-spec's features.md defines it. The content is fixed at
//! compile time; nothing else is printed.

use clap::Parser;
use serde_json::{Value, json};

use super::state::print_json;
use super::{Global, Verb};
use crate::cgroup::systemd::UNSAFE_ANNOTATIONS;
use crate::criu;
use crate::error::Result;
use crate::mount::options;
use crate::process::capability;
use crate::seccomp::{arch, profile};
use crate::spec::{VERSION_MAX, VERSION_MIN};
use crate::state::Store;

/// By this name runc says that it can checkpoint and restore.
const CHECKPOINT: &str = "org.opencontainers.runc.checkpoint.enabled";

/// Show the features that are supported, as JSON
#[derive(Debug, Parser)]
#[command(name = "kelson features", args_override_self = true)]
pub struct Features {
    #[command(flatten)]
    global: Global,
}

impl Verb for Features {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, _: &Store) -> Result<i32> {
        print_json(&features(), true).map(|()| 0)
    }
}

fn features() -> Value {
    json!({
        "ociVersionMin": VERSION_MIN,
        "ociVersionMax": VERSION_MAX,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": options::names(),
        "annotations": {CHECKPOINT: "true"},
        "potentiallyUnsafeConfigAnnotations": ([UNSAFE_ANNOTATIONS, &[criu::CONFIG]].concat()),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capability::NAMES.as_slice(),
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": profile::ACTIONS.map(|(name, _)| name),
                "operators": profile::OPERATORS.map(|(name, _)| name),
                "archs": arch::ARCHES.each_ref().map(|arch| arch.name),
                "knownFlags": profile::FLAGS.map(|(name, _)| name),
                "supportedFlags": profile::FLAGS.map(|(name, _)| name),
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": {
                "modes": [
                    "MPOL_DEFAULT", "MPOL_PREFERRED", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_LOCAL",
                    "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE",
                ],
                "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES", "MPOL_F_NUMA_BALANCING"],
            },
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
    })
}
