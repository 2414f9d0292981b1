//! `kelson exec`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

use super::create::guard_descriptors;
use super::parser::{boolean, given};
use super::{Global, Verb};
use crate::error::{Error, Result};
use crate::exec::{Changes, Request, exec};
use crate::state::Store;

/// Run a process in a container
#[derive(Debug, Parser)]
#[command(name = "kelson exec", args_override_self = true)]
pub struct Exec {
    #[command(flatten)]
    global: Global,
    /// File with the process, as config.json has it
    #[arg(long, short, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Do not wait for the end
    #[arg(long, short)]
    detach: bool,
    /// Write the process's id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Socket that takes the terminal's descriptor
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Socket that takes a descriptor of the process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Give the process a terminal
    #[arg(long, short)]
    tty: bool,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Add a variable to the container's environment
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// User and group id
    #[arg(long, short, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Add a supplementary group
    #[arg(long, short = 'g', value_name = "GID")]
    additional_gids: Vec<String>,
    /// Add a capability, such as CAP_NET_RAW
    #[arg(long, short, value_name = "CAP")]
    cap: Vec<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Forbid new privileges, or with `=false` allow what the container forbids
    #[arg(long, value_name = "BOOLEAN", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    no_new_privs: Option<bool>,
    /// Pass this many descriptors from 3 on to the process
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Join a cgroup in the container's: PATH, or CONTROLLER[,CONTROLLER]:PATH
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<String>,
    /// Run it in a paused container: it begins when that is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// Do not become a reaper of orphans, which `exec` never does
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Verb for Exec {
    /// As runc: to be told from the codes of programs.
    const FAILURE: i32 = 255;

    fn global(&self) -> &Global {
        &self.global
    }

    fn prepare(&self) -> Result<()> {
        if self.preserve_fds >= 65_536 {
            return Err(Error::new("--preserve-fds is too large"));
        }
        guard_descriptors(self.preserve_fds)
    }

    fn run(&self, store: &Store) -> Result<i32> {
        match (given(self.process.as_ref()), self.command.is_empty()) {
            (None, true) => return Err(Error::new("exec needs a command, or --process")),
            (Some(_), false) => return Err(Error::new("--process and a command exclude each other")),
            _ => {}
        }
        let request = Request {
            id: self.id.clone(),
            process: given(self.process.as_ref()),
            changes: self.changes()?,
            cgroups: self.cgroup.clone(),
            ignore_paused: self.ignore_paused,
            detach: self.detach,
            pid_file: given(self.pid_file.as_ref()),
            console_socket: given(self.console_socket.as_ref()),
            pidfd_socket: given(self.pidfd_socket.as_ref()),
            preserve_fds: self.preserve_fds,
        };
        exec(store, &request)
    }
}

impl Exec {
    fn changes(&self) -> Result<Changes> {
        let (uid, gid) = self.user.as_deref().map(parse_user).transpose()?.unwrap_or_default();
        let group = |text: &String| parse_id("--additional-gids", text);
        Ok(Changes {
            args: self.command.clone(),
            cwd: self.cwd.clone(),
            env: self.env.clone(),
            uid,
            gid,
            additional_gids: self.additional_gids.iter().map(group).collect::<Result<_>>()?,
            capabilities: self.cap.clone(),
            apparmor_profile: self.apparmor.clone(),
            selinux_label: self.process_label.clone(),
            no_new_privileges: self.no_new_privs,
            terminal: self.tty,
        })
    }
}

/// `UID` or `UID:GID`, in decimal and nothing else: what cannot be read must not be taken for root (CVE-2026-30892).
pub fn parse_user(text: &str) -> Result<(Option<u32>, Option<u32>)> {
    let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
    let gid = gid.map(|gid| parse_id("--user", gid)).transpose()?;
    Ok((Some(parse_id("--user", uid)?), gid))
}

fn parse_id(flag: &str, text: &str) -> Result<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // The greatest number means "no change" to the kernel.
    match text.parse() {
        Ok(id) if digits && id != u32::MAX => Ok(id),
        _ => Err(Error::new(format!("{flag}: {text:?} is not the number of a user or group"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers() {
        assert_eq!(parse_user("1").unwrap(), (Some(1), None));
        assert_eq!(parse_user("1:2").unwrap(), (Some(1), Some(2)));
        assert_eq!(parse_user("0:0").unwrap(), (Some(0), Some(0)));
        assert_eq!(parse_user("4294967294").unwrap(), (Some(u32::MAX - 1), None));
        for text in
            ["", "1:", ":1", ":", "-1", "+1", " 1", "1 ", "1e3", "0x1", "root", "1:2:3", "4294967295", "4294967296"]
        {
            assert!(parse_user(text).is_err(), "{text:?}");
        }
    }
}
