//! What the process of an `exec` has from its caller, and what from the container.

use std::ffi::{CString, OsString};

use crate::error::{Error, Result};
use crate::process::{capability, environment};
use crate::spec::Process;

/// What the command line changes of the process.
#[derive(Debug, Default)]
pub struct Changes {
    pub args: Vec<OsString>,
    pub cwd: Option<String>,
    /// Added to the container's.
    pub env: Vec<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub additional_gids: Vec<u32>,
    /// Names of capabilities to add.
    pub capabilities: Vec<String>,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
    pub no_new_privileges: Option<bool>,
    pub terminal: bool,
}

impl Changes {
    /// Makes the changes.
    pub fn apply(&self, process: &mut Process) -> Result<()> {
        let replace = |place: &mut String, text: &Option<String>| {
            if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
                place.clone_from(text);
            }
        };
        replace(&mut process.cwd, &self.cwd);
        replace(&mut process.apparmor_profile, &self.apparmor_profile);
        replace(&mut process.selinux_label, &self.selinux_label);
        environment(&self.env).map_err(|error| error.of_flag("--env", "/process/env"))?;
        process.env.extend(self.env.iter().cloned());
        process.user.uid = self.uid.unwrap_or(process.user.uid);
        process.user.gid = self.gid.unwrap_or(process.user.gid);
        process.user.additional_gids.extend(&self.additional_gids);
        process.no_new_privileges = self.no_new_privileges.unwrap_or(process.no_new_privileges);
        process.terminal |= self.terminal;
        self.add_capabilities(process)
    }

    /// An error of the process, told of the flag that it came by.
    pub fn place(&self, error: Error) -> Error {
        let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        [
            (!self.args.is_empty(), "the command", "/process/args"),
            (given(&self.cwd), "--cwd", "/process/cwd"),
            (self.uid.is_some(), "--user", "/process/user/uid"),
            (self.gid.is_some(), "--user", "/process/user/gid"),
            (!self.additional_gids.is_empty(), "--additional-gids", "/process/user/additionalGids"),
            (given(&self.apparmor_profile), "--apparmor", "/process/apparmorProfile"),
            (given(&self.selinux_label), "--process-label", "/process/selinuxLabel"),
        ]
        .into_iter()
        .filter(|(is_given, ..)| *is_given)
        .fold(error, |error, (_, flag, pointer)| error.of_flag(flag, pointer))
    }

    /// Never to the inheritable set (CVE-2022-29162), and so not to the ambient one.
    fn add_capabilities(&self, process: &mut Process) -> Result<()> {
        if self.capabilities.is_empty() {
            return Ok(());
        }
        if let Some(name) = self.capabilities.iter().find(|name| !capability::NAMES.contains(&name.as_str())) {
            return Err(Error::new(format!("--cap: there is no capability {name:?}")).hint("such as CAP_NET_RAW"));
        }
        let sets = process.capabilities.get_or_insert_default();
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.extend(self.capabilities.iter().cloned());
        }
        Ok(())
    }
}

/// Completes a process that a caller gives whole: where it is silent on what confines it, the container's own
/// confinement holds.
pub fn complete(mut given: Process, own: Process) -> Process {
    given.capabilities = given.capabilities.or(own.capabilities);
    given.oom_score_adj = given.oom_score_adj.or(own.oom_score_adj);
    given.scheduler = given.scheduler.or(own.scheduler);
    given.io_priority = given.io_priority.or(own.io_priority);
    given.exec_cpu_affinity = given.exec_cpu_affinity.or(own.exec_cpu_affinity);
    given.user.umask = given.user.umask.or(own.user.umask);
    if given.apparmor_profile.is_empty() {
        given.apparmor_profile = own.apparmor_profile;
    }
    if given.selinux_label.is_empty() {
        given.selinux_label = own.selinux_label;
    }
    if given.rlimits.is_empty() {
        given.rlimits = own.rlimits;
    }
    given
}

/// The arguments, whatever their bytes: not all are UTF-8, as those of a config.json are.
pub fn arguments(args: &[OsString]) -> Result<Vec<CString>> {
    args.iter()
        .map(|argument| {
            CString::new(argument.as_encoded_bytes()).map_err(|_| Error::new("an argument holds a NUL byte"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Capabilities, Rlimit};

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn capabilities_are_never_added_to_the_inheritable_set() {
        let mut process = Process { capabilities: Some(Capabilities::default()), ..Process::default() };
        Changes { capabilities: names(&["CAP_NET_RAW"]), ..Changes::default() }.apply(&mut process).unwrap();
        let sets = process.capabilities.unwrap();
        assert_eq!((sets.bounding, sets.effective), (names(&["CAP_NET_RAW"]), names(&["CAP_NET_RAW"])));
        assert!(sets.inheritable.is_empty() && sets.ambient.is_empty());
        let unknown = Changes { capabilities: names(&["NET_RAW"]), ..Changes::default() };
        assert!(unknown.apply(&mut Process::default()).is_err());
    }

    #[test]
    fn a_user_without_a_group_keeps_the_containers() {
        let mut process = Process::default();
        process.user.gid = 5;
        Changes { uid: Some(1), ..Changes::default() }.apply(&mut process).unwrap();
        assert_eq!((process.user.uid, process.user.gid), (1, 5));
    }

    #[test]
    fn what_a_given_process_leaves_out_is_the_containers() {
        let limit = || Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 1, hard: 1 };
        let own = Process {
            apparmor_profile: "own".into(),
            rlimits: vec![limit()],
            no_new_privileges: true,
            ..Process::default()
        };
        let given = complete(Process { args: names(&["a"]), ..Process::default() }, own);
        assert_eq!((given.apparmor_profile.as_str(), given.rlimits.len()), ("own", 1));
        assert!(!given.no_new_privileges, "which Go leaves out where it is false");
    }
}
