//! Changes to a container's resources: what is not in them stays as it is.

use serde_json::{Map, Value};

use crate::error::Result;
use crate::spec::{Resources, by_text};

/// Fields in which 0 or an empty text means "not set": engines send them so.
const UNSET_BY_ZERO: &[(&str, &[&str])] = &[
    ("memory", &["limit", "reservation", "swap", "kernel", "kernelTCP"]),
    ("cpu", &["shares", "quota", "period", "realtimeRuntime", "realtimePeriod", "cpus", "mems"]),
    ("blockIO", &["weight", "leafWeight"]),
    ("network", &["classID"]),
];

/// What tells the entries of a list apart.
const IDENTITY: [&str; 4] = ["major", "minor", "pageSize", "name"];

/// `resources` as JSON, with only those fields that are set.
pub fn to_json(resources: &Resources) -> Result<Value> {
    let mut json: Value = by_text(resources)?;
    for (section, fields) in UNSET_BY_ZERO {
        if let Some(section) = json.get_mut(section).and_then(Value::as_object_mut) {
            section.retain(|name, value| !fields.contains(&name.as_str()) || !is_zero(value));
        }
    }
    Ok(json)
}

fn is_zero(value: &Value) -> bool {
    value.is_null() || value == 0 || value == ""
}

/// The container's resources with those of `asked` that are set.
pub fn merge(old: &Resources, asked: &Resources) -> Result<Resources> {
    let asked = to_json(asked)?;
    // Lists that name something twice are made to name it once: else a change of the one would leave the other.
    let mut merged = Value::Object(Map::new());
    overlay(&mut merged, to_json(old)?);
    let of_memory = |name: &str| asked.pointer(&format!("/memory/{name}"));
    // Without a limit on memory there is none on memory and swap together either.
    if of_memory("limit").is_some_and(|limit| *limit == -1) && of_memory("swap").is_none() {
        if let Some(memory) = merged.get_mut("memory").and_then(Value::as_object_mut) {
            memory.remove("swap");
        }
    }
    overlay(&mut merged, asked);
    by_text(&merged)
}

fn overlay(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in new {
                // Rules for devices only make sense together.
                if name == "devices" {
                    old.insert(name, value);
                } else {
                    overlay(old.entry(name).or_insert_with(|| empty(&value)), value);
                }
            }
        }
        (Value::Array(old), Value::Array(new)) => new.into_iter().for_each(|entry| put(old, entry)),
        (old, new) => *old = new,
    }
}

fn empty(like: &Value) -> Value {
    match like {
        Value::Object(_) => Value::Object(Map::new()),
        Value::Array(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    }
}

/// Replaces the entry for the same thing, or adds one.
fn put(list: &mut Vec<Value>, entry: Value) {
    let identity = |entry: &Value| IDENTITY.iter().map(|name| entry.get(name).cloned()).collect::<Vec<_>>();
    match list.iter_mut().find(|other| identity(other) == identity(&entry)) {
        Some(place) => overlay(place, entry),
        None => list.push(entry),
    }
}
