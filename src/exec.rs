//! A process added to a running container: the parent's side. [`stage`] is the other.
//!
//! The process is made in two steps. The *stage*, cloned into the container's cgroup, joins its namespaces and takes on
//! the process's identity and confinement while nobody in the container can see it. Only then, with nothing of the
//! host's left in it, does it clone the process itself into the container's pid namespace, as the runtime's child: what
//! a hostile container can get hold of there is no more than the program will have (CVE-2016-9962).

mod changes;
mod stage;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

pub use changes::{Changes, complete};

use crate::cgroup::{Cgroups, is_rootless, join};
use crate::confinement::{self, Confinement, keyring_name};
use crate::create::{how_it_ended, write_pid_file};
use crate::error::{Context, Error, Result};
use crate::foreground::{Foreground, KILLED};
use crate::process::{self, ProcessPlan};
use crate::spec;
use crate::state::{Init, State, Status, Store};
use crate::sys::child::wait;
use crate::sys::poll::{Place, poll};
use crate::sys::process::{Forked, pidfd_open, pidfd_send_signal};
use crate::sys::sched::set_affinity;
use crate::trace::{self, step};
use crate::wire::{Message, Wire, send_descriptors};
use crate::{log, tty};

/// What the caller asks for.
#[derive(Debug, Default)]
pub struct Request {
    pub id: String,
    /// A file with the whole process, in place of the container's own.
    pub process: Option<PathBuf>,
    pub changes: Changes,
    /// Sub-cgroups to join: a path, or `controller[,controller]:path`.
    pub cgroups: Vec<String>,
    pub ignore_paused: bool,
    pub detach: bool,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    pub preserve_fds: u32,
}

/// The process, computed before anything is touched; the stage inherits it by copy-on-write.
pub struct Plan {
    process: ProcessPlan,
    confinement: Confinement,
    state: State,
    /// A descriptor of the container's init, whose namespaces are joined.
    init: OwnedFd,
    preserve_fds: u32,
    /// How many processes of the container had been killed for want of memory before.
    oom_kills: u64,
    /// Whether it may join a frozen cgroup, and so wait for its thaw.
    ignore_paused: bool,
}

impl Plan {
    fn out_of_memory(&self) -> Option<String> {
        self.state.cgroup.out_of_memory(self.oom_kills)
    }
}

/// Runs a process in a container. In the foreground its exit code is returned: 128 and the signal's number where it was
/// killed.
pub fn exec(store: &Store, request: &Request) -> Result<i32> {
    run(store, request).map_err(|error| request.changes.place(error)).map_err(|error| match &request.process {
        Some(file) => error.of_file(file, "/process"),
        None => error,
    })
}

fn run(store: &Store, request: &Request) -> Result<i32> {
    let plan = plan(store, request)?;
    trace::mark("plan");
    let (terminal, console) = tty::console(plan.process.terminal, request.console_socket.as_deref(), request.detach)?;
    let mut foreground = if request.detach { None } else { Some(Foreground::begin(SigSet::empty())?) };
    let pidfd_socket = request.pidfd_socket.as_deref().map(tty::connect).transpose()?;
    let (pid, pidfd) = add(&plan, &request.cgroups, console)?;
    let taken = foreground.as_mut().map_or(Ok(()), |foreground| foreground.take_terminal(terminal));
    let told = taken.and_then(|()| tell(request.pid_file.as_deref(), pidfd_socket.as_ref(), pid, &pidfd));
    if let Err(error) = told {
        let _ = pidfd_send_signal(&pidfd, libc::SIGKILL);
        return Err(reaped(error));
    }
    drop(pidfd);
    log::flush();
    trace::mark("ready");
    let code = foreground.map_or(0, |foreground| foreground.wait(pid));
    trace::mark("program");
    if code == KILLED {
        plan.out_of_memory().into_iter().for_each(log::warn);
    }
    Ok(code)
}

fn plan(store: &Store, request: &Request) -> Result<Plan> {
    let state = store.load(&request.id)?;
    // Opened before it is looked at: what is alive then is what the descriptor holds.
    let init = state.init.map_or(Err(Errno::ESRCH), |init| pidfd_open(Pid::from_raw(init.pid)));
    check_status(&state, request.ignore_paused)?;
    let init = init.map_err(|errno| not_running().errno(errno))?;
    let spec = store.spec(&request.id)?;
    let own = spec.process.unwrap_or_default();
    let mut asked = match &request.process {
        Some(path) => complete(spec::Process::load(path)?, own),
        None => spec::Process { args: Vec::new(), terminal: false, ..own },
    };
    request.changes.apply(&mut asked)?;
    let mut process = process::plan(&asked)?;
    if !request.changes.args.is_empty() {
        process.args = changes::arguments(&request.changes.args)?;
    }
    if process.args.is_empty() {
        return Err(Error::new("no program to run").pointer("/process/args"));
    }
    process.warnings.drain(..).for_each(log::warn);
    let keyring = if state.new_keyring { Some(keyring_name(&request.id)?) } else { None };
    let own_users = state.namespaces & libc::CLONE_NEWUSER as u64 != 0;
    let confinement = confinement::plan(Some(&asked), &spec.linux, keyring, own_users)?;
    let oom_kills = state.cgroup.oom_kills();
    Ok(Plan {
        process,
        confinement,
        state,
        init,
        preserve_fds: request.preserve_fds,
        oom_kills,
        ignore_paused: request.ignore_paused,
    })
}

/// The words are those that engines look for (ENGINES.md).
fn check_status(state: &State, ignore_paused: bool) -> Result<()> {
    match state.status() {
        Status::Created | Status::Running => Ok(()),
        Status::Paused if ignore_paused => Ok(()),
        Status::Paused => {
            Err(Error::new("cannot exec in a paused container").hint("resume it, or pass --ignore-paused"))
        }
        Status::Creating => Err(Error::new("cannot exec in a container that is not created yet")),
        Status::Stopped => Err(not_running()),
    }
}

fn not_running() -> Error {
    Error::new("cannot exec in a stopped container: container not running")
}

/// Adds the process, up to its execve(2).
fn add(plan: &Plan, cgroups: &[String], console: Option<OwnedFd>) -> Result<(Pid, OwnedFd)> {
    let init = plan.state.init.map_or(0, |init| init.pid);
    let joined = step("cgroup", join::open(&plan.state.cgroup, cgroups, init, plan.ignore_paused))?;
    if let Some(cpus) = &plan.process.schedule.initial_cpus {
        set_affinity(Pid::from_raw(0), cpus)
            .context(|| "cannot set the CPU affinity")
            .map_err(|error| error.pointer("/process/execCPUAffinity/initial"))?;
    }
    let (ours, theirs) = Wire::pair()?;
    let mut inherited = stage::Inherited { wire: theirs, console, cgroup_files: Vec::new() };
    let (stage, stage_pidfd, ours) = launch(plan, joined, &mut inherited, ours, cgroups.is_empty())?;
    drop(inherited);
    follow(plan, (stage, stage_pidfd), &ours)
}

/// Makes the stage. This process's end of the wire stays here alone, as in `create`.
fn launch(
    plan: &Plan,
    cgroups: Cgroups,
    inherited: &mut stage::Inherited,
    ours: Wire,
    may_fall_back: bool,
) -> Result<(Pid, Option<OwnedFd>, Wire)> {
    let (cgroup, init) = (&plan.state.cgroup, plan.state.init.map_or(0, |init| init.pid));
    let mut cloned = cgroups.clone_into(0);
    if matches!(cloned, Err(Errno::EBUSY | Errno::ENODEV | Errno::EOPNOTSUPP | Errno::EACCES)) && may_fall_back {
        // Init may have moved within its cgroup, which then takes no processes itself.
        cloned = step("cgroup", join::of_init(cgroup, init, plan.ignore_paused))?.clone_into(0);
    }
    if matches!(cloned, Err(Errno::EACCES)) && may_fall_back && is_rootless() {
        cloned = step("cgroup", join::without_unified(cgroup, init))?.clone_into(0);
    }
    match cloned.context(|| "cannot make a process in the container's cgroup").map_err(|error| error.step("cgroup"))? {
        (Forked::Parent { pid, pidfd }, _) => {
            trace::mark("clone");
            Ok((pid, pidfd, ours))
        }
        (Forked::Child, files) => {
            drop(ours);
            inherited.cgroup_files = files;
            stage::run(plan, inherited)
        }
    }
}

/// Serves the stage, and then the process that it has made, until that has become its program.
fn follow(plan: &Plan, (stage, pidfd): (Pid, Option<OwnedFd>), wire: &Wire) -> Result<(Pid, OwnedFd)> {
    if let Some(pidfd) = pidfd.as_ref().filter(|_| plan.state.namespaces & libc::CLONE_NEWPID as u64 != 0) {
        // What it has said is read when it has ended: to sleep twice would be slower. Not for ever: it may have more to
        // say than there is room for.
        let _ = poll(&mut [Place::new(Some(pidfd), PollFlags::POLLIN)], 20);
    }
    let pid = loop {
        match wire.receive_from(pidfd.as_ref())? {
            Some(Message::Warning(text)) => log::warn(text),
            Some(Message::Init(pid)) => break Pid::from_raw(pid),
            Some(Message::Failed(error)) => return Err(reaped(error)),
            _ => return Err(died(plan, stage)),
        }
    };
    let pidfd = pidfd_open(pid).context(|| "cannot open a descriptor of the process")?;
    // With the host's privileges, and on the process itself: it may not be passed on to children.
    plan.process.schedule.set_policy(pid)?;
    if pid != stage {
        // It counts among the container's processes, of which there may not be one too many when the program begins.
        wait(Some(stage), 0).context(|| "cannot wait for the stage before the process")?;
    }
    wire.send(&Message::Init(pid.as_raw()))?;
    match wire.receive()? {
        None if became_the_program(pid) => Ok((pid, pidfd)),
        Some(Message::Failed(error)) => Err(reaped(error)),
        _ => Err(died(plan, pid)),
    }
}

/// Whether a process that has closed its end did so by execve(2), and was not killed before it.
fn became_the_program(pid: Pid) -> bool {
    !Init { pid: pid.as_raw(), start_time: 0 }.ended_before_exec()
}

/// The error, once nothing of the attempt is left.
fn reaped(error: Error) -> Error {
    while wait(None, 0).is_ok() {}
    error
}

fn died(plan: &Plan, pid: Pid) -> Error {
    let error = Error::new(format!("the process {} before it had become its program", how_it_ended(pid)));
    reaped(match plan.out_of_memory() {
        Some(why) => error.hint(why),
        None => {
            error.hint("the container may have ended, or its seccomp profile may forbid a call of the start itself")
        }
    })
}

/// Tells the caller of a process that runs.
fn tell(pid_file: Option<&Path>, socket: Option<&OwnedFd>, pid: Pid, pidfd: &OwnedFd) -> Result<()> {
    if let Some(socket) = socket {
        send_descriptors(socket, b"setns", &[pidfd.as_raw_fd()]).context(|| "cannot send to the pidfd socket")?;
    }
    pid_file.map_or(Ok(()), |path| write_pid_file(path, pid))
}
