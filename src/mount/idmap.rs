//! Idmapped mounts: which mapping a mount uses, and a user namespace that carries it to the kernel.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use oci_spec::runtime::{LinuxIdMapping, Mount};

use super::options::Options;
use crate::error::{Context, Error, Result};
use crate::sys::child::wait;
use crate::sys::fs::open;
use crate::sys::process::{Forked, clone};
use crate::wire::{Message, Wire};

/// A range of ids and what they become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub first: u32,
    pub becomes: u32,
    pub size: u32,
}

/// The mappings of a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    pub uids: Vec<Range>,
    pub gids: Vec<Range>,
    /// The namespace itself, where it exists already: then its own mappings count.
    pub namespace: Option<PathBuf>,
    /// Whether the mounts below are mapped too; only for mounts.
    pub recursive: bool,
}

impl IdMap {
    /// From config.json's lists.
    pub fn new(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Self {
        Self { uids: ranges(uids), gids: ranges(gids), ..Self::default() }
    }
}

fn ranges(mappings: &[LinuxIdMapping]) -> Vec<Range> {
    let range = |map: &LinuxIdMapping| Range { first: map.container_id(), becomes: map.host_id(), size: map.size() };
    mappings.iter().map(range).collect()
}

/// As `uid_map` and `gid_map` of `user_namespaces(7)` take them.
fn lines(ranges: &[Range]) -> String {
    ranges.iter().map(|Range { first, becomes, size }| format!("{first} {becomes} {size}\n")).collect()
}

/// The mapping that a mount's own lists or options ask for (config.md, "Mounts"): its own, else the container's.
pub fn plan(mount: &Mount, options: &Options, container: Option<&IdMap>) -> Result<Option<IdMap>> {
    let uids = mount.uid_mappings().as_deref().unwrap_or_default();
    let gids = mount.gid_mappings().as_deref().unwrap_or_default();
    if uids.is_empty() != gids.is_empty() {
        return Err(Error::new("uidMappings and gidMappings of a mount belong together"));
    }
    let recursive = options.id_map == Some(true);
    if !uids.is_empty() {
        return Ok(Some(IdMap { recursive, ..IdMap::new(uids, gids) }));
    }
    if options.id_map.is_none() {
        return Ok(None);
    }
    if !options.id_map_text.is_empty() {
        return from_text(&options.id_map_text, recursive, container).map(Some);
    }
    container
        .map(|map| Some(IdMap { recursive, ..map.clone() }))
        .ok_or_else(|| Error::new("an idmapped mount needs mappings of its own or a user namespace of the container"))
}

/// crun's syntax, which podman writes: `uids=FILE-HOST-SIZE#…;gids=…`; `@FILE-CONTAINER-SIZE` is seen from the
/// container.
fn from_text(text: &str, recursive: bool, container: Option<&IdMap>) -> Result<IdMap> {
    let wrong = || Error::new(format!("`idmap={text}` is not of the form uids=A-B-N#…;gids=A-B-N#…"));
    let mut map = IdMap { recursive, ..IdMap::default() };
    for part in text.split(';') {
        let (kind, list) = part.split_once('=').ok_or_else(wrong)?;
        let (ranges, outer) = match kind {
            "uids" => (&mut map.uids, container.map(|map| map.uids.as_slice())),
            "gids" => (&mut map.gids, container.map(|map| map.gids.as_slice())),
            _ => return Err(wrong()),
        };
        for entry in list.split('#') {
            let numbers: Vec<u32> = entry
                .trim_start_matches('@')
                .split('-')
                .map(str::parse)
                .collect::<std::result::Result<_, _>>()
                .map_err(|_| wrong())?;
            let [first, becomes, size] = numbers[..] else { return Err(wrong()) };
            let range = Range { first, becomes, size };
            if entry.starts_with('@') {
                ranges.extend(seen_from_outside(range, outer.unwrap_or_default())?);
            } else {
                ranges.push(range);
            }
        }
    }
    if map.uids.is_empty() || map.gids.is_empty() { Err(wrong()) } else { Ok(map) }
}

/// A range that leads to ids of the container, as ranges that lead to the same ids of the host.
fn seen_from_outside(range: Range, container: &[Range]) -> Result<Vec<Range>> {
    let Range { mut first, mut becomes, mut size } = range;
    let mut result = Vec::new();
    while size > 0 {
        let holds = |outer: &&Range| becomes.checked_sub(outer.first).is_some_and(|place| place < outer.size);
        let Some(outer) = container.iter().find(holds) else {
            return Err(Error::new(format!("id {becomes} of the container is in none of its mappings"))
                .hint("a mapping with `@` leads to ids that /linux/uidMappings and /linux/gidMappings have"));
        };
        let place = becomes - outer.first;
        let length = size.min(outer.size - place);
        result.push(Range { first, becomes: outer.becomes + place, size: length });
        size -= length;
        first = first.saturating_add(length);
        becomes = becomes.saturating_add(length);
    }
    Ok(result)
}

/// A user namespace with `map`'s mappings: one that exists, or one kept by the descriptor only (its one process is
/// gone on return).
pub fn user_namespace(map: &IdMap) -> Result<OwnedFd> {
    if let Some(path) = &map.namespace {
        return open(path, OFlag::O_RDONLY).on_path("cannot open a namespace", path);
    }
    let (ours, theirs) = Wire::pair()?;
    match clone(libc::CLONE_NEWUSER as u64, None).context(|| "cannot make a user namespace for an idmapped mount")? {
        Forked::Child => {
            drop(ours);
            let done = theirs.wait_for_go().is_ok();
            std::process::exit(i32::from(!done));
        }
        Forked::Parent { pid, .. } => {
            drop(theirs);
            let namespace = (|| {
                write_proc(&format!("/proc/{pid}/uid_map"), &lines(&map.uids))?;
                write_proc(&format!("/proc/{pid}/gid_map"), &lines(&map.gids))?;
                let path = format!("/proc/{pid}/ns/user");
                open(path.as_str(), OFlag::O_RDONLY).on_path("cannot open", path)
            })();
            ours.send(&Message::Go)?;
            wait(Some(pid), 0).context(|| "cannot wait for the process of an idmapped mount")?;
            namespace
        }
    }
}

fn write_proc(path: &str, text: &str) -> Result<()> {
    let file = open(path, OFlag::O_WRONLY).on_path("cannot open", path)?;
    nix::unistd::write(&file, text.as_bytes()).map(drop).on_path("the kernel refuses the mapping", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u32, becomes: u32, size: u32) -> Range {
        Range { first, becomes, size }
    }

    #[test]
    fn crun_syntax_is_read() {
        let map = from_text("uids=0-1000-1#1-2000-5;gids=0-100-1", false, None).unwrap();
        assert_eq!(lines(&map.uids), "0 1000 1\n1 2000 5\n");
        assert_eq!(map.gids, [range(0, 100, 1)]);
        for text in ["uids=0-1-2", "uids=0-1;gids=0-1-2", "x=0-1-2;gids=0-1-2", "uids=a-b-c;gids=0-0-1"] {
            assert!(from_text(text, false, None).is_err(), "{text}");
        }
    }

    #[test]
    fn mappings_relative_to_the_container_are_seen_from_outside() {
        let uids = vec![range(0, 0, 1), range(1, 2, 1000), range(1001, 70_000, 10)];
        let container = IdMap { uids, gids: vec![range(0, 100_000, 65_536)], ..IdMap::default() };
        let read = |text: &str| from_text(text, false, Some(&container));
        let map = read("uids=@1-3-10#20-30-1;gids=@0-1-10").unwrap();
        assert_eq!(map.uids, [range(1, 4, 10), range(20, 30, 1)]);
        assert_eq!(map.gids, [range(0, 100_001, 10)]);
        // Over the end of one of the container's ranges.
        assert_eq!(read("uids=@5-1000-3;gids=@0-0-1").unwrap().uids, [range(5, 1001, 1), range(6, 70_000, 2)]);
        assert!(read("uids=@0-2000-1;gids=0-0-1").is_err());
        assert!(from_text("uids=@0-0-1;gids=0-0-1", false, None).is_err());
    }
}
