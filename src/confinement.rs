//! From a process that is inside the container to its program: identity, limits, confinement, execve(2). The same for
//! the container's first process and for those that `exec` adds.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::personality::Persona;
use nix::unistd::{execve, getcwd};
use oci_spec::runtime::LinuxPersonalityDomain;

use crate::error::{Context, Error, Result};
use crate::lsm::{self, Labels};
use crate::numa::{self, MemoryPolicy};
use crate::process::{ProcessPlan, capability, cpu_list, program};
use crate::safepath::{Procfs, Root, read_small_file};
use crate::seccomp::{self, Seccomp};
use crate::spec::{Linux, Process};
use crate::sys::process as sys;
use crate::trace::{self, step};
use crate::wire::{Message, Wire};

/// What confines a container's processes beside `process` itself.
#[derive(Debug)]
pub struct Confinement {
    pub labels: Labels,
    pub personality: Option<Persona>,
    pub memory_policy: Option<MemoryPolicy>,
    pub seccomp: Option<Seccomp>,
    /// The name of the session keyring; none where the caller's is kept.
    pub keyring: Option<CString>,
    /// Whether the container has a user namespace other than the runtime's.
    pub own_users: bool,
}

/// Keeps tracers without the privilege on the host away from this process, and from what it forks. Whatever is done in a
/// namespace of the container's comes after it: in a user namespace others may trace whom on the host they could not. A
/// change of credentials undoes it, by setns(2) and unshare(2) too.
pub fn become_untraceable() -> Result<()> {
    sys::prctl(libc::PR_SET_DUMPABLE, 0).context(|| "cannot become untraceable")
}

/// Lets go of what is the caller's, and closes all but these descriptors and those that are passed on: close-on-exec comes
/// too late for a program that is found through /proc/self/fd (CVE-2024-21626), and a process that waits is seen by others
/// in its pid namespace. Nothing that owns another may be dropped any more.
pub fn forget_the_caller(preserve_fds: u32, kept: &[Option<BorrowedFd<'_>>]) {
    sys::replace_arguments(b"kelson\0init");
    let kept = kept.iter().flatten().map(AsRawFd::as_raw_fd).chain(trace::descriptor());
    sys::close_all_but(3 + preserve_fds as i32, &kept.collect::<Vec<_>>());
}

/// Reads what `process` and `linux` say of it.
pub fn plan(
    process: Option<&Process>,
    linux: &Linux,
    keyring: Option<CString>,
    own_users: bool,
) -> Result<Confinement> {
    let profile = process.map_or("", |process| &process.apparmor_profile);
    let label = process.map_or("", |process| &process.selinux_label);
    Ok(Confinement {
        labels: lsm::plan(profile, label, &linux.mount_label),
        personality: personality(linux)?,
        memory_policy: linux.memory_policy.as_ref().map(|policy| numa::plan(policy, cpu_list::parse)).transpose()?,
        seccomp: linux.seccomp.as_ref().map(seccomp::plan).transpose()?,
        keyring,
        own_users,
    })
}

fn personality(linux: &Linux) -> Result<Option<Persona>> {
    const PER_LINUX32: i32 = 8;
    let Some(personality) = &linux.personality else { return Ok(None) };
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        let message = "no flags of a personality are supported (config-linux.md: \"Currently no flag values\")";
        return Err(Error::new(message).pointer("/linux/personality/flags"));
    }
    Ok(Some(Persona::from_bits_retain(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    })))
}

/// The name of the session keyring that a container's processes share.
pub fn keyring_name(id: &str) -> Result<CString> {
    CString::new(format!("_ses.{id}")).map_err(|_| Error::new("an id cannot hold a NUL byte"))
}

/// What may be wrong where a process ends before its program and does not say why.
pub const FORBIDDEN_BY_FILTER: &str =
    "its seccomp profile may forbid execve(2), or the calls by which it says what went wrong (write)";

/// What loading a seccomp filter takes: CAP_SYS_ADMIN.
const FOR_FILTERS: u64 = 1 << 21;

/// The agent that decides on calls which the seccomp filter leaves to it, and what it is told.
#[derive(Default)]
pub struct Agent {
    pub socket: Option<OwnedFd>,
    /// The container's state as runtime.md has it.
    pub state: Vec<u8>,
    /// The process's id, where it is not the one in the state.
    pub pid: Option<i32>,
    /// Whether the process that loads the filter can make no thread.
    pub alone: bool,
}

/// What execve(2) is called with, beside the arguments.
pub struct Program {
    path: CString,
    env: Vec<CString>,
}

/// What was done while the process still was the runtime's user.
pub struct Prepared {
    env: Vec<CString>,
    /// Whether the working directory is entered: some only their user may enter.
    entered: bool,
    may_set_groups: bool,
}

impl Confinement {
    /// Whether an agent decides on calls that seccomp leaves to it.
    pub fn has_agent(&self) -> bool {
        self.seccomp.as_ref().is_some_and(|seccomp| seccomp.listener.is_some())
    }

    /// Connects to that agent: while the host's file system is still there.
    pub fn connect_to_agent(&self) -> Result<Option<OwnedFd>> {
        step("seccomp", self.seccomp.as_ref().map_or(Ok(None), Seccomp::connect))
    }

    /// Joins the container's session keyring, so that its processes do not see the caller's keys.
    pub fn join_keyring(&self, procfs: &Procfs) -> Result<()> {
        let Some(name) = &self.keyring else { return Ok(()) };
        match self.labels.with_label_for_keys(procfs, || sys::join_session_keyring(name))? {
            Ok(keyring) => {
                // Only for the container's own lookups; a kernel that refuses does no harm.
                let _ = sys::allow_keyring_search(keyring);
                Ok(())
            }
            // No keyrings in this kernel, or a filter that hides them.
            Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
            Err(errno) => Err(Error::new("cannot make a session keyring").errno(errno).hint(match errno {
                Errno::EDQUOT => {
                    "the user's quota of keys is used up (/proc/keys, kernel.keys.maxkeys): pass --no-new-keyring"
                }
                _ => "pass --no-new-keyring to do without",
            })),
        }
    }

    /// Sets what the runtime's user may set, and looks at what only it may see. Whatever can be done before a seccomp
    /// filter is loaded is, so that profiles need not allow it.
    pub fn prepare(&self, process: &ProcessPlan, root: &Root, procfs: &Procfs) -> Result<Prepared> {
        if let Some(personality) = self.personality {
            nix::sys::personality::set(personality)
                .context(|| "cannot set the personality")
                .map_err(|error| error.pointer("/linux/personality"))?;
        }
        if let Some(policy) = &self.memory_policy {
            policy.apply()?;
        }
        self.labels.label_exec(procfs)?;
        let prepared = Prepared {
            env: environment(process, root),
            entered: enter_directory(root, &process.cwd)?,
            may_set_groups: may_set_groups(procfs),
        };
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(process.identity.umask));
        own_standard_streams(process.identity.uid);
        Ok(prepared)
    }

    /// Takes on the process's identity, last what takes privileges away; finds the program as its user. The seccomp filter
    /// is loaded on the way if there is an agent for it in `early`; else what that takes is kept, but not in effect.
    pub fn become_user(
        &self,
        process: &ProcessPlan,
        prepared: Prepared,
        (root, wire): (&Root, &Wire),
        early: Option<Agent>,
    ) -> Result<Program> {
        process.capabilities.limit_bounding()?;
        process.identity.apply(prepared.may_set_groups)?;
        let kept = match early {
            Some(agent) => {
                capability::raise_all()?;
                step("seccomp", self.load_filter(agent))?;
                0
            }
            None if self.filter_takes_privileges(process) => FOR_FILTERS,
            None => 0,
        };
        for warning in process.capabilities.apply(kept)? {
            wire.send(&Message::Warning(warning))?;
        }
        if !prepared.entered && !enter_directory(root, &process.cwd)? {
            return Err(no_directory(&process.cwd, Errno::EACCES));
        }
        if process.no_new_privileges {
            sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).context(|| "cannot set no_new_privs")?;
        }
        // A change of ids has made it the default again, whatever that is on this host.
        become_untraceable()?;
        let path = program::find(process).map_err(|error| error.pointer("/process/args/0"))?;
        Ok(Program { path, env: prepared.env })
    }

    /// Whether loading the seccomp filter takes CAP_SYS_ADMIN: without noNewPrivileges.
    pub fn filter_takes_privileges(&self, process: &ProcessPlan) -> bool {
        self.seccomp.is_some() && !process.no_new_privileges
    }

    /// Loads the seccomp filter as late as can be, so that it need not allow what the start itself does: of that only
    /// capset(2) comes after, where [`Self::become_user`] has kept a privilege for it, and execve(2).
    pub fn load_filter_late(&self, process: &ProcessPlan, agent: Agent) -> Result<()> {
        if !self.filter_takes_privileges(process) {
            return self.load_filter(agent);
        }
        let own = capability::raise_all()?;
        self.load_filter(agent)?;
        sys::set_capabilities(process.capabilities.without_kept(own)).context(|| "cannot set the capabilities")
    }

    fn load_filter(&self, agent: Agent) -> Result<()> {
        let Some(seccomp) = &self.seccomp else { return Ok(()) };
        let Agent { socket, state, pid, alone } = agent;
        if alone { seccomp.load_alone(socket, &state) } else { seccomp.load(socket, &state, pid) }
    }

    /// Becomes the program; where the seccomp filter is still to be loaded, with this agent.
    pub fn execute(
        &self,
        process: &ProcessPlan,
        program: &Program,
        preserve_fds: u32,
        late: Option<Agent>,
    ) -> Result<Infallible> {
        step("exec", prepare_exec(preserve_fds))?;
        if let Some(agent) = late {
            step("seccomp", self.load_filter_late(process, agent))?;
        }
        let Err(errno) = execve(&program.path, &process.args, &program.env);
        Err(program::refused(&process.args[0], &program.path, errno).pointer("/process/args/0").step("exec"))
    }
}

/// Not in a user namespace whose gid map was written without privileges.
fn may_set_groups(procfs: &Procfs) -> bool {
    const SETGID: u64 = 1 << 6;
    if !sys::capabilities().is_ok_and(|sets| sets.effective & SETGID != 0) {
        return false;
    }
    let Ok(file) = procfs.open("self/setgroups", nix::fcntl::OFlag::O_RDONLY) else { return true };
    let mut text = [0; 8];
    let length = nix::unistd::read(&file, &mut text).unwrap_or(0);
    !text[..length].starts_with(b"deny")
}

/// Adds HOME from the container's /etc/passwd where config.json does not set it, as runc does.
fn environment(process: &ProcessPlan, root: &Root) -> Vec<CString> {
    const MAX_PASSWD: usize = 1 << 20;
    let mut env = process.env.clone();
    if process.variable("HOME").is_none_or(<[u8]>::is_empty) {
        let passwd = read_small_file(root, Path::new("/etc/passwd"), MAX_PASSWD).unwrap_or_default();
        let uid = process.identity.uid.to_string();
        let home = passwd.split(|byte| *byte == b'\n').find_map(|line| {
            let fields: Vec<_> = line.split(|byte| *byte == b':').collect();
            (fields.len() >= 6 && fields[2] == uid.as_bytes()).then(|| fields[5].to_vec())
        });
        env.retain(|variable| !variable.to_bytes().starts_with(b"HOME="));
        let home = home.filter(|home| home.starts_with(b"/")).unwrap_or_else(|| b"/".to_vec());
        env.extend(CString::new([&b"HOME="[..], &home].concat()));
    }
    env
}

/// Enters the working directory; false where only its user may enter it. A link of /proc's is not followed: through
/// one, a descriptor that is still open could lead out (CVE-2024-21626).
fn enter_directory(root: &Root, cwd: &Path) -> Result<bool> {
    match root.open(cwd).and_then(nix::unistd::fchdir) {
        Ok(()) => check_directory(cwd).map(|()| true),
        Err(Errno::EACCES | Errno::EPERM) => Ok(false),
        Err(errno) => Err(no_directory(cwd, errno)),
    }
}

/// The error of a working directory that cannot be entered.
pub fn no_directory(cwd: &Path, errno: Errno) -> Error {
    Error::new("cannot enter the working directory").path(cwd).errno(errno).pointer("/process/cwd")
}

/// The kernel itself says whether the directory is inside the root.
fn check_directory(cwd: &Path) -> Result<()> {
    match getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        Ok(_) | Err(Errno::ENOENT) => Err(Error::new("the working directory is outside of the container's root")
            .path(cwd)
            .pointer("/process/cwd")),
        Err(errno) => Err(no_directory(cwd, errno)),
    }
}

/// Gives the standard streams to the user, who may have to reopen them through /proc/self/fd.
fn own_standard_streams(uid: u32) {
    // By number: what the container has at /dev/null says nothing.
    let null = nix::sys::stat::makedev(1, 3);
    let streams: [&dyn std::os::fd::AsFd; 3] = [&std::io::stdin(), &std::io::stdout(), &std::io::stderr()];
    for stream in streams {
        let Ok(stat) = nix::sys::stat::fstat(stream.as_fd()) else { continue };
        if stat.st_uid == uid || stat.st_rdev == null {
            continue;
        }
        // A stream that belongs to somebody else, or to a read-only file system, stays as it is.
        let _ = nix::unistd::fchown(stream.as_fd(), Some(uid.into()), None);
    }
}

fn prepare_exec(preserve_fds: u32) -> Result<()> {
    for number in 3..3 + preserve_fds {
        sys::set_close_on_exec(number as i32, false).context(|| format!("cannot pass on the descriptor {number}"))?;
    }
    crate::sys::signal::reset();
    Ok(())
}
