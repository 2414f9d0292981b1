//! What happens to a container that exists: start, kill, delete, and a look at it.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::Pid;
use std::os::fd::AsRawFd;

use crate::destroy::{destroy, end, kill_init};
use crate::error::{Context, Error, Result};
use crate::notify::{self, Proxy};
use crate::safepath::descriptor_path;
use crate::state::{Container, Init, START_SOCKET, State, Status, Store, does_not_exist};
use crate::wire::{Message, Wire};
use crate::{confinement, hook};

/// Starts a created container: tells its init to go on, and waits until it has become the program.
/// With a `manager` (the value of NOTIFY_SOCKET) it also waits until the program says that it is ready, or ends.
pub fn start(store: &Store, id: &str, manager: Option<&OsStr>) -> Result<()> {
    let mut container = store.open(id)?;
    let state = container.load()?;
    match state.status() {
        Status::Created => {}
        Status::Stopped => return Err(Error::new("cannot start a container that has stopped")),
        Status::Creating => return Err(Error::new("cannot start a container that is not created yet")),
        Status::Running | Status::Paused => return Err(Error::new("cannot start an already running container")),
    }
    if !state.has_process {
        return Err(Error::new("the container has no process to start").pointer("/process"));
    }
    let wire = connect_to_init(&container)?;
    let proxy = manager.map_or(Ok(None), |manager| Proxy::open(&container.path, manager))?;
    go(&wire, &state).or_else(|error| {
        // "If any startContainer hook fails, the runtime MUST generate an error, stop the container, and continue".
        if error.is_of_step("startContainer") {
            end(&container, &state)?;
        }
        Err(error)
    })?;
    let _ = std::fs::remove_file(container.path.join(START_SOCKET));
    after_start(&container, &state)?;
    // That may take long: others may kill and delete the container meanwhile.
    container.unlock();
    wait_until_ready(proxy.as_ref(), &state);
    Ok(())
}

/// Passes notifications of a detached container on until it has said that it is ready.
pub fn wait_until_ready(proxy: Option<&Proxy>, state: &State) {
    if let (Some(proxy), Some(init)) = (proxy, state.init) {
        proxy.wait_until_ready(Pid::from_raw(init.pid), || !init.is_alive());
    }
}

/// Tells init to go on; its end of the wire closes when it becomes the program, or ends without a word.
pub fn go(wire: &Wire, state: &State) -> Result<()> {
    wire.send(&Message::Go)?;
    match wire.receive()? {
        None if state.init.is_some_and(Init::ended_before_exec) => {
            Err(Error::new("the container's init ended before it had executed the program")
                .step("exec")
                .hint(confinement::FORBIDDEN_BY_FILTER))
        }
        None => Ok(()),
        Some(Message::Failed(error)) => Err(error),
        Some(_) => Err(Error::new("the container's init said something unexpected")),
    }
}

/// Runs the poststart hooks. "If any poststart hook fails, the runtime MUST generate an error, stop the container,
/// and continue the lifecycle" with its deletion.
pub fn after_start(container: &Container, state: &State) -> Result<()> {
    hook::run_all("poststart", &state.poststart, &state.to_oci(Status::Running), &state.bundle).or_else(|error| {
        end(container, state)?;
        Err(error)
    })
}

fn connect_to_init(container: &Container) -> Result<Wire> {
    let directory = container.socket_directory()?;
    let path = format!("{}/{START_SOCKET}", descriptor_path(&directory));
    let made: nix::Result<OwnedFd> = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .and_then(|socket| {
            connect(socket.as_raw_fd(), &UnixAddr::new(path.as_str())?)?;
            Ok(socket)
        });
    made.on_path("cannot reach the container's init", container.path.join(START_SOCKET)).map(Wire::from_socket)
}

/// Sends `signal` to the container's first process, or with `all` to every one of its processes.
pub fn kill(store: &Store, id: &str, signal: i32, all: bool) -> Result<()> {
    let state = store.load(id)?;
    let alive = state.init.is_some_and(Init::is_alive);
    // Without a pid namespace of its own, its other processes live on after init.
    let others = !state.own_pid_namespace && (signal == libc::SIGKILL || !alive);
    if (all || others) && !state.cgroup.processes().is_empty() {
        state.cgroup.signal_all(signal);
        return Ok(());
    }
    match signal_init(&state, signal) {
        Err(error) if all && error == not_running() => Ok(()),
        Ok(()) if signal == libc::SIGKILL && state.cgroup.is_frozen() => {
            // A frozen process dies when it is thawed.
            state.cgroup.thaw_whole();
            Ok(())
        }
        result => result,
    }
}

/// The words that engines take for "there is nothing left to kill".
fn not_running() -> Error {
    Error::new("container not running")
}

fn signal_init(state: &State, signal: i32) -> Result<()> {
    let Some(init) = state.init else { return Err(not_running()) };
    match init.signal(signal) {
        Err(Errno::ESRCH) => Err(not_running()),
        result => result.context(|| format!("cannot send signal {signal} to process {}", init.pid)),
    }
}

/// Freezes every process of a container.
pub fn pause(store: &Store, id: &str) -> Result<()> {
    let container = store.open(id)?;
    let state = container.load()?;
    match state.status() {
        Status::Created | Status::Running => state.cgroup.freeze(),
        Status::Paused => Err(Error::new("the container is paused already")),
        Status::Stopped => Err(not_running()),
        Status::Creating => Err(Error::new("cannot pause a container that is not created yet")),
    }
}

/// Lets a paused container go on.
pub fn resume(store: &Store, id: &str) -> Result<()> {
    let container = store.open(id)?;
    let state = container.load()?;
    match state.status() {
        Status::Paused => state.cgroup.thaw(),
        Status::Stopped => Err(not_running()),
        _ => Err(Error::new("container not paused")),
    }
}

/// The ids of all processes of a container, on the host.
pub fn processes(store: &Store, id: &str) -> Result<Vec<i32>> {
    let state = store.load(id)?;
    let mut pids = state.cgroup.processes();
    if pids.is_empty() {
        // Without a cgroup of its own only this one is known.
        pids.extend(state.init.filter(|init| init.is_alive()).map(|init| init.pid));
    }
    Ok(pids)
}

/// Deletes a container that has stopped or was never started; with `force` one in any state, and none at all.
pub fn delete(store: &Store, id: &str, force: bool) -> Result<()> {
    // Before the lock is waited for: a `start` that hangs in a hook inside gives it back then.
    let killed = if force { store.load(id).ok().filter(kill_init).and_then(|state| state.init) } else { None };
    let container = match store.open(id) {
        Err(error) if force && error == does_not_exist(id) => return Ok(()),
        result => result?,
    };
    let state = match container.load() {
        // Interrupted before anything was made: there is only the directory.
        Err(error) if error.os_error() == Some(Errno::ENOENT) => {
            notify::remove_directory(&container.path)?;
            container.remove()?;
            return if force {
                Ok(())
            } else {
                Err(does_not_exist(id).hint("what was left of its creation is removed"))
            };
        }
        result => result?,
    };
    let init_gone = || !state.init.is_some_and(Init::is_alive);
    if !force && matches!(state.status(), Status::Running | Status::Paused) && !ends_soon(init_gone) {
        let status = state.status().name();
        return Err(Error::new(format!("cannot delete container {id} that is not stopped: {status}"))
            .hint("stop it first, or pass --force"));
    }
    let was_alive = kill_init(&state) || killed.is_some() && killed == state.init;
    destroy(&container, &state, was_alive)
}

/// A process that was just killed needs a moment.
fn ends_soon(is_gone: impl Fn() -> bool) -> bool {
    const PATIENCE: Duration = Duration::from_millis(100);
    let began = Instant::now();
    while !is_gone() {
        if began.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}
