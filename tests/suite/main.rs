//! The integration tests: kelson run as engines run it, and the host compared before and after each test.
//! `tests/run` builds what they need and runs them under every view of the cgroups.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;
mod support;

mod attacks;
mod bad_input;
mod cgroups;
mod cli;
mod crash;
mod fallbacks;
mod descriptors;
mod devices;
mod hooks;
mod identity;
mod idmap;
mod kill;
mod lifecycle;
mod limits;
mod log;
mod mount_options;
mod mounts;
mod namespaces;
mod netdev;
mod process;
mod rootfs;
mod run;
mod user_namespaces;
