//! The container's side of `exec`, in the order it runs, up to execve(2).

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, chroot, fchdir};

use super::Plan;
use crate::confinement::{Agent, Program, become_untraceable, forget_the_caller};
use crate::error::{Context, Error, Result};
use crate::process::rlimit::{self, ResourceLimit};
use crate::safepath::{Procfs, Root};
use crate::state::Status;
use crate::sys::process::{self as sys, CLONE_PARENT, Forked};
use crate::sys::sched::{reset_affinity, set_affinity};
use crate::trace::{self, Process, step};
use crate::wire::{Message, Wire};
use crate::{cgroup, namespace, process, rdt, tty};

const PID: u64 = libc::CLONE_NEWPID as u64;
const MOUNT: u64 = libc::CLONE_NEWNS as u64;

/// What the stage gets from the runtime beside the plan.
pub struct Inherited {
    pub wire: Wire,
    /// Where the terminal's master goes.
    pub console: Option<OwnedFd>,
    pub cgroup_files: Vec<OwnedFd>,
}

/// Runs the stage; ends in the program, or in a message that says why not.
pub fn run(plan: &Plan, inherited: &mut Inherited) -> ! {
    let Err(error) = story(plan, inherited);
    let _ = inherited.wire.send(&Message::Failed(error));
    sys::exit_or_crash(1)
}

fn story(plan: &Plan, inherited: &mut Inherited) -> Result<Infallible> {
    trace::enter(Process::Stage);
    let procfs = step("begin", begin(plan, inherited))?;
    let mut agent = take_agent(plan)?;
    let root = step("namespaces", enter_namespaces(plan, &procfs))?;
    step("terminal", make_terminal(plan, inherited, &root))?;
    let program = step("process", become_the_process(plan, inherited, (&root, procfs), &mut agent))?;
    drop(root);
    trace::leave();
    step("namespaces", enter_pid_namespace(plan, inherited, agent.as_ref()))?;
    let pid = step("begin", begin_process(plan, inherited))?;
    agent.iter_mut().for_each(|agent| agent.pid = Some(pid));
    let late = (!plan.confinement.filter_takes_privileges(&plan.process)).then(|| agent.unwrap_or_default());
    plan.confinement.execute(&plan.process, &program, plan.preserve_fds, late)
}

/// Ends with the runtime, becomes untraceable, joins the cgroups; sets what takes the host's files.
fn begin(plan: &Plan, inherited: &mut Inherited) -> Result<Procfs> {
    end_with_the_runtime(true)?;
    become_untraceable()?;
    cgroup::join(&std::mem::take(&mut inherited.cgroup_files))?;
    let procfs = Procfs::host()?;
    let schedule = &plan.process.schedule;
    match &schedule.final_cpus {
        Some(cpus) => set_affinity(Pid::from_raw(0), cpus)
            .context(|| "cannot set the CPU affinity")
            .map_err(|error| error.pointer("/process/execCPUAffinity/final"))?,
        None if schedule.initial_cpus.is_none() => drop(reset_affinity()),
        None => {}
    }
    schedule.set_io_priority(Pid::from_raw(0))?;
    rlimit::raise(&plan.process.rlimits, Pid::from_raw(0))?;
    if let Some(score) = plan.process.oom_score_adj {
        process::set_oom_score(&procfs, "self", score)?;
    }
    if let Some(group) = &plan.state.rdt {
        rdt::join(group, Pid::this().as_raw()).map_err(|error| error.step("intelRdt"))?;
    }
    Ok(procfs)
}

fn end_with_the_runtime(on: bool) -> Result<()> {
    let signal = if on { libc::SIGKILL as libc::c_ulong } else { 0 };
    sys::prctl(libc::PR_SET_PDEATHSIG, signal).context(|| "cannot ask to end with the runtime")
}

fn take_agent(plan: &Plan) -> Result<Option<Agent>> {
    let socket = plan.confinement.connect_to_agent()?;
    Ok(socket.map(|socket| {
        let status = if plan.state.status() == Status::Created { Status::Created } else { Status::Running };
        Agent { socket: Some(socket), state: plan.state.to_oci(status), ..Agent::default() }
    }))
}

/// Joins all namespaces by one call; returns the container's root.
fn enter_namespaces(plan: &Plan, procfs: &Procfs) -> Result<Root> {
    let init = plan.state.init.map_or(0, |init| init.pid);
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
    // The root of its mount namespace is the container's, if it has one.
    let shared = (plan.state.namespaces & MOUNT == 0)
        .then(|| crate::sys::fs::open(format!("/proc/{init}/root").as_str(), directory));
    namespace::enter(&plan.init, init, plan.state.namespaces)?;
    if plan.confinement.own_users {
        namespace::become_root_inside(procfs)?;
    }
    if let Some(root) = shared {
        root.and_then(fchdir).and_then(|()| chroot(".")).context(|| "cannot enter the container's root")?;
    }
    plan.confinement.join_keyring(procfs)?;
    crate::sys::fs::open("/", directory).map(Root::new).context(|| "cannot open the container's root")
}

/// Its controlling terminal it becomes when the process has a session.
fn make_terminal(plan: &Plan, inherited: &mut Inherited, root: &Root) -> Result<()> {
    let Some(socket) = inherited.console.take().filter(|_| plan.process.terminal) else { return Ok(()) };
    let terminal = tty::add(root, &socket, plan.process.console_size)?;
    tty::use_as_streams(&terminal)
}

fn become_the_process(
    plan: &Plan,
    inherited: &Inherited,
    (root, procfs): (&Root, Procfs),
    agent: &mut Option<Agent>,
) -> Result<Program> {
    let prepared = plan.confinement.prepare(&plan.process, root, &procfs)?;
    drop(procfs);
    // The stage itself must not count among the user's processes.
    rlimit::apply(&plan.process.rlimits, |limit| !limit.is_on_processes())?;
    // Here, and not at the very end as in init: in the container's pid namespace nobody is to see privileges.
    let early = plan.confinement.filter_takes_privileges(&plan.process).then(|| {
        let alone = plan.state.namespaces & PID != 0;
        // Else this process becomes the program itself.
        let pid = (!alone).then(|| Pid::this().as_raw());
        Agent { pid, alone, ..agent.take().unwrap_or_default() }
    });
    plan.confinement.become_user(&plan.process, prepared, (root, &inherited.wire), early)
}

/// Goes on as a child in the container's pid namespace, with nothing of the host's open; the stage ends.
fn enter_pid_namespace(plan: &Plan, inherited: &Inherited, agent: Option<&Agent>) -> Result<()> {
    let agent = agent.and_then(|agent| agent.socket.as_ref()).map(AsFd::as_fd);
    forget_the_caller(plan.preserve_fds, &[Some(inherited.wire.as_fd()), agent]);
    if plan.state.namespaces & PID == 0 {
        return inherited.wire.send(&Message::Init(Pid::this().as_raw()));
    }
    match sys::clone(CLONE_PARENT, None) {
        Ok(Forked::Child) => Ok(()),
        Ok(Forked::Parent { pid, .. }) => sys::exit_or_crash(i32::from(inherited.wire.hand_over(pid).is_err())),
        // The namespace ends with its first process.
        Err(errno @ Errno::ENOMEM) => Err(super::not_running().errno(errno)),
        Err(errno) => Err(Error::new("cannot make a process in the container").errno(errno)),
    }
}

/// The process itself: a session and a terminal of its own. It goes on when the runtime knows of it, and has told its
/// id.
fn begin_process(plan: &Plan, inherited: &Inherited) -> Result<i32> {
    end_with_the_runtime(true)?;
    rlimit::apply(&plan.process.rlimits, ResourceLimit::is_on_processes)?;
    tty::begin_session()?;
    if plan.process.terminal {
        tty::take_control(std::io::stdin())?;
    }
    match inherited.wire.receive()? {
        Some(Message::Init(pid)) => end_with_the_runtime(false).map(|()| pid),
        _ => Err(Error::new("the runtime ended before the process was made")),
    }
}
