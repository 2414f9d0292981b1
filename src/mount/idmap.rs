//! Idmapped mounts: which mapping a mount uses, and a user namespace that carries it to the kernel.

use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use oci_spec::runtime::{LinuxIdMapping, Mount};

use super::options::Options;
use crate::error::{Context, Error, Result};
use crate::sys::process::{Forked, clone};
use crate::wire::{Message, Wire};

/// The mappings of a user namespace, as `uid_map` and `gid_map` of `user_namespaces(7)` take them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    pub uids: String,
    pub gids: String,
    /// Whether the mounts below are mapped too; only for mounts.
    pub recursive: bool,
}

impl IdMap {
    /// From config.json's lists.
    pub fn new(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Self {
        Self { uids: lines(uids), gids: lines(gids), recursive: false }
    }
}

fn lines(mappings: &[LinuxIdMapping]) -> String {
    mappings.iter().map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size())).collect()
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
        return from_text(&options.id_map_text, recursive).map(Some);
    }
    container
        .map(|map| Some(IdMap { recursive, ..map.clone() }))
        .ok_or_else(|| Error::new("an idmapped mount needs mappings of its own or a user namespace of the container"))
}

/// crun's syntax, which podman writes: `uids=HOST-CONTAINER-SIZE#…;gids=…`.
fn from_text(text: &str, recursive: bool) -> Result<IdMap> {
    let wrong = || Error::new(format!("`idmap={text}` is not of the form uids=A-B-N;gids=A-B-N"));
    let mut map = IdMap { recursive, ..IdMap::default() };
    for part in text.split(';') {
        let (kind, list) = part.split_once('=').ok_or_else(wrong)?;
        let mut lines = String::new();
        for entry in list.split('#') {
            // A leading `@` makes the host side relative to the container's own mapping, which is not a mapping
            // that can be written down without it.
            let numbers: Vec<u32> =
                entry.split('-').map(str::parse).collect::<std::result::Result<_, _>>().map_err(|_| wrong())?;
            let [host, container, size] = numbers[..] else { return Err(wrong()) };
            lines += &format!("{host} {container} {size}\n");
        }
        match kind {
            "uids" => map.uids = lines,
            "gids" => map.gids = lines,
            _ => return Err(wrong()),
        }
    }
    if map.uids.is_empty() || map.gids.is_empty() { Err(wrong()) } else { Ok(map) }
}

/// A user namespace with `map`'s mappings, kept by the descriptor only: its one process is gone on return.
pub fn user_namespace(map: &IdMap) -> Result<OwnedFd> {
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
                write_proc(&format!("/proc/{pid}/uid_map"), &map.uids)?;
                write_proc(&format!("/proc/{pid}/gid_map"), &map.gids)?;
                let path = format!("/proc/{pid}/ns/user");
                open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).on_path("cannot open", path)
            })();
            ours.send(&Message::Go)?;
            waitpid(pid, None).context(|| "cannot wait for the process of an idmapped mount")?;
            namespace
        }
    }
}

fn write_proc(path: &str, text: &str) -> Result<()> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).on_path("cannot open", path)?;
    nix::unistd::write(&file, text.as_bytes()).map(drop).on_path("the kernel refuses the mapping", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crun_syntax_is_read() {
        let map = from_text("uids=0-1000-1#1-2000-5;gids=0-100-1", false).unwrap();
        assert_eq!(map.uids, "0 1000 1\n1 2000 5\n");
        assert_eq!(map.gids, "0 100 1\n");
        for text in ["uids=0-1-2", "uids=0-1;gids=0-1-2", "x=0-1-2;gids=0-1-2", "uids=a-b-c;gids=0-0-1"] {
            assert!(from_text(text, false).is_err(), "{text}");
        }
    }
}
