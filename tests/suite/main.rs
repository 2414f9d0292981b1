//! The integration tests: kelson run as engines run it, and the host compared before and after each test.
//! `tests/run` builds what they need and runs them under every view of the cgroups.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;
mod support;

mod bad_input;
mod cli;
mod kill;
mod lifecycle;
mod log;
mod run;

mod identity;
mod process;
mod namespaces;
mod user_namespaces;
mod idmap;
mod mount_options;
mod mounts;
