//! AppArmor profiles and SELinux labels for the process.

use std::path::Path;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::safepath::Procfs;

/// Where each module says that it is there. AppArmor's own file system may not be mounted.
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";
const SELINUX: &str = "/sys/fs/selinux";

/// The labels of config.json that this host can apply: on a host without the module they mean nothing, and are left
/// out with a warning, as crun does.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    pub apparmor_profile: String,
    pub selinux_label: String,
    pub mount_label: String,
}

/// Reads the labels.
pub fn plan(apparmor_profile: &str, selinux_label: &str, mount_label: &str) -> Labels {
    let keep = |label: &str, module: &str, path: &str| {
        if label.is_empty() || label == "unconfined" || is_enabled(path) {
            return label.to_owned();
        }
        crate::log::warn(format!("{module} is not enabled on this host: the label {label:?} was not applied"));
        String::new()
    };
    Labels {
        apparmor_profile: keep(apparmor_profile, "AppArmor", APPARMOR),
        selinux_label: keep(selinux_label, "SELinux", SELINUX),
        mount_label: keep(mount_label, "SELinux", SELINUX),
    }
}

fn is_enabled(path: &str) -> bool {
    let says_no = || std::fs::read(path).is_ok_and(|text| text.starts_with(b"N"));
    Path::new(path).exists() && !says_no()
}

impl Labels {
    /// Whether [`Labels::label_exec`] has anything to do.
    pub fn are_for_the_process(&self) -> bool {
        !self.selinux_label.is_empty() || !matches!(self.apparmor_profile.as_str(), "" | "unconfined")
    }

    /// Asks the modules to label the next execve(2) of the caller.
    pub fn label_exec(&self, procfs: &Procfs) -> Result<()> {
        label_exec(procfs, &self.apparmor_profile, &self.selinux_label)
    }

    /// Does `work` while keyrings that are made have the process's SELinux label: with another it could not use its own.
    pub fn with_label_for_keys<T>(&self, procfs: &Procfs, work: impl FnOnce() -> T) -> Result<T> {
        if self.selinux_label.is_empty() {
            return Ok(work());
        }
        let label = |text: &str| match procfs.write("self/attr/keycreate", text) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(Error::new("cannot give keyrings the SELinux label").errno(errno)),
        };
        label(&self.selinux_label).map_err(|error| error.pointer("/process/selinuxLabel"))?;
        let done = work();
        label("").map(|()| done)
    }
}

fn label_exec(procfs: &Procfs, apparmor_profile: &str, selinux_label: &str) -> Result<()> {
    if !apparmor_profile.is_empty() && apparmor_profile != "unconfined" {
        let text = format!("exec {apparmor_profile}");
        // The module's own directory since Linux 5.8, so that it stacks with others.
        let written = match procfs.write("self/attr/apparmor/exec", &text) {
            Err(Errno::ENOENT) => procfs.write("self/attr/exec", &text),
            result => result,
        };
        written.map_err(|errno| {
            Error::new(format!("cannot use the AppArmor profile {apparmor_profile:?}"))
                .errno(errno)
                .pointer("/process/apparmorProfile")
                .hint("is it loaded? `apparmor_parser -r FILE` loads one, `aa-status` lists them")
        })?;
    }
    if !selinux_label.is_empty() {
        procfs.write("self/attr/exec", selinux_label).map_err(|errno| {
            Error::new(format!("cannot use the SELinux label {selinux_label:?}"))
                .errno(errno)
                .pointer("/process/selinuxLabel")
        })?;
    }
    Ok(())
}
