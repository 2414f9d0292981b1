//! The end of a container: everything that was made for it is removed, in the reverse order, and nothing else.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::state::{Container, Init, State, Status, Store, does_not_exist};
use crate::sys::process::kill;
use crate::{hook, log, notify, rdt, rootfs};

/// How long the end of the killed init is waited for.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long, where it hangs on others.
const PATIENCE: Duration = Duration::from_millis(100);

/// Removes a container: processes, cgroups, resource groups, its directory; then the poststop hooks. Can be
/// repeated after it was interrupted.
pub fn destroy(container: &Container, state: &State) -> Result<()> {
    if let Some(init) = state.init.filter(|init| init.is_alive()) {
        let _ = kill(Pid::from_raw(init.pid), libc::SIGKILL);
        state.cgroup.thaw_whole();
    }
    state.cgroup.remove()?;
    if let Some(init) = state.init {
        // If it is our child; otherwise its parent does.
        let _ = nix::sys::wait::waitpid(Pid::from_raw(init.pid), None);
        wait_until_ended(init)?;
    }
    rootfs::detach(&state.rootfs, state.root_mount);
    if let Some(group) = &state.rdt {
        rdt::remove(group)?;
    }
    notify::remove_directory(&container.path)?;
    container.remove()?;
    // "If any poststop hook fails, the runtime MUST log a warning, but the remaining hooks and lifecycle continue".
    for warning in hook::run_each("poststop", &state.poststop, &state.to_oci(Status::Stopped)) {
        log::warn(warning.to_string());
    }
    Ok(())
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

/// Removes a container that has ended, unless somebody else has.
pub fn remove_ended(store: &Store, state: &State) -> Result<()> {
    match store.open(&state.id) {
        Ok(container) => destroy(&container, state),
        Err(error) if error == does_not_exist(&state.id) => Ok(()),
        Err(error) => Err(error),
    }
}
