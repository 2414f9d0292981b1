//! kelson: an OCI container runtime. docs/architecture.md tells how its parts stand on each other.

// Fields whose names say what the specification's text says are not described again.
#![allow(missing_docs)]
// These panic where the output is full or closed: `cli::print`, `log::say`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod cgroup;
pub mod checkpoint;
pub mod cli;
pub mod confinement;
pub mod create;
pub mod criu;
pub mod destroy;
pub mod device;
pub mod error;
pub mod events;
pub mod exec;
pub mod foreground;
pub mod hook;
pub mod init;
pub mod lifecycle;
pub mod log;
pub mod lsm;
pub mod mount;
pub mod mountinfo;
pub mod namespace;
pub mod netdev;
pub mod notify;
pub mod numa;
pub mod plan;
pub mod process;
pub mod rdt;
pub mod restore;
pub mod rootfs;
pub mod run;
pub mod safepath;
pub mod seal;
pub mod seccomp;
pub mod spec;
pub mod state;
pub mod sys;
pub mod sysctl;
pub mod trace;
pub mod tty;
pub mod update;
pub mod wire;
