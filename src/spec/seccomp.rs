//! config-linux.md, "Seccomp", as it is written; [`crate::seccomp`] checks what it means.

use std::path::PathBuf;

use serde::Deserialize;

use super::null_is_default;

/// `linux.seccomp`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Seccomp {
    #[serde(deserialize_with = "null_is_default")]
    pub default_action: String,
    pub default_errno_ret: Option<u32>,
    #[serde(deserialize_with = "null_is_default")]
    pub architectures: Vec<String>,
    /// An empty list is none; no list means the runtime's own choice.
    pub flags: Option<Vec<String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub listener_path: PathBuf,
    #[serde(deserialize_with = "null_is_default")]
    pub listener_metadata: String,
    #[serde(deserialize_with = "null_is_default")]
    pub syscalls: Vec<Syscall>,
}

/// What happens to some system calls.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Syscall {
    /// Go writes a list that was never made as null, and runc takes such a rule for one that says nothing.
    pub names: Option<Vec<String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub action: String,
    pub errno_ret: Option<u32>,
    #[serde(deserialize_with = "null_is_default")]
    pub args: Vec<Argument>,
}

/// A condition on an argument.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Argument {
    pub index: u32,
    #[serde(deserialize_with = "null_is_default")]
    pub value: u64,
    #[serde(deserialize_with = "null_is_default")]
    pub value_two: u64,
    #[serde(deserialize_with = "null_is_default")]
    pub op: String,
}
