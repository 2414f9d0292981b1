//! config.md, "Mounts": idmapped mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::harness::{Bundle, Host};
use crate::support::{Neighbour, fails_at, has_all, mount_at, namespace, user_namespace};

const NONE: Option<&str> = None;

fn map(inside: u32, outside: u32, size: u32) -> Value {
    json!([{ "containerID": inside, "hostID": outside, "size": size }])
}

/// A mount with a mount below it, gone when dropped; the files in them belong to 1.
struct Source(PathBuf);

impl Source {
    fn new(host: &Host) -> Self {
        let path = host.temp.join("source");
        fs::create_dir(&path).unwrap();
        mount(Some("source"), &path, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        mount(NONE, &path, NONE, MsFlags::MS_PRIVATE, NONE).unwrap();
        fs::create_dir(path.join("sub")).unwrap();
        mount(Some("below"), &path.join("sub"), Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        for file in ["file", "sub/file"] {
            fs::write(path.join(file), "").unwrap();
            chown(path.join(file), Some(1), Some(1)).unwrap();
        }
        Self(path)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = umount2(&self.0.join("sub"), MntFlags::MNT_DETACH);
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn add(bundle: &mut Bundle<'_>, source: &Source, options: &[&str], maps: Option<(Value, Value)>) {
    let mut entry = json!({ "destination": "/data", "type": "bind", "source": source.0, "options": options });
    if let Some((uids, gids)) = maps {
        entry["uidMappings"] = uids;
        entry["gidMappings"] = gids;
    }
    bundle.config["mounts"].as_array_mut().unwrap().push(entry);
}

/// The root of the container's user namespace could not make it in a rootfs that is not its own.
fn make_mount_point(bundle: &Bundle<'_>) {
    fs::create_dir(bundle.rootfs.join("data")).unwrap();
}

/// The owners of the file and of that in the mount below, as the container sees them.
fn owners(bundle: &mut Bundle<'_>) -> (u64, u64) {
    bundle.args(&["/bin/probe", "stat", "/data/file", "/data/sub/file"]);
    let report = bundle.run().ok().json();
    (report["/data/file"]["uid"].as_u64().unwrap(), report["/data/sub/file"]["uid"].as_u64().unwrap())
}

#[test]
fn mappings_of_a_mounts_own_are_used_for_its_top_or_its_tree() {
    let host = Host::new();
    let source = Source::new(&host);
    for (options, expected) in
        [(vec!["rbind"], (1001, 1)), (vec!["rbind", "idmap"], (1001, 1)), (vec!["rbind", "ridmap"], (1001, 1001))]
    {
        let mut bundle = host.bundle();
        add(&mut bundle, &source, &options, Some((map(0, 1000, 100), map(0, 1000, 100))));
        assert_eq!(owners(&mut bundle), expected, "{options:?}");
    }
    assert_eq!(fs::metadata(source.0.join("file")).unwrap().uid(), 1);
}

#[test]
fn the_containers_user_namespace_is_used_where_a_mount_has_no_mappings() {
    let host = Host::new();
    let source = Source::new(&host);
    for (options, expected) in [(vec!["rbind", "idmap"], (1, 65534)), (vec!["rbind", "ridmap"], (1, 1))] {
        let mut bundle = host.bundle();
        user_namespace(&mut bundle, 100_000);
        make_mount_point(&bundle);
        add(&mut bundle, &source, &options, None);
        assert_eq!(owners(&mut bundle), expected, "{options:?}");
    }
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    make_mount_point(&bundle);
    add(&mut bundle, &source, &["rbind"], Some((map(1, 100_005, 1), map(1, 100_005, 1))));
    assert_eq!(owners(&mut bundle), (5, 65534));
}

#[test]
fn what_is_written_belongs_to_the_mapped_user_on_the_host() {
    let host = Host::new();
    let source = Source::new(&host);
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    make_mount_point(&bundle);
    add(&mut bundle, &source, &["rbind", "idmap"], None);
    bundle.script("touch /data/new").run().ok();
    assert_eq!(fs::metadata(source.0.join("new")).unwrap().uid(), 0);
}

#[test]
fn cruns_syntax_for_mappings_is_read() {
    let host = Host::new();
    let source = Source::new(&host);
    let mut bundle = host.bundle();
    add(&mut bundle, &source, &["rbind", "idmap=uids=0-5000-10;gids=0-5000-10"], None);
    assert_eq!(owners(&mut bundle), (5001, 1));
}

#[test]
fn cruns_syntax_may_be_relative_to_the_container() {
    let host = Host::new();
    let source = Source::new(&host);
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    make_mount_point(&bundle);
    // On disk 1; for the container 7.
    add(&mut bundle, &source, &["rbind", "idmap=uids=@1-7-1;gids=@0-0-10"], None);
    assert_eq!(owners(&mut bundle).0, 7);
    add(&mut bundle, &source, &["rbind", "idmap=uids=@1-70000-1;gids=@0-0-10"], None);
    fails_at(&bundle.run(), "/mounts/8/options");
}

#[test]
fn the_mappings_of_a_user_namespace_that_is_joined_are_used() {
    let host = Host::new();
    let source = Source::new(&host);
    let neighbour = Neighbour::in_user_namespace(&host, &[]);
    for (options, expected) in [(["rbind", "idmap"], (1, 65534)), (["rbind", "ridmap"], (1, 1))] {
        let mut bundle = host.bundle();
        namespace(&mut bundle, "user", Some(&neighbour.path("user")));
        make_mount_point(&bundle);
        add(&mut bundle, &source, &options, None);
        assert_eq!(owners(&mut bundle), expected, "{options:?}");
    }
}

#[test]
fn new_file_systems_are_idmapped_too() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.mount("/data", "tmpfs", "tmpfs", &["mode=755"]);
    let last = bundle.config["mounts"].as_array().unwrap().len() - 1;
    bundle.config["mounts"][last]["uidMappings"] = map(0, 1000, 10);
    bundle.config["mounts"][last]["gidMappings"] = map(0, 1000, 10);
    let report = bundle.probe(&["mounts"]);
    assert!(has_all(&mount_at(&report, "/data").unwrap()["options"], &["idmapped"]));
    assert_eq!(bundle.script("stat -c %u /data").run().ok().stdout, "1000\n");

    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    make_mount_point(&bundle);
    bundle.mount("/data", "tmpfs", "tmpfs", &["idmap", "mode=755"]);
    assert_eq!(bundle.script("touch /data/x; stat -c %u /data/x").run().ok().stdout, "0\n");
}

#[test]
fn impossible_mappings_are_refused() {
    let host = Host::new();
    let source = Source::new(&host);
    let mut bundle = host.bundle();
    add(&mut bundle, &source, &["rbind", "idmap"], None);
    fails_at(&bundle.run(), "/mounts/7/options");
    for (uids, gids) in [(map(0, 1, 1), json!([])), (json!([]), map(0, 1, 1))] {
        let mut bundle = host.bundle();
        add(&mut bundle, &source, &["rbind"], Some((uids, gids)));
        fails_at(&bundle.run(), "/mounts/7/options");
    }
    for text in ["idmap=junk", "idmap=uids=0-0;gids=0-0-1"] {
        let mut bundle = host.bundle();
        add(&mut bundle, &source, &["rbind", text], None);
        fails_at(&bundle.run(), "/mounts/7/options");
    }
    let mut bundle = host.bundle();
    bundle.mount("/data", "proc", "proc", &[]);
    bundle.config["mounts"][7]["uidMappings"] = map(0, 1, 1);
    bundle.config["mounts"][7]["gidMappings"] = map(0, 1, 1);
    fails_at(&bundle.run(), "/mounts/7");
}
