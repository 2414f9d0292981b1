//! New limits for a container that exists: all that are asked for, or none.

use oci_spec::runtime::LinuxIntelRdt;

use crate::cgroup::layout;
use crate::error::{Error, Result};
use crate::rdt;
use crate::spec::Resources;
use crate::state::{State, Status, Store};

/// What is to change.
#[derive(Debug, Default)]
pub struct Request {
    pub resources: Resources,
    /// New schemata of its resource control group.
    pub rdt: Option<LinuxIntelRdt>,
}

/// Changes what is set in `request`, and nothing else. What fails leaves everything as it was.
pub fn update(store: &Store, id: &str, request: &Request) -> Result<()> {
    let container = store.open(id)?;
    let before = container.load()?;
    if before.status() == Status::Stopped {
        return Err(Error::new("container not running"));
    }
    let layout = layout::detect()?;
    let mut change = before.cgroup.plan_update(&request.resources, &layout).map_err(|error| error.step("update"))?;
    let mut after: State = before.clone();
    after.cgroup.resources = change.merged.clone();
    change.write().map_err(|error| error.step("update"))?;
    let schemata = request.rdt.as_ref().map(|new| rdt::update(before.rdt.as_ref(), new)).transpose();
    let schemata = schemata.map_err(|error| change.undone(error.step("intelRdt")))?;
    // The devices last: on v1 what was allowed before cannot be found out again.
    let done = container.save(&after).and_then(|()| change.guard_devices(&layout));
    done.map_err(|error| {
        if let Some(schemata) = schemata {
            schemata.restore();
        }
        let kept = container.save(&before);
        change.undone(error.step("update")).hint(kept.map_or_else(|error| error.to_string(), |()| String::new()))
    })
}
