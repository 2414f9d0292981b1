//! Seccomp: `linux.seccomp` as a filter that the kernel runs before each system call of the container
//! (config-linux.md, "Seccomp"; seccomp(2)).
//!
//! [`plan`] checks the profile ([`profile`]), finds what each number means on each architecture ([`rules`]) and
//! generates the program ([`compile`]); [`Seccomp::load`] gives it to the kernel. Where rules overlap they mean what
//! they mean to libseccomp, for which profiles are written.

pub mod arch;
pub mod compile;
pub mod disassemble;
pub mod engine;
pub mod explain;
pub mod interpreter;
mod listener;
pub mod profile;
pub mod rules;
pub mod tables;

#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;
use seccompiler::BpfProgram;

use crate::error::{Error, Result};
use crate::spec::seccomp as spec;
use crate::sys::seccomp as sys;
use profile::flag;

const NOTIFY: &str = "SCMP_ACT_NOTIFY";

/// A filter, ready to be loaded.
#[derive(Debug)]
pub struct Seccomp {
    pub program: BpfProgram,
    flags: u64,
    /// Whether the flags are this program's choice, so that a kernel without them may do without.
    has_default_flags: bool,
    /// Who is told of calls that are left to an agent.
    pub listener: Option<Listener>,
}

/// The agent of `SCMP_ACT_NOTIFY`.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    metadata: String,
    /// Whether it is asked about the very calls that send it the filter's descriptor.
    hears_itself: bool,
}

/// Reads `linux.seccomp`.
pub fn plan(config: &spec::Seccomp) -> Result<Seccomp> {
    let profile = profile::read(config)?;
    let listener = plan_listener(config, profile.notifies())?;
    Ok(Seccomp {
        program: compile::compile(&profile, &profile.arches_on(arch::native()))?,
        flags: flags(&profile, listener.is_some()),
        has_default_flags: profile.flags.is_none(),
        listener,
    })
}

fn plan_listener(config: &spec::Seccomp, notifies: bool) -> Result<Option<Listener>> {
    let has_path = !config.listener_path.as_os_str().is_empty();
    if !config.listener_metadata.is_empty() && !has_path {
        return Err(Error::new("the listener's metadata has no listener").pointer("/linux/seccomp/listenerMetadata"));
    }
    if notifies && !has_path {
        return Err(Error::new("SCMP_ACT_NOTIFY needs a listener").pointer("/linux/seccomp/listenerPath"));
    }
    let sending = |name: &String| matches!(name.as_str(), "sendmsg" | "close");
    let mut notifying = config.syscalls.iter().filter(|rule| rule.action == NOTIFY);
    let hears_itself = config.default_action == NOTIFY
        || notifying.any(|rule| rule.names.as_ref().is_some_and(|names| names.iter().any(sending)));
    let (path, metadata) = (config.listener_path.clone(), config.listener_metadata.clone());
    Ok(notifies.then_some(Listener { path, metadata, hears_itself }))
}

fn flags(profile: &profile::Profile, has_listener: bool) -> u64 {
    // As runc: without a word on flags, no mitigation of speculative store bypass is forced on the program.
    let asked = profile.flags.unwrap_or(flag::SPEC_ALLOW);
    // The kernel takes the one flag only with the other.
    if has_listener { asked | flag::NEW_LISTENER } else { asked & !flag::WAIT_KILLABLE_RECV }
}

impl Seccomp {
    /// Connects to the listener's agent: while the host's file system is still there.
    pub fn connect(&self) -> Result<Option<OwnedFd>> {
        self.listener.as_ref().map(|listener| listener::connect(&listener.path)).transpose()
    }

    /// Loads the filter into the calling thread; from here on it holds. `state` is the container's, for the agent;
    /// `pid` is told to it where the process is not the container's first.
    pub fn load(&self, agent: Option<OwnedFd>, state: &[u8], pid: Option<i32>) -> Result<()> {
        match (&self.listener, agent) {
            (Some(listener), Some(agent)) => {
                listener::load_and_send(|| self.load_program(), agent, listener.message(state, pid)?)
            }
            _ => self.load_program().map(drop).map_err(refused),
        }
    }

    /// The same in a process that can make no thread: one whose children are to be in another pid namespace.
    pub fn load_alone(&self, agent: Option<OwnedFd>, state: &[u8]) -> Result<()> {
        match (&self.listener, agent) {
            (Some(listener), _) if listener.hears_itself => Err(Error::new(
                "the seccomp profile leaves sendmsg or close to the agent, which cannot be told of it then",
            )
            .pointer("/linux/seccomp")
            .hint("set noNewPrivileges, with which an exec loads the filter last")),
            (Some(listener), Some(agent)) => {
                listener::load_then_send(|| self.load_program(), &agent, &listener.message(state, None)?)
            }
            _ => self.load_program().map(drop).map_err(refused),
        }
    }

    /// Returns the listener's descriptor where the flags ask for one.
    fn load_program(&self) -> nix::Result<i32> {
        match sys::load_filter(self.flags, &self.program) {
            // Before Linux 4.17.
            Err(Errno::EINVAL) if self.has_default_flags => {
                sys::load_filter(self.flags & !flag::SPEC_ALLOW, &self.program)
            }
            result => result,
        }
    }
}

fn refused(errno: Errno) -> Error {
    let error = Error::new("cannot load the seccomp filter").errno(errno).pointer("/linux/seccomp");
    match errno {
        Errno::EACCES => error.hint("without noNewPrivileges it takes CAP_SYS_ADMIN"),
        Errno::EINVAL => error.hint("this kernel may lack seccomp filters or one of the profile's flags"),
        Errno::EBUSY => error.hint("another filter already has a listener"),
        _ => error,
    }
}
