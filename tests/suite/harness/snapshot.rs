//! What of the host a test must leave as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::View;

/// Kept by the machine that the tests were written on for itself.
const FOREIGN_CGROUP: &str = "/sys/fs/cgroup/memory/process_api";

/// The host at one moment: by kind, names of things that are there.
pub struct Snapshot {
    /// What the test's cgroups have in their paths.
    name: String,
    things: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Snapshot {
    /// `name` is what the test's cgroups have in their paths.
    pub fn take(name: &str) -> Self {
        let things = BTreeMap::from([
            ("mount", lines("/proc/self/mountinfo")),
            ("cgroup", cgroups().iter().map(|path| path.display().to_string()).collect()),
            ("process", processes(name).values().cloned().collect()),
            ("network link", names("/sys/class/net")),
            ("descriptor", descriptors()),
            ("hostname", lines("/proc/sys/kernel/hostname")),
        ]);
        Self { name: name.to_owned(), things }
    }

    /// What differs: things that are new, and things that have gone.
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let empty = BTreeSet::new();
        let mut found = Vec::new();
        for (kind, before) in &self.things {
            let after = later.things.get(kind).unwrap_or(&empty);
            found.extend(after.difference(before).map(|thing| format!("{kind} left: {thing}")));
            found.extend(before.difference(after).map(|thing| format!("{kind} gone: {thing}")));
        }
        found.retain(|difference| !is_foreign(difference, &self.name));
        found
    }
}

/// A cgroup in a tree where others have processes, or one that went away, is not the test's doing: other programs run
/// on this machine too. (That kelson leaves others' cgroups alone is shown with cgroups of the test's own.)
fn is_foreign(difference: &str, name: &str) -> bool {
    let Some((kind, path)) = difference.split_once(": ") else { return false };
    match kind {
        "cgroup left" => !path.contains(name) && has_foreign_processes(&top_of(Path::new(path))),
        "process gone" | "cgroup gone" => true,
        _ => false,
    }
}

/// The cgroup right below the hierarchy's root that `cgroup` is in.
fn top_of(cgroup: &Path) -> PathBuf {
    let below = hierarchies().into_iter().find_map(|root| Some((cgroup.strip_prefix(&root).ok()?.to_owned(), root)));
    let (below, root) = below.unwrap_or_default();
    below.iter().next().map_or_else(|| cgroup.to_owned(), |first| root.join(first))
}

fn has_foreign_processes(cgroup: &Path) -> bool {
    let (mut nested, ours) = (Vec::new(), descendants());
    walk(cgroup, &mut nested);
    let lists = nested.iter().map(|path| fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default());
    let is_foreign = |pid: &str| pid.parse().is_ok_and(|pid: i32| !ours.contains(&pid));
    lists.into_iter().any(|pids| pids.lines().any(is_foreign))
}

fn lines(path: &str) -> BTreeSet<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// This process's descriptors, but for the one that lists them.
fn descriptors() -> BTreeSet<String> {
    let links = names("/proc/self/fd").into_iter().filter_map(|number| {
        let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        Some(format!("{number} -> {}", target.display()))
    });
    links.filter(|link| !link.ends_with("/fd")).collect()
}

/// Where the hierarchies are mounted.
pub fn hierarchies() -> Vec<PathBuf> {
    if View::current().is_v2() {
        return vec!["/sys/fs/cgroup".into()];
    }
    let names = names("/sys/fs/cgroup").into_iter().map(|name| Path::new("/sys/fs/cgroup").join(name));
    names.filter(|path| path.is_dir() && !path.is_symlink() && path.join("cgroup.procs").exists()).collect()
}

/// Every cgroup, in all hierarchies; parents before what is below them.
pub fn cgroups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        walk(&hierarchy, &mut found);
    }
    found
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    found.push(directory.to_owned());
    if directory == Path::new(FOREIGN_CGROUP) {
        return;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
    }
}

/// Process ids and the ids of their parents.
fn parents() -> BTreeMap<i32, i32> {
    let numbers = names("/proc").into_iter().filter_map(|name| name.parse::<i32>().ok());
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    numbers.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// This process's children, their children, and so on.
pub fn descendants() -> BTreeSet<i32> {
    let parents = parents();
    let own = std::process::id() as i32;
    let is_ours = |pid: &i32| {
        let mut place = *pid;
        for _ in 0..64 {
            match parents.get(&place) {
                Some(parent) if *parent == own => return true,
                Some(parent) => place = *parent,
                None => return false,
            }
        }
        false
    };
    parents.keys().copied().filter(is_ours).collect()
}

/// The processes that are the test's: its descendants, and what is in cgroups with its name.
pub fn processes(name: &str) -> BTreeMap<i32, String> {
    let ours = descendants();
    let read = |pid: i32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let own = std::process::id() as i32;
    let all = parents().into_keys().filter(|pid| *pid != own);
    all.filter(|pid| ours.contains(pid) || read(*pid, "cgroup").contains(name))
        .map(|pid| (pid, format!("{pid} {} ({})", read(pid, "comm").trim(), read(pid, "cmdline").replace('\0', " "))))
        .collect()
}
