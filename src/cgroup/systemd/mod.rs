//! The systemd driver: the container is a transient scope of the system's manager, or of the user's.
//!
//! A scope is made around a process that exists, so init is made first and waits; then one message goes to the
//! manager and its answer and the end of the job come back. The limits are in that message, since the manager
//! applies them before it moves the process.

mod bus;
mod message;
mod properties;
pub mod text;
mod unit;
pub mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::bus::{Bus, Refusal};
use self::properties::Property;
use self::unit::Unit;
use self::value::Value;
use super::layout::Layout;
use super::resources::Write;
use crate::error::{Error, Result};
use crate::safepath::is_plain_name;

/// The annotation that names a cgroup below the scope for the container to be in (crun(1)).
const SUBGROUP: &str = "run.oci.systemd.subgroup";

/// Annotations that change what happens on the host.
pub const UNSAFE_ANNOTATIONS: &[&str] = &[properties::ANNOTATION, SUBGROUP];

/// The scope that a container is to be in.
#[derive(Clone, Debug)]
pub struct ScopePlan {
    unit: Unit,
    /// Whether it is the user's manager that makes it.
    of_user: bool,
    properties: Vec<Property>,
    /// A cgroup below the scope's; empty for none.
    pub subgroup: String,
}

/// What state.json keeps of the scope.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    pub unit: String,
    /// Whether it is the user's manager that has it.
    pub of_user: bool,
    /// Whether it is known to have been there: before, the manager may still be about to make it.
    pub was_there: bool,
}

/// Reads `cgroupsPath` and the annotations; `writes` are the limits.
pub fn plan(
    cgroups_path: &str,
    annotations: &BTreeMap<String, String>,
    id: &str,
    of_user: bool,
    writes: &[Write],
) -> Result<ScopePlan> {
    let unit = Unit::plan(cgroups_path, id, of_user).map_err(|error| error.pointer("/linux/cgroupsPath"))?;
    let subgroup = annotations.get(SUBGROUP).cloned().unwrap_or_default();
    if !subgroup.is_empty() && !is_plain_name(&subgroup) {
        let error = Error::new(format!("{subgroup:?} is no name of a cgroup"));
        return Err(error.pointer(format!("/annotations/{SUBGROUP}")));
    }
    let mut properties = vec![
        Property::needed("Description", Value::text(format!("kelson container {id}"))),
        Property::needed("Slice", Value::text(&unit.slice)),
        Property::needed("Delegate", Value::Bool(true)),
        Property::needed("DefaultDependencies", Value::Bool(false)),
        // One that failed goes away like any other.
        Property::optional("CollectMode", Value::text("inactive-or-failed")),
    ];
    let accounting = ["CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting"];
    properties.extend(accounting.map(|name| Property::optional(name, Value::Bool(true))));
    properties.extend(properties::of(writes));
    // The last of a name holds.
    properties.extend(properties::annotated(annotations)?);
    Ok(ScopePlan { unit, of_user, properties, subgroup })
}

impl ScopePlan {
    /// The container's directory in each hierarchy.
    pub fn directories(&self, layout: &Layout) -> Result<Vec<PathBuf>> {
        let scopes = self.unit.directories(layout, self.of_user)?;
        let below = |scope: PathBuf| if self.subgroup.is_empty() { scope } else { scope.join(&self.subgroup) };
        Ok(scopes.into_iter().map(below).collect())
    }

    /// What state.json says of it.
    pub fn state(&self) -> Scope {
        Scope { unit: self.unit.name.clone(), of_user: self.of_user, was_there: false }
    }

    /// Connects to the manager.
    pub fn connect(&self) -> Result<Starting> {
        let bus = Bus::connect(self.of_user)?;
        let (unit, properties) = (self.unit.name.clone(), self.properties.clone());
        Ok(Starting { bus, unit, properties, serial: 0, collisions: 0, is_ours: false })
    }
}

/// A manager that is asked to make a scope.
pub struct Starting {
    bus: Bus,
    unit: String,
    properties: Vec<Property>,
    serial: u32,
    collisions: u32,
    is_ours: bool,
}

impl Starting {
    /// Asks for the scope with this process in it.
    pub fn request(&mut self, pid: i32) -> Result<()> {
        let pids = Value::Array("u".into(), vec![Value::U32(pid as u32)]);
        self.properties.push(Property::needed("PIDs", pids));
        self.send()
    }

    fn send(&mut self) -> Result<()> {
        let auxiliary = Value::Array("(sa(sv))".into(), Vec::new());
        let body = [Value::text(&self.unit), Value::text("fail"), pairs(&self.properties), auxiliary];
        self.serial = self.bus.send("StartTransientUnit", &body)?;
        Ok(())
    }

    /// Waits until the scope is there and the process is in it.
    pub fn finish(&mut self) -> Result<()> {
        loop {
            match self.bus.job(self.serial)? {
                Ok(job) => {
                    self.is_ours = true;
                    return done(&self.bus.end_of(&job)?, &self.unit);
                }
                Err(refusal) => self.try_otherwise(refusal)?,
            }
        }
    }

    /// Whether the manager took the request: before that, a unit of this name is somebody else's.
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    fn try_otherwise(&mut self, refusal: Refusal) -> Result<()> {
        /// A unit that is just going away is waited for; 10 ms, then twice as long each time.
        const MAX_COLLISIONS: u32 = 6;
        if refusal.name.ends_with(".UnitExists") && self.collisions < MAX_COLLISIONS {
            // What is left of a unit that failed stands in the way.
            self.bus.also("ResetFailedUnit", &[Value::text(&self.unit)]);
            sleep(Duration::from_millis(5 << self.collisions));
            self.collisions += 1;
            return self.send();
        }
        if drop_unknown(&mut self.properties, &refusal) {
            return self.send();
        }
        let error = refusal.into_error(&format!("to start {}", self.unit));
        Err(if self.collisions > 0 { error.hint(format!("see `systemctl status {}`", self.unit)) } else { error })
    }
}

/// Takes out the property that an older systemd does not know; false if it is none that it may do without.
fn drop_unknown(properties: &mut Vec<Property>, refusal: &Refusal) -> bool {
    // "Cannot set property NAME, or unknown property."
    let name = refusal.text.strip_prefix("Cannot set property ").and_then(|rest| rest.split_once(','));
    let before = properties.len();
    properties.retain(|property| !(property.optional && name.is_some_and(|(name, _)| name == property.name)));
    properties.len() < before
}

fn pairs(properties: &[Property]) -> Value {
    let pair = |property: &Property| {
        Value::Struct(vec![Value::text(&property.name), Value::Variant(Box::new(property.value.clone()))])
    };
    Value::Array("(sv)".into(), properties.iter().map(pair).collect())
}

fn done(result: &str, unit: &str) -> Result<()> {
    if result == "done" {
        return Ok(());
    }
    Err(Error::new(format!("systemd's job for {unit} ended as `{result}`")).hint(format!("see `journalctl -u {unit}`")))
}

impl Scope {
    /// Stops the scope, and has systemd forget about it.
    pub fn stop(&self) -> Result<()> {
        let mut bus = Bus::connect(self.of_user)?;
        let name = Value::text(&self.unit);
        let serial = bus.send("StopUnit", &[name.clone(), Value::text("replace")])?;
        match bus.job(serial)? {
            Ok(job) => {
                let result = bus.end_of(&job)?;
                // A unit that failed stays, if an annotation wants it to.
                let reset = bus.send("ResetFailedUnit", &[name])?;
                let _ = bus.answer(reset)?;
                done(&result, &self.unit)
            }
            // It went away with its last process.
            Err(refusal) if refusal.name.ends_with(".NoSuchUnit") => Ok(()),
            Err(refusal) => Err(refusal.into_error(&format!("to stop {}", self.unit))),
        }
    }

    /// Tells systemd of new limits.
    pub fn update(&self, writes: &[Write]) -> Result<()> {
        let mut properties = properties::of(writes);
        let mut bus = Bus::connect(self.of_user)?;
        while !properties.is_empty() {
            let body = [Value::text(&self.unit), Value::Bool(true), pairs(&properties)];
            let serial = bus.send("SetUnitProperties", &body)?;
            match bus.answer(serial)? {
                // It may write them, rounded to its units, a moment later.
                Ok(_) => return Ok(()),
                Err(refusal) if drop_unknown(&mut properties, &refusal) => {}
                Err(refusal) => return Err(refusal.into_error(&format!("new limits for {}", self.unit))),
            }
        }
        Ok(())
    }
}
