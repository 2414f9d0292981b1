//! Which mounts of a container are the host's: of these criu is told what to bind. What is left it makes anew, or it
//! refuses to write images.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::message::Message;
use super::option;
use crate::error::{Error, Result};
use crate::mountinfo::Entry;

/// The name for what covers masked files, as runc has it.
pub const COVER: &str = "/dev/null";

/// The mount points in a container's `table` of what is the `host`'s: what is on it is what [`sources`] will name when
/// the container is made anew.
///
/// An error: something else is mounted over it. criu goes by mount points, and would lose that.
pub fn of_host(table: &[Entry], host: &[Entry], binds: &[Bind]) -> Result<Vec<PathBuf>> {
    let named: Vec<_> =
        sources(host, binds).into_iter().map(|(place, source)| (place, origin(host, &source))).collect();
    let mut found: Vec<&Entry> = Vec::new();
    for entry in table.iter().filter(|entry| entry.mount_point != Path::new("/")) {
        let shown = Some((entry.device, entry.root.clone()));
        let mut origins = named.iter().filter(|(place, _)| *place == entry.mount_point).map(|(_, origin)| origin);
        match found.iter().find(|below| below.mount_point == entry.mount_point) {
            // What was removed on the host since has another path; what is in no mount of the host's may be anything.
            None if origins.any(|origin| origin.as_ref().is_none_or(|(device, _)| *device == entry.device)) => {
                found.push(entry);
            }
            None => {}
            Some(below) if (below.device, &below.root) == (entry.device, &entry.root) => {}
            Some(_) if origins.any(|origin| *origin == shown) => {}
            Some(_) => {
                let message = "criu could not restore what the container has mounted over a mount of the host's";
                return Err(Error::new(message).path(&entry.mount_point).hint("unmount it in the container"));
            }
        }
    }
    Ok(found.into_iter().map(|entry| entry.mount_point.clone()).collect())
}

/// The file system that a path is in, and where.
fn origin<'a>(table: &[Entry<'a>], path: &Path) -> Option<(&'a [u8], PathBuf)> {
    let above = table.iter().filter(|entry| path.starts_with(&entry.mount_point));
    let mount = above.max_by_key(|entry| entry.mount_point.components().count())?;
    Some((mount.device, mount.root.join(path.strip_prefix(&mount.mount_point).ok()?)))
}

/// Whether a mount shows a part of a file system of which nothing in the `table` shows all: criu has nothing to bind it
/// from.
pub fn is_part(entry: &Entry, table: &[Entry]) -> bool {
    !table.iter().any(|other| other.device == entry.device && other.root == Path::new("/"))
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

    const HOST: &[u8] = b"46 1 254:0 / / rw - ext4 /dev/vda rw\n\
        24 46 0:24 / /dev/shm rw - tmpfs tmpfs rw\n\
        47 46 254:1 / /srv/sub rw - ext4 /dev/vdb rw\n\
        48 46 254:1 / /srv/later rw - ext4 /dev/vdb rw\n";

    fn bind(place: &str, source: &str, recursive: bool) -> Bind {
        Bind { place: place.into(), source: source.into(), recursive }
    }

    fn found(table: &[u8]) -> Result<Vec<PathBuf>> {
        let binds = [bind("/data", "/srv", true), bind("/host-shm", "/dev/shm", false), bind("/gone", "/srv", false)];
        of_host(&entries(table).collect::<Vec<_>>(), &entries(HOST).collect::<Vec<_>>(), &binds)
    }

    #[test]
    fn what_is_bound_is_the_hosts() {
        assert_eq!(found(TABLE).unwrap(), ["/data", "/data/sub", "/host-shm"].map(PathBuf::from));
    }

    #[test]
    fn what_covers_a_mount_of_the_hosts_is_an_error() {
        let with = |line: &[u8]| found(&[TABLE, line].concat());
        assert!(with(b"90 72 0:60 / /data rw - tmpfs tmpfs rw\n").unwrap_err().to_string().contains("/data"));
        assert!(with(b"90 72 254:0 /bundle/rootfs/a /data rw - ext4 /dev/vda rw\n").is_err());
        // A read-only path, and a mount of the container's own where the host has one that was made later.
        assert!(
            with(b"90 72 254:0 /srv /data ro - ext4 /dev/vda rw\n90 72 0:60 / /data/later rw - tmpfs t rw\n").is_ok()
        );
    }

    #[test]
    fn a_part_has_nothing_whole_beside_it() {
        let table: Vec<_> = entries(TABLE).collect();
        let parts = table.iter().filter(|entry| is_part(entry, &table)).map(|entry| entry.id);
        assert_eq!(parts.collect::<Vec<_>>(), [45, 72, 75, 77]);
    }

    #[test]
    fn what_is_below_a_source_comes_with_it() {
        let table: Vec<_> = entries(TABLE).collect();
        let bind = |recursive| bind("/a", "/data", recursive);
        let pair = |place: &str, source: &str| (PathBuf::from(place), PathBuf::from(source));
        assert_eq!(sources(&table, &[bind(false)]), [pair("/a", "/data")]);
        assert_eq!(sources(&table, &[bind(true)]), [pair("/a/sub", "/data/sub"), pair("/a", "/data")]);
    }
}
