//! The integration tests: kelson run as engines run it, and the host compared before and after each test.
//! `tests/run` builds what they need and runs them under every view of the cgroups.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::unused_self)]
// What the tests prepare is their own: nobody races them for it.
#![allow(clippy::disallowed_methods)]

mod harness;
mod sharing;
mod support;

mod attacks;
mod bad_input;
mod cgroups;
mod checkpoint;
mod cli;
mod crash;
mod descriptors;
mod device_limits;
mod devices;
mod events;
mod exec;
mod exec_attacks;
mod exec_failures;
mod fallbacks;
mod faults;
mod hooks;
mod identity;
mod idmap;
mod interrupt;
mod kill;
mod lifecycle;
mod limits;
mod log;
mod mount_options;
mod mount_points;
mod mounts;
mod namespaces;
mod netdev;
mod notify;
mod oom;
mod pause;
mod process;
mod races;
mod rootfs;
mod rootless;
mod run;
mod seccomp;
mod seccomp_tool;
mod systemd;
mod terminal;
mod trace;
mod update;
mod user_namespaces;
