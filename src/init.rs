//! The container's side of its start, in the order it runs, up to execve(2).
//!
//! Init is a copy of the runtime: it has the plan by copy-on-write and the descriptors by inheritance. Each line of
//! [`story`] is one step, and its name is what errors name.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Pid, sethostname};

use crate::confinement::{Agent, Program, become_untraceable, forget_the_caller, no_directory};
use crate::error::{Context, Error, Result};
use crate::mount::attach;
use crate::mount::source::{self, Source};
use crate::plan::Plan;
use crate::process::ProcessPlan;
use crate::safepath::{Leaf, Procfs, Root};
use crate::state::{Init, State, Status};
use crate::sys::mount::{FsContext, UNSHARE_EMPTY};
use crate::sys::process::{self as sys, CLONE_NEWTIME, CLONE_PARENT, Forked};
use crate::sys::sched::reset_affinity;
use crate::sys::socket::accept;
use crate::trace::{self, Process, step};
use crate::wire::{Message, Wire};
use crate::{cgroup, device, hook, namespace, netdev, rootfs, sysctl, tty};

/// What init gets from the runtime beside the plan.
pub struct Inherited {
    /// To the runtime; later to whoever starts the container.
    pub wire: Wire,
    pub start: Start,
    /// Where the terminal's master goes.
    pub console: Option<OwnedFd>,
    pub root: Option<OwnedFd>,
    pub sources: Vec<Source>,
    pub namespaces: Vec<(u64, OwnedFd)>,
    pub host_procfs: Procfs,
    /// Cgroups that init has to write itself into.
    pub cgroup_files: Vec<OwnedFd>,
    pub preserve_fds: u32,
    /// For the hooks that init runs.
    pub state: State,
    /// To the agent that decides on calls which the seccomp filter leaves to it.
    pub agent: Option<OwnedFd>,
    /// The lock of the container's directory.
    pub lock: Option<i32>,
}

/// How the container is started once it is made.
pub enum Start {
    /// By a `start` that connects to this socket.
    Listener(OwnedFd),
    /// By the runtime that made it.
    Wire,
    /// As soon as it is made.
    Now,
}

/// Runs init; ends in the program, or in a message that says why not.
pub fn run(plan: &Plan, inherited: &mut Inherited) -> ! {
    let Err(error) = story(plan, inherited);
    give_up(inherited, error)
}

fn give_up(inherited: &Inherited, error: Error) -> ! {
    let _ = inherited.wire.send(&Message::Failed(error));
    sys::exit_or_crash(1)
}

fn story(plan: &Plan, inherited: &mut Inherited) -> Result<Infallible> {
    trace::enter(Process::Init);
    step("begin", begin(plan, inherited))?;
    step("namespaces", enter_namespaces(plan, inherited))?;
    step("sources", source::find_all(&plan.mounts, &mut inherited.sources))?;
    let root = step("rootfs", rootfs::attach(&plan.rootfs, inherited.root.take()))?;
    let sources = std::mem::take(&mut inherited.sources);
    let mut mounted = step("mounts", attach::all(&plan.mounts, &root, sources, &plan.cgroup_view))?;
    step("devices", make_devices(plan, &root))?;
    let terminal = step("terminal", make_terminal(plan, inherited, &root))?;
    let (creating, created) = step("hooks", run_runtime_hooks(plan, inherited))?;
    hook::run_all("createContainer", &plan.hooks.create_container, &creating, &inherited.state.bundle)?;
    let procfs = step("procfs", own_procfs(plan, mounted.procfs.take()))?;
    step("sysctl", sysctl::apply(&plan.sysctls, procfs.as_ref().unwrap_or(&inherited.host_procfs)))?;
    step("restrictions", rootfs::restrict(&plan.rootfs, &mounted.places))?;
    step("pivot", enter_rootfs(plan, &root))?;
    step("process", make_directory(plan, &root))?;
    step("root", rootfs::finish(&plan.rootfs, &root, &mounted.read_only))?;
    step("streams", tty::use_own_null())?;
    step("hostname", set_names(plan))?;
    if let Some(terminal) = &terminal {
        step("terminal", tty::take(terminal))?;
    }
    let Some(process) = &plan.process else {
        drop((terminal, mounted, procfs));
        drop(root);
        return wait_without_process(inherited);
    };
    let program = step("process", become_the_process(plan, process, inherited, &root, procfs.as_ref()))?;
    drop((terminal, mounted, procfs));
    drop(root);
    wait_for_start(inherited)?;
    let mut late = (!is_told_early(plan, process)).then(|| take_agent(plan, inherited, Status::Created));
    if !plan.hooks.start_container.is_empty() {
        // They are the image's, and leave what they like behind: confined as the program is.
        if let Some(agent) = late.take() {
            step("seccomp", plan.confinement.load_filter_late(process, agent))?;
        }
        hook::run_all("startContainer", &plan.hooks.start_container, &created, Path::new("."))?;
    }
    plan.confinement.execute(process, &program, inherited.preserve_fds, late)
}

/// Ends with the runtime, becomes untraceable, and joins the cgroups: before anything is allocated or opened.
fn begin(plan: &Plan, inherited: &mut Inherited) -> Result<()> {
    close_lock(inherited);
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
        .context(|| "cannot ask to end with the runtime")?;
    become_untraceable_early(plan)?;
    cgroup::join(&std::mem::take(&mut inherited.cgroup_files))?;
    if plan.init_waits_for_go() {
        inherited.wire.wait_for_go()?;
    }
    // An engine that is bound to some CPUs does not mean its containers. It is no matter where it fails.
    let _ = reset_affinity();
    if plan.namespaces.has_user() {
        namespace::become_root_inside(&inherited.host_procfs)?;
    }
    become_untraceable()?;
    tty::begin_session()
}

/// Not where the id maps or the clocks of this process have yet to be written: without privileges they could not, then.
/// Root's runtime is so already, and this process with it. Not to be asked here who the user is: the answer changes when
/// the ids are mapped.
fn become_untraceable_early(plan: &Plan) -> Result<()> {
    let namespaces = &plan.namespaces;
    let is_written_to = namespaces.has_new(libc::CLONE_NEWUSER as u64) || !namespaces.time_offsets.is_empty();
    if is_written_to { Ok(()) } else { become_untraceable() }
}

fn close_lock(inherited: &mut Inherited) {
    drop(inherited.lock.take().map(sys::inherited));
}

fn enter_namespaces(plan: &Plan, inherited: &mut Inherited) -> Result<()> {
    namespace::join(&plan.namespaces, std::mem::take(&mut inherited.namespaces), false)?;
    if plan.namespaces.has_new(libc::CLONE_NEWCGROUP as u64) {
        namespace::make(libc::CLONE_NEWCGROUP as u64, "a cgroup namespace")?;
    }
    if plan.namespaces.has_new(libc::CLONE_NEWNET as u64) {
        netdev::loopback_up()?;
    }
    plan.confinement.join_keyring(&inherited.host_procfs)
}

fn make_devices(plan: &Plan, root: &Root) -> Result<()> {
    let Some(devices) = &plan.devices else { return Ok(()) };
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    device::create(devices, root, plan.namespaces.has_user())?;
    nix::sys::stat::umask(mask);
    device::link(root)
}

fn make_terminal(plan: &Plan, inherited: &mut Inherited, root: &Root) -> Result<Option<OwnedFd>> {
    let Some(process) = plan.process.as_ref().filter(|process| process.terminal) else { return Ok(None) };
    let Some(socket) = inherited.console.take() else {
        return Err(Error::new("nobody takes the terminal: --console-socket is missing").pointer("/process/terminal"));
    };
    tty::create(root, &socket, process.console_size).map(Some)
}

/// Lets the runtime run its hooks; returns the container's state for init's own, which knows its process id only
/// as the container sees it.
fn run_runtime_hooks(plan: &Plan, inherited: &mut Inherited) -> Result<(Vec<u8>, Vec<u8>)> {
    if !plan.init_needs_state() {
        return Ok((Vec::new(), Vec::new()));
    }
    inherited.wire.send(&Message::RunHooks)?;
    match inherited.wire.receive()? {
        Some(Message::HooksRan(pid)) => {
            inherited.state.init = Some(Init { pid, start_time: 0 });
            Ok((inherited.state.to_oci(Status::Creating), inherited.state.to_oci(Status::Created)))
        }
        _ => Err(Error::new("the runtime ended before its hooks had run")),
    }
}

/// A procfs that is known to be one, for what has to be written to it: the container's, else one of our own that
/// is mounted nowhere. Nothing where nothing has to be written.
fn own_procfs(plan: &Plan, mounted: Option<Procfs>) -> Result<Option<Procfs>> {
    let label = plan.process.is_some() && plan.confinement.labels.are_for_the_process();
    if mounted.is_some() || plan.sysctls.is_empty() && !label {
        return Ok(mounted);
    }
    let made = FsContext::open(c"proc").and_then(|context| context.mount(0));
    match made {
        Ok(tree) => Procfs::new(tree).map(Some),
        // The host's, opened and verified before anything of the container was mounted.
        Err(_) => Ok(None),
    }
}

fn enter_rootfs(plan: &Plan, root: &Root) -> Result<()> {
    if plan.rootfs.is_detached {
        namespace::make(libc::CLONE_NEWNS as u64 | UNSHARE_EMPTY, "an empty mount namespace")?;
    }
    rootfs::enter(&plan.rootfs, root)
}

fn set_names(plan: &Plan) -> Result<()> {
    if !plan.hostname.is_empty() {
        sethostname(&plan.hostname)
            .context(|| "cannot set the hostname")
            .map_err(|error| error.pointer("/hostname"))?;
    }
    if !plan.domainname.is_empty() {
        crate::sys::fs::set_domain_name(&plan.domainname)
            .context(|| "cannot set the domain name")
            .map_err(|error| error.pointer("/domainname"))?;
    }
    Ok(())
}

fn become_the_process(
    plan: &Plan,
    process: &ProcessPlan,
    inherited: &mut Inherited,
    root: &Root,
    procfs: Option<&Procfs>,
) -> Result<Program> {
    let prepared = plan.confinement.prepare(process, root, procfs.unwrap_or(&inherited.host_procfs))?;
    if !plan.namespaces.has_user() {
        process.schedule.set(Pid::from_raw(0))?;
    }
    crate::process::rlimit::apply(&process.rlimits, |_| true)?;
    let early = is_told_early(plan, process).then(|| take_agent(plan, inherited, Status::Creating));
    plan.confinement.become_user(process, prepared, (root, &inherited.wire), early)
}

/// Whether the seccomp agent gets its descriptor while the container is created, as from runc: an agent may serve one
/// connection after the other, or not live until the start. With noNewPrivileges runc's gets it at the start, too.
fn is_told_early(plan: &Plan, process: &ProcessPlan) -> bool {
    plan.confinement.has_agent() && plan.confinement.filter_takes_privileges(process)
}

fn take_agent(plan: &Plan, inherited: &mut Inherited, status: Status) -> Agent {
    let state = if plan.confinement.has_agent() { inherited.state.to_oci(status) } else { Vec::new() };
    Agent { socket: inherited.agent.take(), state, ..Agent::default() }
}

/// Makes the working directory if it is missing, as runc and crun do: before the root may become read-only.
fn make_directory(plan: &Plan, root: &Root) -> Result<()> {
    let Some(ProcessPlan { cwd, .. }) = &plan.process else { return Ok(()) };
    match root.open(cwd) {
        Err(Errno::ENOENT) => {
            root.open_or_create(cwd, Leaf::Directory).map_err(|errno| no_directory(cwd, errno)).map(drop)
        }
        // What it leads to is judged when it is entered.
        _ => Ok(()),
    }
}

/// Says that the container is made, and waits for its start where somebody else decides on that; with nothing open that
/// neither takes.
fn wait_for_start(inherited: &mut Inherited) -> Result<()> {
    let listener = match &inherited.start {
        Start::Listener(listener) => Some(listener.as_fd()),
        Start::Wire | Start::Now => None,
    };
    let agent = inherited.agent.as_ref().map(AsFd::as_fd);
    forget_the_caller(inherited.preserve_fds, &[Some(inherited.wire.as_fd()), listener, agent]);
    sys::prctl(libc::PR_SET_PDEATHSIG, 0).context(|| "cannot outlive the runtime")?;
    if matches!(inherited.start, Start::Now) {
        return Ok(());
    }
    inherited.wire.send(&Message::Ready)?;
    trace::leave();
    if let Start::Listener(listener) = &inherited.start {
        inherited.wire = wait_for_connection(listener)?;
        inherited.start = Start::Wire;
        return Ok(());
    }
    inherited.wire.wait_for_go()
}

/// Waits for a `start` that goes through: one that is killed before it has spoken does not count.
fn wait_for_connection(listener: &OwnedFd) -> Result<Wire> {
    loop {
        match accept(listener) {
            Ok(connection) => {
                let wire = Wire::from_socket(connection);
                if wire.wait_for_go().is_ok() {
                    return Ok(wire);
                }
            }
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(errno) => return Err(Error::new("cannot wait for the start").errno(errno)),
        }
    }
}

/// A container without a process can be created and deleted, and not started (runtime.md, "start").
fn wait_without_process(inherited: &mut Inherited) -> Result<Infallible> {
    wait_for_start(inherited)?;
    Err(Error::new("the container has no process to start").pointer("/process"))
}

/// The process between the runtime and init (see [`namespace::NamespacePlan::needs_stage`]): enters namespaces that
/// take effect for a child only, makes init as its sibling, and ends.
pub fn stage(plan: &Plan, inherited: &mut Inherited) -> ! {
    match try_stage(plan, inherited) {
        // Not before the runtime knows of it: what init says would be taken for the stage's words.
        Ok(Forked::Child) => match inherited.wire.wait_for_go() {
            Ok(()) => run(plan, inherited),
            Err(error) => give_up(inherited, error),
        },
        Ok(Forked::Parent { pid, .. }) => {
            trace::mark("namespaces");
            std::process::exit(i32::from(inherited.wire.hand_over(pid).is_err()))
        }
        Err(error) => give_up(inherited, error.step("namespaces")),
    }
}

fn try_stage(plan: &Plan, inherited: &mut Inherited) -> Result<Forked> {
    const USER: u64 = libc::CLONE_NEWUSER as u64;
    trace::enter(Process::Stage);
    let namespaces = &plan.namespaces;
    close_lock(inherited);
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
        .context(|| "cannot ask to end with the runtime")?;
    if plan.waits_for_scope() {
        inherited.wire.wait_for_go()?;
    }
    become_untraceable_early(plan)?;
    cgroup::join(&std::mem::take(&mut inherited.cgroup_files))?;
    // With the host's privileges first: inside the user namespace some could not be joined any more.
    let (user, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut inherited.namespaces).into_iter().partition(|(flag, _)| *flag == USER);
    let (mounts, others) = others.into_iter().partition(|(flag, _)| *flag == libc::CLONE_NEWNS as u64);
    let waiting = namespace::join(namespaces, others, true)?;
    namespace::join(namespaces, user, false)?;
    if namespaces.has_new(USER) {
        namespace::make(USER, "a user namespace")?;
        inherited.wire.send(&Message::MapIds)?;
        inherited.wire.wait_for_go()?;
    }
    namespace::join(namespaces, waiting, false)?;
    if namespaces.has_new(CLONE_NEWTIME) {
        namespace::make(CLONE_NEWTIME, "a time namespace")?;
        namespace::write_time_offsets(&namespaces.time_offsets, &inherited.host_procfs)?;
    }
    // Entering one changes the root directory: left to init.
    inherited.namespaces = mounts;
    // Others who are in the pid namespace already see init from its first moment.
    become_untraceable()?;
    let flags = plan.clone_flags() | CLONE_PARENT;
    sys::clone(flags, None).map_err(|errno| namespace::refused(flags, "the container's process", errno))
}
