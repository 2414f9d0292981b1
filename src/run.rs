//! `run`: create and start in one, and in the foreground a wait for the end with signals and terminal passed on.

use crate::create::{Created, Request, check_interrupt, create, or_undo};
use crate::destroy::{end, remove_ended};
use crate::error::Result;
use crate::foreground::{Foreground, KILLED};
use crate::lifecycle::{after_start, go, wait_until_ready};
use crate::state::Store;
use crate::sys::interrupt;
use crate::{log, trace};

/// What `run` adds to [`Request`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub detach: bool,
    /// Keep the container's state after its end.
    pub keep: bool,
    pub no_subreaper: bool,
}

/// Runs a container. In the foreground its exit code is returned: 128 and the signal's number where it was killed.
pub fn run(store: &Store, mut request: Request, options: Options) -> Result<i32> {
    request.at_once = true;
    if options.detach {
        let mut created = create(store, &request)?;
        start(&created)?;
        // That may take long: others may kill and delete the container meanwhile.
        created.container.unlock();
        interrupt::release();
        wait_until_ready(created.notifications.as_ref(), &created.state);
        return Ok(0);
    }
    let mut foreground = Foreground::of_container(options.no_subreaper)?;
    let mut created = create(store, &request)?;
    interrupt::hold();
    let taken = foreground.take_terminal(created.terminal.take());
    or_undo(&created.container, &created.state, taken.and_then(|()| check_interrupt()))?;
    foreground.notifications = created.notifications.take();
    start(&created)?;
    // The container may run for long: others may kill and delete it meanwhile.
    created.container.unlock();
    log::flush();
    trace::mark("start");
    let code = foreground.wait(created.pid);
    trace::mark("program");
    if let Some(why) = created.state.cgroup.out_of_memory(0).filter(|_| code == KILLED) {
        log::warn(why);
    }
    if !options.keep {
        remove_ended(store, &created.state)?;
    }
    Ok(code)
}

fn start(created: &Created) -> Result<()> {
    if let Some(wire) = &created.wire {
        go(wire, &created.state).or_else(|error| {
            end(&created.container, &created.state)?;
            Err(error)
        })?;
    }
    after_start(&created.container, &created.state)
}
