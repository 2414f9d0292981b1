//! The container's process: what config.json's `process` says, as init applies it to itself.

mod binary;
pub mod capability;
pub mod cpu_list;
mod explain;
pub mod identity;
pub mod program;
pub mod restored;
pub mod rlimit;
pub mod schedule;

use std::ffi::CString;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::error::{Context, Error, Result};
use crate::safepath::Procfs;
use crate::spec::{ConsoleSize, Process};

/// The process, checked.
#[derive(Clone, Debug)]
pub struct ProcessPlan {
    /// The program and its arguments.
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: PathBuf,
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    pub identity: identity::Identity,
    pub capabilities: capability::Capabilities,
    pub rlimits: Vec<rlimit::ResourceLimit>,
    pub schedule: schedule::Schedule,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    /// What was ignored, as the spec asks, and is worth a warning.
    pub warnings: Vec<String>,
}

/// Sets how readily `pid` (or `self`) is killed for its memory.
pub fn set_oom_score(procfs: &Procfs, pid: &str, value: i32) -> Result<()> {
    match procfs.write(&format!("{pid}/oom_score_adj"), &value.to_string()) {
        // As runc: without privileges there is nothing that could lower it.
        Err(Errno::EACCES | Errno::EPERM) if !nix::unistd::geteuid().is_root() => {
            crate::log::warn(format!("oomScoreAdj {value} takes privileges and was not set"));
            Ok(())
        }
        result => result
            .context(|| format!("cannot set oom_score_adj to {value}"))
            .map_err(|error| error.pointer("/process/oomScoreAdj").hint("lowering it takes CAP_SYS_RESOURCE")),
    }
}

/// Reads `process`.
pub fn plan(process: &Process) -> Result<ProcessPlan> {
    if !process.cwd.starts_with('/') {
        let message = format!("cwd has to be an absolute path, not {:?}", process.cwd);
        return Err(Error::new(message).pointer("/process/cwd"));
    }
    let oom_score_adj = process.oom_score_adj;
    if oom_score_adj.is_some_and(|value| !(-1000..=1000).contains(&value)) {
        return Err(Error::new("oomScoreAdj is between -1000 and 1000").pointer("/process/oomScoreAdj"));
    }
    let (capabilities, warnings) = capability::plan(process.capabilities.as_ref());
    Ok(ProcessPlan {
        args: c_strings(&process.args, "/process/args")?,
        env: environment(&process.env)?,
        cwd: c_strings(std::slice::from_ref(&process.cwd), "/process/cwd").map(|_| process.cwd.clone().into())?,
        terminal: process.terminal,
        console_size: process.console_size,
        identity: identity::plan(&process.user)?,
        capabilities,
        rlimits: rlimit::plan(&process.rlimits)?,
        schedule: schedule::plan(process)?,
        no_new_privileges: process.no_new_privileges,
        oom_score_adj,
        warnings,
    })
}

fn c_strings(strings: &[String], pointer: &str) -> Result<Vec<CString>> {
    strings
        .iter()
        .enumerate()
        .map(|(index, string)| {
            CString::new(string.as_str())
                .map_err(|_| Error::new("a string holds a NUL byte").pointer(format!("{pointer}/{index}")))
        })
        .collect()
}

/// Each variable once, the last one given: what getenv(3) finds must not depend on the libc (runc does the same).
pub fn environment(env: &[String]) -> Result<Vec<CString>> {
    let name = |variable: &str| variable.split_once('=').map_or(variable, |(name, _)| name).to_owned();
    for (index, variable) in env.iter().enumerate() {
        if !variable.contains('=') || variable.starts_with('=') {
            return Err(Error::new(format!("{variable:?} is not of the form NAME=value"))
                .pointer(format!("/process/env/{index}")));
        }
    }
    let last: std::collections::HashMap<_, _> =
        env.iter().enumerate().map(|(index, variable)| (name(variable), index)).collect();
    let kept = env.iter().enumerate().filter(|(index, variable)| last.get(&name(variable)) == Some(index));
    c_strings(&kept.map(|(_, variable)| variable.clone()).collect::<Vec<_>>(), "/process/env")
}

impl ProcessPlan {
    /// The value of an environment variable.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        self.env.iter().find_map(|variable| variable.to_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> Process {
        Process { cwd: "/".into(), args: vec!["sh".into()], ..Process::default() }
    }

    #[test]
    fn the_last_of_two_variables_counts() {
        let env = ["A=1", "B=2", "A=3"].map(str::to_owned).to_vec();
        let plan = plan(&Process { env, ..process() }).unwrap();
        assert_eq!(plan.variable("A"), Some(&b"3"[..]));
        assert_eq!(plan.env.len(), 2);
    }

    #[test]
    fn impossible_values_are_refused() {
        assert!(plan(&Process { cwd: "tmp".into(), ..process() }).is_err());
        assert!(plan(&Process { cwd: "/a\0b".into(), ..process() }).is_err());
        assert!(plan(&Process { args: vec!["a\0".into()], ..process() }).is_err());
        assert!(plan(&Process { env: vec!["novalue".into()], ..process() }).is_err());
        assert!(plan(&Process { oom_score_adj: Some(1001), ..process() }).is_err());
    }
}
