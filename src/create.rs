//! The parent's side of a container's start, in the order it runs (DESIGN: "The story of a container").

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, socket};
use nix::unistd::Pid;

use crate::cgroup::systemd::Starting;
use crate::cgroup::{CgroupState, Cgroups};
use crate::confinement::{self, become_untraceable};
use crate::destroy::end;
use crate::error::{Context, Error, Result};
use crate::init::{self, Inherited, Start};
use crate::mount::source;
use crate::notify::Proxy;
use crate::plan::{self, Plan, Settings};
use crate::safepath::{Procfs, descriptor_path};
use crate::spec::Spec;
use crate::state::{Container, Init, START_SOCKET, State, Status, Store};
use crate::sys::child::wait;
use crate::sys::interrupt::{self, Awaited};
use crate::sys::process::{Forked, pidfd_open};
use crate::trace::{self, step};
use crate::wire::{Message, Wire, send_descriptors};
use crate::{hook, log, namespace, netdev, notify, process, rdt, rootfs, sys, tty};

/// What the caller asks for.
#[derive(Debug, Default)]
pub struct Request {
    pub id: String,
    pub bundle: PathBuf,
    pub settings: Settings,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    /// How many descriptors from 3 on the program gets.
    pub preserve_fds: u32,
    /// The value of NOTIFY_SOCKET: with it the container gets a socket of its own, for notifications.
    pub manager: Option<OsString>,
    /// Variables that the runtime adds: `LISTEN_FDS` and its like.
    pub extra_env: Vec<String>,
    /// Whether the program is to be started by this process, and not by a later `start`.
    pub at_once: bool,
    /// Whether a terminal without a console socket is an error: in a foreground `run` it is not, which gets it.
    pub detached: bool,
}

/// A container whose init is ready.
pub struct Created {
    pub container: Container,
    pub state: State,
    pub pid: Pid,
    /// To init, for a start by this process; nothing if it has become the program already.
    pub wire: Option<Wire>,
    /// Where a foreground `run` receives the terminal.
    pub terminal: Option<OwnedFd>,
    /// The container's notifications, where it was made to be started by this process.
    pub notifications: Option<Proxy>,
}

/// Makes a container. On failure nothing is left.
pub fn create(store: &Store, request: &Request) -> Result<Created> {
    let bundle = &request.bundle;
    let bundle = sys::fs::canonical(bundle).on_path("cannot find the bundle", bundle)?;
    let (mut spec, config) = Spec::load(&bundle)?;
    trace::mark("config");
    if let Some(process) = &mut spec.process {
        process.env.extend(request.extra_env.iter().cloned());
    }
    if request.manager.is_some() {
        notify::add_to(&mut spec, &store.directory(&request.id))?;
    }
    let mut plan = plan::plan(&spec, &request.id, &bundle, &request.settings)?;
    plan.rootfs.is_detached = plan.rootfs.is_detached && rootfs::can_be_detached();
    let has_terminal = plan.process.as_ref().is_some_and(|process| process.terminal);
    let (terminal, console) = tty::console(has_terminal, request.console_socket.as_deref(), request.detached)?;
    interrupt::catch();
    trace::mark("plan");
    let container = store.reserve(&request.id)?;
    let mut state = first_state(&request.id, bundle, spec, &plan);
    let made = container
        .keep_config(&config)
        .and_then(|()| prepare_notifications(&container, request))
        .and_then(|notifications| Ok((make(&container, &mut state, &plan, request, console)?, notifications)));
    let made = made.and_then(|made| check_interrupt().map(|()| made));
    let ((pid, wire), notifications) = or_undo(&container, &state, made)?;
    Ok(Created { container, state, pid, wire, terminal, notifications })
}

/// What was made, or an error when nothing of it is left.
pub fn or_undo<T>(container: &Container, state: &State, made: Result<T>) -> Result<T> {
    made.map_err(|error| {
        interrupt::hold();
        let error = check_interrupt().err().unwrap_or(error);
        if let Err(leftover) = end(container, state) {
            log::debug(|| format!("while undoing: {leftover}"));
        }
        error
    })
}

/// An error if a signal has asked this program to end.
pub fn check_interrupt() -> Result<()> {
    match interrupt::caught() {
        Some(signal) => Err(Error::new(format!("the creation of the container was interrupted by {signal}"))),
        None => Ok(()),
    }
}

/// The state of a container of which nothing is made yet.
pub fn first_state(id: &str, bundle: PathBuf, spec: Spec, plan: &Plan) -> State {
    for warning in plan.process.iter().flat_map(|process| &process.warnings) {
        log::warn(warning.as_str());
    }
    State {
        bundle,
        rootfs: plan.rootfs.path.clone(),
        annotations: spec.annotations,
        poststart: plan.hooks.poststart.clone(),
        poststop: plan.hooks.poststop.clone(),
        own_pid_namespace: plan.namespaces.has_new(libc::CLONE_NEWPID as u64),
        namespaces: plan.namespaces.all(),
        new_keyring: plan.confinement.keyring.is_some(),
        has_process: plan.process.is_some(),
        ..State::new(id)
    }
}

/// Makes the directory of the container's socket for notifications; the socket itself with the start.
fn prepare_notifications(container: &Container, request: &Request) -> Result<Option<Proxy>> {
    let Some(manager) = &request.manager else { return Ok(None) };
    notify::make_directory(&container.path)?;
    if request.at_once { Proxy::open(&container.path, manager) } else { Ok(None) }
}

fn make(
    container: &Container,
    state: &mut State,
    plan: &Plan,
    request: &Request,
    console: Option<OwnedFd>,
) -> Result<(Pid, Option<Wire>)> {
    trace::mark("state");
    // What is about to be made is written down first: a runtime that is killed leaves something to clean up by. But
    // not a cgroup that is somebody else's.
    step("cgroup", plan.cgroup.check_unused())?;
    state.cgroup = step("cgroup", plan.cgroup.state())?;
    step("state", container.save(state))?;
    let mut scope = step("cgroup", plan.cgroup.connect())?;
    let cgroups = step("cgroup", plan.cgroup.make(&mut state.cgroup, plan.namespaces.needs_stage()))?;
    let (ours, theirs) = Wire::pair()?;
    let pidfd_socket = request.pidfd_socket.as_deref().map(tty::connect).transpose()?;
    let mut inherited = open_descriptors(container, plan, request, theirs, state)?;
    inherited.console = console;
    if let Some(root) = inherited.root.as_ref().filter(|_| !plan.rootfs.own_mounts) {
        state.root_mount = rootfs::mount_id(root);
        container.save(state)?;
    }
    let (mut pid, mut pidfd, ours) = launch(plan, cgroups, &mut inherited, ours)?;
    let mut awaited = Awaited::new(pidfd.as_ref());
    drop(inherited);

    state.init = Some(Init::of(pid.as_raw())?);
    if let Some(scope) = &mut scope {
        enter_scope(plan, pid, scope, state)?;
    }
    if plan.namespaces.needs_stage() {
        if plan.waits_for_scope() {
            ours.send(&Message::Go)?;
        }
        pid = follow_stage(plan, (pid, pidfd.as_ref()), &ours, &state.cgroup)?;
        drop(awaited);
        pidfd = pidfd_open(pid).ok();
        awaited = Awaited::new(pidfd.as_ref());
        state.init = Some(Init::of(pid.as_raw())?);
        step("cgroup", plan.cgroup.limit_processes())?;
    } else {
        if plan.namespaces.has_new(libc::CLONE_NEWUSER as u64) {
            step("id maps", namespace::write_id_maps(&plan.namespaces, pid))?;
        }
        if plan.init_waits_for_go() {
            ours.send(&Message::Go)?;
        }
    }
    set_from_outside(container, plan, pid, state)?;
    let now = starts_now(plan, request);
    if now {
        // Nobody could tell the moments apart in which it is made and started.
        state.is_ready = true;
        container.save(state)?;
    // Until init is ready it ends with this process; only hooks look for it before.
    } else if plan.hooks.are_needed_by_init() {
        container.save(state)?;
    }
    trace::mark("state");
    wait_until_ready(plan, pid, state, &ours, now)?;
    trace::mark("ready");
    drop(awaited);
    if !now {
        state.is_ready = true;
        container.save(state)?;
    }
    if let Some(socket) = pidfd_socket {
        send_pidfd(&socket, pid)?;
    }
    if let Some(path) = &request.pid_file {
        write_pid_file(path, pid)?;
    }
    Ok((pid, Some(ours).filter(|_| !now)))
}

/// Whether init need not stop between being made and becoming the program: two messages, and as many switches
/// between processes, that are seen in the time of a start.
fn starts_now(plan: &Plan, request: &Request) -> bool {
    let has_terminal = plan.process.as_ref().is_some_and(|process| process.terminal);
    request.at_once && !has_terminal && !plan.hooks.are_needed_by_init() && !is_set_from_outside(plan)
}

/// Has systemd make the container's scope around its first process, which waits.
pub fn enter_scope(plan: &Plan, pid: Pid, scope: &mut Starting, state: &mut State) -> Result<()> {
    let entered = scope
        .request(pid.as_raw())
        .and_then(|()| plan.cgroup.finish_scope(scope, pid.as_raw(), plan.namespaces.needs_stage()));
    match (&entered, &mut state.cgroup.scope) {
        (Ok(()), Some(scope)) => scope.was_there = true,
        // Nothing was made; a unit of this name that is there is another's.
        (Err(_), _) if !scope.is_ours() => state.cgroup = CgroupState::default(),
        _ => {}
    }
    step("cgroup", entered)
}

/// Everything of the host that init needs, opened while this process still sees the host.
fn open_descriptors(
    container: &Container,
    plan: &Plan,
    request: &Request,
    wire: Wire,
    state: &State,
) -> Result<Inherited> {
    let start = match request.at_once {
        true if starts_now(plan, request) => Start::Now,
        true => Start::Wire,
        false => Start::Listener(listen(container)?),
    };
    Ok(Inherited {
        wire,
        start,
        console: None,
        root: step("rootfs", rootfs::clone_root(&plan.rootfs))?,
        sources: step("mounts", source::open_all(&plan.mounts, plan.clones_sources_outside()))?,
        namespaces: step("namespaces", plan.namespaces.open_joins())?,
        host_procfs: Procfs::host()?,
        cgroup_files: Vec::new(),
        lock: container.lock_descriptor(),
        preserve_fds: request.preserve_fds,
        agent: plan.confinement.connect_to_agent()?,
        state: if plan.init_needs_state() { state.clone() } else { State::default() },
    })
}

fn listen(container: &Container) -> Result<OwnedFd> {
    let directory = container.socket_directory()?;
    let path = format!("{}/{START_SOCKET}", descriptor_path(&directory));
    let made = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).and_then(|socket| {
        bind(socket.as_raw_fd(), &UnixAddr::new(path.as_str())?)?;
        socket::listen(&socket, Backlog::new(8)?)?;
        Ok(socket)
    });
    made.on_path("cannot listen for `start`", container.path.join(START_SOCKET))
}

/// Makes the container's first process (or the stage before it), inside its cgroups. This process's end of the wire
/// stays here alone: so who waits at the other sees that this process is gone.
fn launch(
    plan: &Plan,
    cgroups: Cgroups,
    inherited: &mut Inherited,
    ours: Wire,
) -> Result<(Pid, Option<OwnedFd>, Wire)> {
    // Nor may those trace it, or what it makes here, who are in the namespaces that are joined. Without privileges the id
    // maps could not be written.
    if nix::unistd::geteuid().is_root() {
        become_untraceable()?;
    }
    let stage = plan.namespaces.needs_stage();
    let flags = if stage { 0 } else { plan.clone_flags() };
    let in_cgroup = cgroups.unified.is_some();
    let refused = |errno| match plan.cgroup.takes_no_process(errno).filter(|_| in_cgroup) {
        Some(error) => error.step("cgroup"),
        None => namespace::refused(flags, "the container's process", errno).step("namespaces"),
    };
    let (forked, cgroup_files) = cgroups.clone_into(flags).map_err(refused)?;
    inherited.cgroup_files = cgroup_files;
    match forked {
        Forked::Child => {
            drop(ours);
            interrupt::release();
            if stage { init::stage(plan, inherited) } else { init::run(plan, inherited) }
        }
        Forked::Parent { pid, pidfd } => {
            trace::mark("clone");
            Ok((pid, pidfd, ours))
        }
    }
}

/// Serves the stage until it has made init, whose id is returned.
fn follow_stage(
    plan: &Plan,
    (stage, pidfd): (Pid, Option<&OwnedFd>),
    wire: &Wire,
    cgroup: &CgroupState,
) -> Result<Pid> {
    let pid = loop {
        match wire.receive_from(pidfd)? {
            Some(Message::MapIds) => {
                step("id maps", namespace::write_id_maps(&plan.namespaces, stage))?;
                wire.send(&Message::Go)?;
            }
            Some(Message::Init(pid)) => break Pid::from_raw(pid),
            Some(Message::Failed(error)) => return Err(reaped(stage, error)),
            _ => return Err(died(stage, cgroup)),
        }
    };
    wait(Some(stage), 0).context(|| "cannot wait for the stage before init")?;
    wire.send(&Message::Go)?;
    Ok(pid)
}

/// Whether there is something for [`set_from_outside`], which has to come before the program.
fn is_set_from_outside(plan: &Plan) -> bool {
    let by_process = plan.process.as_ref().is_some_and(|process| process.oom_score_adj.is_some());
    by_process || plan.namespaces.has_user() || plan.rdt.is_some() || !plan.net_devices.is_empty()
}

/// What only the host's privileges can do to init.
fn set_from_outside(container: &Container, plan: &Plan, pid: Pid, state: &mut State) -> Result<()> {
    if let Some(process) = &plan.process {
        if plan.namespaces.has_user() {
            step("rlimits", process::rlimit::raise(&process.rlimits, pid))?;
            step("process", process.schedule.set(pid))?;
        }
        if let Some(value) = process.oom_score_adj {
            process::set_oom_score(&Procfs::host()?, &pid.to_string(), value)?;
        }
    }
    step("intelRdt", enter_resource_group(container, plan, pid.as_raw(), state))?;
    if !plan.net_devices.is_empty() {
        let joined = plan.namespaces.joined(libc::CLONE_NEWNET as u64);
        let path = joined.map_or_else(|| format!("/proc/{pid}/ns/net").into(), |join| join.path.clone());
        let namespace = sys::fs::open(&path, OFlag::O_RDONLY).on_path("cannot open the network namespace", &path)?;
        step("netDevices", netdev::move_devices(&plan.net_devices, namespace.as_fd()))?;
    }
    Ok(())
}

/// Puts init into the container's resource group, which is written down before it is made.
pub fn enter_resource_group(container: &Container, plan: &Plan, pid: i32, state: &mut State) -> Result<()> {
    let Some(rdt) = &plan.rdt else { return Ok(()) };
    let group = rdt::prepare(rdt)?;
    state.rdt = Some(group.clone());
    container.save(state)?;
    rdt::apply(rdt, &group, pid)
}

/// Runs the hooks that belong to the runtime's namespaces.
pub fn run_runtime_hooks(plan: &Plan, state: &State) -> Result<()> {
    // What the validation suite and crun have in this deprecated hook.
    hook::run_all("prestart", &plan.hooks.prestart, &state.to_oci(Status::Created), &state.bundle)?;
    hook::run_all("createRuntime", &plan.hooks.create_runtime, &state.to_oci(Status::Creating), &state.bundle)
}

/// Serves init until it is ready, or with `now` until it is the program: then its end of the wire closes.
fn wait_until_ready(plan: &Plan, pid: Pid, state: &State, wire: &Wire, now: bool) -> Result<()> {
    loop {
        match wire.receive()? {
            Some(Message::Ready) => return Ok(()),
            None if now && !state.init.is_some_and(Init::ended_before_exec) => return Ok(()),
            Some(Message::Warning(text)) => log::warn(text),
            Some(Message::RunHooks) => {
                run_runtime_hooks(plan, state)?;
                match wire.send(&Message::HooksRan(pid.as_raw())) {
                    // An init that has gone meanwhile shows when nothing more is received.
                    Err(error) if error.os_error() != Some(Errno::EPIPE) => return Err(error),
                    _ => {}
                }
            }
            Some(Message::Failed(error)) => return Err(reaped(pid, error)),
            _ => return Err(died(pid, &state.cgroup)),
        }
    }
}

fn reaped(pid: Pid, error: Error) -> Error {
    let _ = wait(Some(pid), 0);
    error
}

/// Waits for a child, and puts its end into words.
pub fn how_it_ended(pid: Pid) -> String {
    let Ok(Some((_, status))) = wait(Some(pid), 0) else { return "went away".to_owned() };
    match (status.code(), status.signal().map(|number| (number, Signal::try_from(number)))) {
        (Some(code), _) => format!("ended with status {code}"),
        (_, Some((_, Ok(signal)))) => format!("was killed by {signal}"),
        (_, Some((number, _))) => format!("was killed by signal {number}"),
        _ => "went away".to_owned(),
    }
}

/// Init ended without a word: says how.
fn died(pid: Pid, cgroup: &CgroupState) -> Error {
    let how = how_it_ended(pid);
    let error = Error::new(format!("the container's init {how} before it was ready"));
    // By which it ends where it may not otherwise (sys::process::exit_or_crash), or with no word where it may not write.
    if ["SIGSYS", "SIGILL", "SIGTRAP", "status 1"].iter().any(|end| how.contains(end)) {
        error.hint(confinement::FORBIDDEN_BY_FILTER)
    } else if let Some(why) = cgroup.out_of_memory(0) {
        error.pointer("/linux/resources/memory/limit").hint(why)
    } else if how.contains("SIGKILL") {
        error.hint("it may have been the kernel's OOM killer: is the memory limit too low?")
    } else {
        error
    }
}

fn send_pidfd(socket: &OwnedFd, pid: Pid) -> Result<()> {
    let pidfd = pidfd_open(pid).context(|| "cannot open a descriptor of the container's process")?;
    send_descriptors(socket, b"standard", &[pidfd.as_raw_fd()]).context(|| "cannot send to the pidfd socket")
}

/// Writes the pid file, whole or not at all: engines read it as soon as it is there.
pub fn write_pid_file(path: &Path, pid: Pid) -> Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or_else(|| Error::new("the pid file needs a name").path(path))?);
    let new = path.with_file_name(name);
    let make = || File::options().write(true).create_new(true).open(&new);
    // What a killed runtime has left there goes; so does a link, which is not followed.
    let made = make().or_else(|_| fs::remove_file(&new).and_then(|()| make()));
    made.and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .and_then(|()| fs::rename(&new, path))
        .inspect_err(|_| drop(fs::remove_file(&new)))
        .on_path("cannot write the pid file", path)
}
