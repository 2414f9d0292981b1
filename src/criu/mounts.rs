//! Which mounts of a container criu makes anew, and which are the host's: of these it is told what to bind.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::message::Message;
use super::option;
use crate::mountinfo::Entry;

/// File systems that criu makes as they were.
const OWN: &[&[u8]] = &[b"proc", b"sysfs", b"tmpfs", b"devpts", b"mqueue"];
/// They show the container's own cgroup wherever they are mounted in its cgroup namespace.
const CGROUPS: &[&[u8]] = &[b"cgroup", b"cgroup2"];

/// The mount points of the host's mounts in a container, of which `table` is the table and `bound` has the ids of bind
/// mounts. Without a cgroup namespace of its own, cgroups are the host's too.
pub fn of_host(table: &[Entry], bound: &BTreeSet<u64>, own_cgroups: bool) -> Vec<PathBuf> {
    let is_whole = |entry: &&Entry| entry.root == Path::new("/") && !bound.contains(&entry.id);
    let own: BTreeSet<_> = table
        .iter()
        .filter(|entry| OWN.contains(&entry.file_system))
        .filter(is_whole)
        .map(|entry| entry.device)
        .collect();
    let is_cgroup = |entry: &Entry| CGROUPS.contains(&entry.file_system);
    let is_new = |entry: &Entry| own.contains(entry.device) && !bound.contains(&entry.id);
    let is_own = |entry: &Entry| own_cgroups && is_cgroup(entry) || is_new(entry);
    let others = table.iter().filter(|entry| entry.mount_point != Path::new("/") && !is_own(entry));
    others.map(|entry| entry.mount_point.clone()).collect()
}

/// A bind mount of a container's.
pub struct Bind {
    /// In the container.
    pub place: PathBuf,
    /// On the host, without symbolic links.
    pub source: PathBuf,
    /// Whether what is mounted below the source comes with it.
    pub recursive: bool,
}

/// What of the host is to be where in the container, by the host's table of mounts.
pub fn sources(table: &[Entry], binds: &[Bind]) -> Vec<(PathBuf, PathBuf)> {
    let below = |bind: &Bind| {
        let mounted = table.iter().filter(|_| bind.recursive).filter_map(|entry| {
            let rest = entry.mount_point.strip_prefix(&bind.source).ok()?;
            (rest != Path::new("")).then(|| (bind.place.join(rest), entry.mount_point.clone()))
        });
        mounted.chain([(bind.place.clone(), bind.source.clone())]).collect::<Vec<_>>()
    };
    binds.iter().flat_map(below).collect()
}

/// Tells criu of a mount: by its place when it is written, by its source when it is made.
pub fn add(options: Message, place: &Path, source: &Path) -> Message {
    let map = Message::default().text(1, place.as_os_str().as_bytes()).text(2, source.as_os_str().as_bytes());
    options.message(option::EXTERNAL_MOUNT, &map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mountinfo::entries;

    const TABLE: &[u8] = b"45 46 254:0 /bundle/rootfs / rw - ext4 /dev/vda rw\n\
        70 45 0:40 / /proc rw - proc proc rw\n\
        71 45 0:41 / /dev rw - tmpfs tmpfs rw\n\
        72 45 254:0 /srv /data rw - ext4 /dev/vda rw\n\
        73 72 254:1 / /data/sub rw - ext4 /dev/vdb rw\n\
        74 45 0:24 / /host-shm rw - tmpfs tmpfs rw\n\
        75 45 0:25 /x /host-run rw - tmpfs tmpfs rw\n\
        76 70 0:40 /sys /proc/sys ro - proc proc rw\n\
        77 45 0:50 /own /cgroup rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn what_is_bound_is_the_hosts() {
        let table: Vec<_> = entries(TABLE).collect();
        let found = |own_cgroups| {
            let found = of_host(&table, &[72, 74].into(), own_cgroups);
            found.iter().map(|path| path.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(found(true), ["/data", "/data/sub", "/host-shm", "/host-run"]);
        assert_eq!(found(false), ["/data", "/data/sub", "/host-shm", "/host-run", "/cgroup"]);
    }

    #[test]
    fn what_is_below_a_source_comes_with_it() {
        let table: Vec<_> = entries(TABLE).collect();
        let bind = |recursive| Bind { place: "/a".into(), source: "/data".into(), recursive };
        let pair = |place: &str, source: &str| (PathBuf::from(place), PathBuf::from(source));
        assert_eq!(sources(&table, &[bind(false)]), [pair("/a", "/data")]);
        assert_eq!(sources(&table, &[bind(true)]), [pair("/a/sub", "/data/sub"), pair("/a", "/data")]);
    }
}
