//! `linux.resources`, turned into values for files of cgroups. What there is stands in one [`table`]; v1, v2 and hybrid
//! differ by its columns and by the [`Layout`] only.

mod convert;
mod lists;
pub mod merge;
pub mod table;
#[cfg(test)]
mod tests;

use super::layout::Layout;
use crate::error::{Error, Result};
use crate::spec::Resources;
use table::{FIELDS, Field, File};

/// One value for one file of a cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// Where config.json asks for it.
    pub pointer: String,
    /// The place of the hierarchy in the layout.
    pub hierarchy: usize,
    pub controller: String,
    pub file: String,
    pub value: String,
    /// Whether the value is what holds anyway where there is no such file.
    pub optional: bool,
    /// File and value instead, where there is no such file.
    pub instead: Option<(String, String)>,
    /// Whether it has to wait until init exists: it limits how many processes there may be.
    pub late: bool,
}

/// What a field of the spec comes to, before it is known in which hierarchy.
#[derive(Debug, Default)]
pub struct Value {
    /// The place below the field, such as `/0`.
    at: String,
    /// The file, where the field does not tell it.
    file: String,
    text: String,
    optional: bool,
    instead: Option<(String, String)>,
}

/// A field's values: none where config.json has none.
pub type Values = Result<Vec<Value>>;

/// The writes for all `resources`. What the hierarchies of this host cannot express is an error.
pub fn plan(resources: &Resources, layout: &Layout) -> Result<Vec<Write>> {
    writes(layout, |_| Some(resources))
}

/// The writes for those fields of `asked` that are set, and no others; `merged` has them among all the container's.
pub fn plan_update(asked: &Resources, merged: &Resources, layout: &Layout) -> Result<Vec<Write>> {
    let json = merge::to_json(asked)?;
    let is_set = |name: &&str| json.pointer(&format!("/{name}")).is_some();
    // What depends on other fields is worked out from all of them.
    writes(layout, |field| match field.with {
        [] => Some(asked),
        with => (is_set(&field.name) || with.iter().any(is_set)).then_some(merged),
    })
}

fn writes<'a>(layout: &Layout, of: impl Fn(&Field) -> Option<&'a Resources>) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    for field in FIELDS {
        let Some(resources) = of(field) else { continue };
        writes.extend(field_writes(field, resources, layout).map_err(|e| e.pointer(pointer(field.name)))?);
    }
    Ok(writes)
}

fn pointer(name: &str) -> String {
    format!("/linux/resources/{name}")
}

fn field_writes(field: &Field, resources: &Resources, layout: &Layout) -> Result<Vec<Write>> {
    let controllers = [&field.v1, &field.v2].map(|file| file.as_ref().map_or("", |file| file.controller));
    let hierarchy = layout.find(controllers[0], controllers[1]);
    let unified = hierarchy.map_or(layout.unified, |place| layout.hierarchies[place].is_unified());
    let (here, other) = if unified { (&field.v2, &field.v1) } else { (&field.v1, &field.v2) };
    let Some(file) = here.as_ref().or(other.as_ref()) else { return Ok(Vec::new()) };
    let values = (file.values)(resources)?;
    let Some(first) = values.first() else { return Ok(Vec::new()) };
    let pointer = |value: &Value| pointer(field.name) + &value.at;
    if here.is_none() {
        let version = if unified { 2 } else { 1 };
        return Err(Error::new(format!("cgroup v{version} has nothing for {}", field.name)).pointer(pointer(first)));
    }
    let write = |value: Value| {
        let controller = controller_of(file, &value);
        // An entry of `unified` tells the controller itself.
        let place = if file.controller.is_empty() { layout.find_unified(&controller) } else { hierarchy };
        let hierarchy = place.ok_or_else(|| no_controller(&controller, file).pointer(pointer(&value)))?;
        Ok(Write {
            pointer: pointer(&value),
            hierarchy,
            controller,
            file: if value.file.is_empty() { file.name.to_owned() } else { value.file },
            value: value.text,
            optional: value.optional,
            instead: value.instead,
            late: file.name == "pids.max",
        })
    };
    values.into_iter().map(write).collect()
}

fn controller_of(file: &File, value: &Value) -> String {
    if !file.controller.is_empty() {
        return file.controller.to_owned();
    }
    value.file.split('.').next().unwrap_or_default().to_owned()
}

fn no_controller(controller: &str, file: &File) -> Error {
    if file.controller.is_empty() {
        return Error::new(format!("`unified` needs the controller `{controller}` in a cgroup v2 hierarchy"));
    }
    Error::new(format!("the cgroup controller `{controller}` is not available: no hierarchy of this host has it"))
}
