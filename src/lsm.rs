//! AppArmor profiles and SELinux labels for the process.

use std::path::Path;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::safepath::Procfs;

/// Where each module says that it is there.
const APPARMOR: &str = "/sys/kernel/security/apparmor";
const SELINUX: &str = "/sys/fs/selinux";

/// Checks, on the host, that what config.json names can be applied.
pub fn check(apparmor_profile: &str, selinux_label: &str, mount_label: &str) -> Result<()> {
    let enabled = |path: &str| Path::new(path).exists();
    if !apparmor_profile.is_empty() && apparmor_profile != "unconfined" && !enabled(APPARMOR) {
        return Err(Error::new("an AppArmor profile is asked for, but AppArmor is not enabled on this host")
            .pointer("/process/apparmorProfile"));
    }
    for (label, pointer) in [(selinux_label, "/process/selinuxLabel"), (mount_label, "/linux/mountLabel")] {
        if !label.is_empty() && !enabled(SELINUX) {
            let message = "an SELinux label is asked for, but SELinux is not enabled on this host";
            return Err(Error::new(message).pointer(pointer));
        }
    }
    Ok(())
}

/// Asks the modules to label the next execve(2) of the caller.
pub fn label_exec(procfs: &Procfs, apparmor_profile: &str, selinux_label: &str) -> Result<()> {
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

/// Whether [`label_exec`] has anything to do.
pub fn is_needed(apparmor_profile: &str, selinux_label: &str) -> bool {
    !selinux_label.is_empty() || !apparmor_profile.is_empty() && apparmor_profile != "unconfined"
}
