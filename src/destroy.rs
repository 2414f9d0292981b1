//! The end of a container: everything that was made for it is removed, in the reverse order, and nothing else.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::state::{Container, Init, State, Status, Store, does_not_exist};
use crate::sys::child::wait;
use crate::{hook, log, notify, rdt, rootfs};

/// How long the end of the killed init is waited for.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long, where it hangs on others.
const PATIENCE: Duration = Duration::from_millis(100);

/// Ends a container and removes it.
pub fn end(container: &Container, state: &State) -> Result<()> {
    destroy(container, state, kill_init(state))
}

/// Removes a container whose first process was killed, if it `was_alive` still: processes, cgroups, resource groups, its
/// directory; then the poststop hooks. Can be repeated after it was interrupted.
pub fn destroy(container: &Container, state: &State, was_alive: bool) -> Result<()> {
    // Once the first process of a pid namespace has ended nobody of it is left: who is in the cgroup is another's.
    state.cgroup.remove(was_alive || !state.own_pid_namespace || !state.is_ready)?;
    if let Some(init) = state.init {
        // If it is our child; otherwise its parent does.
        let _ = wait(Some(Pid::from_raw(init.pid)), 0);
        wait_until_ended(init)?;
    }
    rootfs::detach(&state.rootfs, state.root_mount);
    if let Some(group) = &state.rdt {
        rdt::remove(group)?;
    }
    notify::remove_directory(&container.path)?;
    container.remove()?;
    // "If any poststop hook fails, the runtime MUST log a warning, but the remaining hooks and lifecycle continue".
    for warning in hook::run_each("poststop", &state.poststop, &state.to_oci(Status::Stopped), &state.bundle) {
        log::warn(warning.to_string());
    }
    Ok(())
}

/// Kills the container's first process; whether it was alive.
pub fn kill_init(state: &State) -> bool {
    let Some(init) = state.init.filter(|init| init.is_alive()) else { return false };
    let _ = init.signal(libc::SIGKILL);
    state.cgroup.thaw_whole();
    true
}

/// A process leaves its cgroup before it has ended, and may have none that is the container's.
fn wait_until_ended(init: Init) -> Result<()> {
    let began = Instant::now();
    while init.is_alive() {
        match began.elapsed() {
            // The first of a pid namespace waits for the others to be reaped, who may have their parents elsewhere.
            waited if waited > PATIENCE && init.waits_to_end() => break,
            waited if waited > DEADLINE => {
                let seconds = waited.as_secs();
                return Err(Error::new(format!("process {} has not ended {seconds} s after it was killed", init.pid)));
            }
            _ => sleep(Duration::from_millis(1)),
        }
    }
    Ok(())
}

/// Removes a container that has ended, unless somebody else has: there may be another one of that name by now.
pub fn remove_ended(store: &Store, state: &State) -> Result<()> {
    let container = match store.open(&state.id) {
        Err(error) if error == does_not_exist(&state.id) => return Ok(()),
        result => result?,
    };
    match container.load() {
        Ok(now) if (now.init, &now.created) != (state.init, &state.created) => Ok(()),
        Err(error) if error.os_error() == Some(Errno::ENOENT) => Ok(()),
        _ => end(&container, state),
    }
}
