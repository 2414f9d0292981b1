//! Resource control (`linux.intelRdt`): the container's group in the kernel's resctrl file system, its schemata,
//! and its monitoring group.
//!
//! Sources: config-linux.md, "`IntelRdt`"; the kernel's Documentation/filesystems/resctrl.rst.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::mountinfo::{self, Entry};

/// What to do for `linux.intelRdt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdtPlan {
    /// The group's directory below the mount point; empty for the root group.
    group: String,
    /// Whether the group's name comes from `closID`: then it may be others' too, and outlives the container.
    shared: bool,
    /// In the order to write them.
    schemata: Vec<Schema>,
    /// The name of the container's monitoring group.
    monitoring_group: Option<String>,
}

/// One write to a `schemata` file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Schema {
    /// The member of `linux.intelRdt` that it comes from.
    member: &'static str,
    /// Each ended by a newline.
    lines: String,
}

/// What [`apply`] does, to be kept with the container's state for [`join`] and [`remove`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RdtState {
    /// The directory of the group that the container's processes are in.
    pub group: PathBuf,
    /// That directory, if it goes with the container: made by kelson and named after the container.
    pub directory: Option<PathBuf>,
    /// The directory of the container's monitoring group.
    pub monitoring_group: Option<PathBuf>,
}

/// Checks `linux.intelRdt`; `container_id` names what the configuration does not.
///
/// Errors, each with its pointer: a name that is not a directory's, an empty schema, a newline where the
/// specification forbids one, a `memBwSchema` that does not start with `MB:`.
pub fn plan(rdt: Option<&LinuxIntelRdt>, container_id: &str) -> Result<Option<RdtPlan>> {
    let Some(rdt) = rdt else { return Ok(None) };
    let class = rdt.clos_id().as_deref();
    match class {
        Some("/") => {}
        Some(name) => check_name(name).map_err(|error| error.pointer(pointer("closID")))?,
        None => check_name(container_id).map_err(|error| error.pointer("/linux/intelRdt"))?,
    }
    let monitoring = rdt.enable_monitoring().unwrap_or_default();
    if monitoring {
        check_name(container_id).map_err(|error| error.pointer(pointer("enableMonitoring")))?;
    }
    Ok(Some(RdtPlan {
        group: class.unwrap_or(container_id).trim_start_matches('/').to_owned(),
        shared: class.is_some(),
        schemata: schemata(rdt)?,
        monitoring_group: monitoring.then(|| container_id.to_owned()),
    }))
}

fn pointer(member: &str) -> String {
    format!("/linux/intelRdt/{member}")
}

fn check_name(name: &str) -> Result<()> {
    if ["", ".", ".."].contains(&name) || name.contains(['/', '\n', '\0']) {
        return Err(Error::new(format!("{name:?} cannot be the name of a resource control group")));
    }
    Ok(())
}

/// The specification's order: L3 cache, memory bandwidth, the rest. Each is a write of its own, so that a later
/// one can override an earlier one: within one write the kernel takes a domain only once.
fn schemata(rdt: &LinuxIntelRdt) -> Result<Vec<Schema>> {
    let mut schemata = Vec::new();
    if let Some(cache) = rdt.l3_cache_schema() {
        // It SHOULD be one line, not MUST: with code and data prioritised apart, it takes two.
        let cache = cache.trim_end_matches('\n');
        check_line(cache.lines().next().unwrap_or_default())
            .map_err(|error| error.pointer(pointer("l3CacheSchema")))?;
        schemata.push(Schema { member: "l3CacheSchema", lines: format!("{cache}\n") });
    }
    if let Some(bandwidth) = rdt.mem_bw_schema() {
        check_bandwidth(bandwidth).map_err(|error| error.pointer(pointer("memBwSchema")))?;
        schemata.push(Schema { member: "memBwSchema", lines: format!("{bandwidth}\n") });
    }
    let lines = rdt.schemata().as_deref().unwrap_or_default();
    for (index, line) in lines.iter().enumerate() {
        check_line(line).map_err(|error| error.pointer(pointer(&format!("schemata/{index}"))))?;
    }
    if !lines.is_empty() {
        schemata.push(Schema { member: "schemata", lines: lines.join("\n") + "\n" });
    }
    Ok(schemata)
}

fn check_bandwidth(line: &str) -> Result<()> {
    check_line(line)?;
    if !line.starts_with("MB:") {
        return Err(Error::new(format!("the memory bandwidth schema {line:?} does not start with \"MB:\"")));
    }
    Ok(())
}

fn check_line(line: &str) -> Result<()> {
    if line.is_empty() || line.contains('\n') {
        return Err(Error::new(format!("the schema {line:?} is not one line")));
    }
    Ok(())
}

/// What [`apply`] will make for the container alone: to be kept with its state before that.
///
/// Errors: resctrl is not mounted; the monitoring group exists already.
pub fn prepare(plan: &RdtPlan) -> Result<RdtState> {
    let path = "/proc/self/mountinfo";
    let mountinfo = fs::read(path).on_path("cannot read the mount table", path)?;
    let root = find_mount(&mountinfo).ok_or_else(|| {
        Error::new("the resctrl file system is not mounted")
            .hint("mount -t resctrl resctrl /sys/fs/resctrl, if the processor and the kernel support it")
    });
    root.and_then(|root| prepare_below(&root, plan)).map_err(|error| error.pointer("/linux/intelRdt"))
}

fn prepare_below(root: &Path, plan: &RdtPlan) -> Result<RdtState> {
    let group = root.join(&plan.group);
    let monitoring_group = plan.monitoring_group.as_ref().map(|name| group.join("mon_groups").join(name));
    if let Some(directory) = monitoring_group.as_ref().filter(|directory| directory.exists()) {
        let error = Error::new("the monitoring group exists already").path(directory);
        return Err(error.pointer(pointer("enableMonitoring")));
    }
    let directory = (!plan.shared && !group.is_dir()).then(|| group.clone());
    Ok(RdtState { group, directory, monitoring_group })
}

/// The mount point of the first whole resctrl file system in a mountinfo file (`proc_pid_mountinfo(5)`).
fn find_mount(table: &[u8]) -> Option<PathBuf> {
    let is_whole = |entry: &Entry| entry.file_system == b"resctrl" && entry.root == Path::new("/");
    mountinfo::entries(table).find(is_whole).map(|entry| entry.mount_point)
}

/// Puts process `pid` into its group, which is made and set up first where the specification says so.
///
/// Errors: a group named by `closID` does not exist and there are no schemata for it, or has others than these; the
/// kernel refuses, with its own words. On failure what was made is removed again.
pub fn apply(plan: &RdtPlan, state: &RdtState, pid: i32) -> Result<()> {
    let set_up = || {
        let made = reach(plan, &state.group)?;
        set_up(plan, state, made, pid).inspect_err(|_| {
            let _ = remove(&RdtState { directory: made.then(|| state.group.clone()), ..state.clone() });
        })
    };
    set_up().map_err(|error| error.pointer("/linux/intelRdt"))
}

/// Makes the group, unless it is there or must be; returns whether it was made.
fn reach(plan: &RdtPlan, group: &Path) -> Result<bool> {
    if plan.shared && plan.schemata.is_empty() {
        return if group.is_dir() { Ok(false) } else { Err(no_group(group)) };
    }
    match make_directory(group) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        made => refused(made, "cannot make the resource control group", group).map(|()| true),
    }
}

fn no_group(group: &Path) -> Error {
    Error::new("there is no such resource control group")
        .path(group)
        .pointer(pointer("closID"))
        .hint("make it, or set schemata to have it made")
}

fn set_up(plan: &RdtPlan, state: &RdtState, made: bool, pid: i32) -> Result<()> {
    if plan.shared && !made {
        compare(plan, &state.group)?;
    }
    write_schemata(&plan.schemata, &state.group)?;
    if let Some(directory) = &state.monitoring_group {
        refused(make_directory(directory), "cannot make the monitoring group", directory)
            .map_err(|error| error.pointer(pointer("enableMonitoring")))?;
    }
    join(state, pid)
}

/// Refuses a group that exists with other L3 cache or memory bandwidth schemata than the configuration's.
fn compare(plan: &RdtPlan, group: &Path) -> Result<()> {
    let wanted: Vec<_> = plan.schemata.iter().filter(|schema| schema.member != "schemata").collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let path = group.join("schemata");
    let existing = fs::read_to_string(&path).on_path("cannot read the schemata of the existing group", &path)?;
    let granularity = read_above(group, "info/MB/bandwidth_gran").unwrap_or_default();
    let granularity = granularity.trim().parse().unwrap_or(1);
    let Some(schema) = wanted.into_iter().find(|schema| !agrees(&schema.lines, &existing, granularity)) else {
        return Ok(());
    };
    let message = format!("the group exists with other schemata than {:?}: {existing:?}", schema.lines.trim_end());
    Err(Error::new(message).path(group).pointer(pointer(schema.member)))
}

/// Whether each domain of `wanted` has its value in `existing`. Bandwidths are in percent (or MB/s), and the
/// kernel rounds them up to multiples of `granularity`.
fn agrees(wanted: &str, existing: &str, granularity: u64) -> bool {
    let existing: HashMap<_, _> = domains(existing).flatten().collect();
    domains(wanted).all(|domain| {
        domain.is_some_and(|(key, value)| {
            let rounded = value.checked_next_multiple_of(granularity).filter(|_| is_bandwidth(key.0));
            existing.get(&key).is_some_and(|existing| *existing == value || Some(*existing) == rounded)
        })
    })
}

/// A resource and the number of one of its domains, and the domain's value.
type Domain<'a> = ((&'a str, u64), u64);

/// The domains of schemata such as `L3:0=7f0;1=1f`; none in place of one that cannot be read.
fn domains(schemata: &str) -> impl Iterator<Item = Option<Domain<'_>>> {
    schemata.lines().flat_map(|line| {
        let (resource, domains) = line.split_once(':').unwrap_or((line, ""));
        domains.split(';').map(move |domain| read_domain(resource.trim(), domain))
    })
}

fn read_domain<'a>(resource: &'a str, domain: &str) -> Option<Domain<'a>> {
    let (number, value) = domain.split_once('=')?;
    let value = value.trim();
    let value = if is_bandwidth(resource) {
        value.parse()
    } else {
        u64::from_str_radix(value.strip_prefix("0x").unwrap_or(value), 16)
    };
    Some(((resource, number.trim().parse().ok()?), value.ok()?))
}

/// Bandwidths are decimal numbers, cache schemata are masks in hexadecimal.
fn is_bandwidth(resource: &str) -> bool {
    ["MB", "SMBA"].contains(&resource)
}

fn write_schemata(schemata: &[Schema], group: &Path) -> Result<()> {
    let path = group.join("schemata");
    for schema in schemata {
        refused(write_existing(&path, &schema.lines), "cannot write the schemata", &path)
            .map_err(|error| error.pointer(pointer(schema.member)))?;
    }
    Ok(())
}

/// The schemata of a group before they were changed.
pub struct Former {
    path: PathBuf,
    text: String,
}

/// Writes the schemata that are set in `rdt` to the container's group; on failure they are as before.
///
/// Errors: the container has no group; a schema is none; the kernel refuses, with its own words.
pub fn update(state: Option<&RdtState>, rdt: &LinuxIntelRdt) -> Result<Former> {
    let schemata = schemata(rdt)?;
    let group =
        &state.ok_or_else(|| Error::new("the container was made without intelRdt: there is nothing to update"))?.group;
    let path = group.join("schemata");
    let text = fs::read_to_string(&path).on_path("cannot read the schemata", &path)?;
    let former = Former { path, text };
    match write_schemata(&schemata, group) {
        Ok(()) => Ok(former),
        Err(error) => {
            former.restore();
            Err(error)
        }
    }
}

impl Former {
    /// Brings them back, as far as the kernel lets it.
    pub fn restore(&self) {
        let _ = write_existing(&self.path, &self.text);
    }
}

/// Puts process `pid` into the container's group and monitoring group: the first process and each later one.
pub fn join(state: &RdtState, pid: i32) -> Result<()> {
    for group in [Some(&state.group), state.monitoring_group.as_ref()].into_iter().flatten() {
        let path = group.join("tasks");
        refused(write_existing(&path, &pid.to_string()), "cannot put the process into its group", &path)?;
    }
    Ok(())
}

/// Removes what [`apply`] made for the container alone; what is gone already is no error.
pub fn remove(state: &RdtState) -> Result<()> {
    for directory in [&state.monitoring_group, &state.directory].into_iter().flatten() {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => refused(removed, "cannot remove the resource control group", directory)?,
        }
    }
    Ok(())
}

/// A directory that only the owner can change, whatever the umask.
fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)
}

/// One write(2) to a file that is there.
fn write_existing(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// Adds the kernel's own words, from `info/last_cmd_status` at the root, to what it refused.
fn refused<T>(result: io::Result<T>, what: &str, path: &Path) -> Result<T> {
    if result.is_ok() {
        return result.context(|| what);
    }
    match read_above(path, "info/last_cmd_status")
        .as_deref()
        .map(str::trim)
        .filter(|status| !["", "ok"].contains(status))
    {
        Some(text) => result.on_path(format!("{what}: the kernel says {text:?}"), path),
        None => result.on_path(what, path),
    }
}

/// A file of the file system's root that is above `path`.
fn read_above(path: &Path, name: &str) -> Option<String> {
    path.ancestors().find_map(|directory| fs::read_to_string(directory.join(name)).ok())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;
