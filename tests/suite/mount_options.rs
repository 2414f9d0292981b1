//! config.md, "Linux mount options": each of them, on new file systems and on trees of bind mounts.

use std::fs;
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use crate::harness::Host;
use crate::support::{give, has_all, mount_at, user_namespace};

/// An option that sets a flag of a mount, one that clears it, and how mountinfo shows it.
const FLAGS: &[(&str, &str, &str)] = &[
    ("ro", "rw", "ro"),
    ("nosuid", "suid", "nosuid"),
    ("nodev", "dev", "nodev"),
    ("noexec", "exec", "noexec"),
    ("noatime", "atime", "noatime"),
    ("noatime", "relatime", "noatime"),
    ("nodiratime", "diratime", "nodiratime"),
    ("nosymfollow", "symfollow", "nosymfollow"),
    ("relatime", "strictatime", "relatime"),
    ("norelatime", "strictatime", "relatime"),
    ("nostrictatime", "strictatime", "relatime"),
];

const NONE: Option<&str> = None;

/// A mount on the host with another below it, gone when dropped.
struct Tree(PathBuf);

impl Tree {
    fn new(host: &Host) -> Self {
        let path = host.temp.join("tree");
        fs::create_dir(&path).unwrap();
        mount(Some("top"), &path, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        mount(NONE, &path, NONE, MsFlags::MS_PRIVATE, NONE).unwrap();
        let sub = path.join("sub");
        fs::create_dir(&sub).unwrap();
        mount(Some("below"), &sub, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        Self(path)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = umount2(&self.0.join("sub"), MntFlags::MNT_DETACH);
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The mounts at /data and /data/sub, for these options on a bind mount of a tree.
fn bound(host: &Host, tree: &Tree, options: &[&str]) -> (Value, Option<Value>) {
    let mut bundle = host.bundle();
    bundle.mount("/data", "bind", &tree.0, options);
    let report = bundle.probe(&["mounts"]);
    (mount_at(&report, "/data").unwrap().clone(), mount_at(&report, "/data/sub").cloned())
}

fn made(host: &Host, options: &[&str]) -> Value {
    let mut bundle = host.bundle();
    bundle.mount("/data", "tmpfs", "tmpfs", options);
    mount_at(&bundle.probe(&["mounts"]), "/data").unwrap().clone()
}

#[test]
fn the_flags_of_new_file_systems_are_set_and_cleared_by_the_later_option() {
    let host = Host::new();
    for (set, clear, shown) in FLAGS {
        assert!(has_all(&made(&host, &[clear, set])["options"], &[shown]), "{set}");
        assert!(!has_all(&made(&host, &[set, clear])["options"], &[shown]), "{clear}");
    }
}

#[test]
fn recursive_options_hold_for_new_file_systems_too() {
    let host = Host::new();
    let options = made(&host, &["rro", "rnosuid", "rnodev", "rnoexec", "rnoatime", "rnosymfollow"])["options"].clone();
    assert!(has_all(&options, &["ro", "nosuid", "nodev", "noexec", "noatime", "nosymfollow"]), "{options}");
}

#[test]
fn the_flags_of_a_bind_mount_are_those_of_its_top_only() {
    let host = Host::new();
    let tree = Tree::new(&host);
    for (set, clear, shown) in FLAGS {
        let (top, below) = bound(&host, &tree, &["rbind", clear, set]);
        assert!(has_all(&top["options"], &[shown]), "{set}: {top}");
        if *shown != "relatime" {
            assert!(!has_all(&below.unwrap()["options"], &[shown]), "{set} below");
        }
        let (top, _) = bound(&host, &tree, &["rbind", set, clear]);
        assert!(!has_all(&top["options"], &[shown]), "{clear}: {top}");
    }
}

#[test]
fn recursive_options_are_those_of_the_whole_tree() {
    let host = Host::new();
    let tree = Tree::new(&host);
    for (set, clear, shown) in FLAGS {
        let (set, clear) = (format!("r{set}"), format!("r{clear}"));
        let (top, below) = bound(&host, &tree, &["rbind", &clear, &set]);
        assert!(has_all(&top["options"], &[shown]), "{set}: {top}");
        assert!(has_all(&below.unwrap()["options"], &[shown]), "{set} below");
        let (top, below) = bound(&host, &tree, &["rbind", &set, &clear]);
        assert!(!has_all(&top["options"], &[shown]), "{clear}: {top}");
        assert!(!has_all(&below.unwrap()["options"], &[shown]), "{clear} below");
    }
}

#[test]
fn flags_of_the_source_are_kept_or_cleared_as_asked() {
    let host = Host::new();
    let tree = Tree::new(&host);
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV | MsFlags::MS_RDONLY;
    mount(NONE, &tree.0, NONE, flags, NONE).unwrap();
    let (top, _) = bound(&host, &tree, &["rbind"]);
    assert!(has_all(&top["options"], &["noexec", "nodev", "ro"]));
    let (top, _) = bound(&host, &tree, &["rbind", "rw", "exec", "nosuid"]);
    assert!(has_all(&top["options"], &["rw", "nodev", "nosuid"]) && !has_all(&top["options"], &["noexec"]), "{top}");
}

#[test]
fn bind_leaves_out_what_rbind_takes_along() {
    let host = Host::new();
    let tree = Tree::new(&host);
    assert!(bound(&host, &tree, &["bind"]).1.is_none());
    assert!(bound(&host, &tree, &["rbind"]).1.is_some());
    assert!(bound(&host, &tree, &["rbind", "bind"]).1.is_some());
}

#[test]
fn flags_of_the_superblock_are_its_own() {
    let host = Host::new();
    for (option, undone) in [("sync", "async"), ("dirsync", ""), ("mand", "nomand"), ("lazytime", "nolazytime")] {
        assert!(has_all(&made(&host, &[option])["superOptions"], &[option]), "{option}");
        if !undone.is_empty() {
            assert!(!has_all(&made(&host, &[option, undone])["superOptions"], &[option]), "{undone}");
        }
    }
    made(&host, &["async", "defaults", "iversion", "loud", "noiversion", "nolazytime", "nomand", "rw", "silent"]);
}

/// Whether a mount is shared, unbindable.
fn propagation(mount: &Value) -> (bool, bool) {
    (!mount["shared"].is_null(), mount["unbindable"] == true)
}

#[test]
fn the_propagation_of_a_tree_is_set() {
    let host = Host::new();
    let tree = Tree::new(&host);
    for (option, top, below) in [
        ("private", (false, false), (false, false)),
        ("rprivate", (false, false), (false, false)),
        ("shared", (true, false), (false, false)),
        ("rshared", (true, false), (true, false)),
        ("slave", (false, false), (false, false)),
        ("rslave", (false, false), (false, false)),
        ("unbindable", (false, true), (false, false)),
        ("runbindable", (false, true), (false, true)),
    ] {
        let (seen_top, seen_below) = bound(&host, &tree, &["rbind", option]);
        assert_eq!(propagation(&seen_top), top, "{option}");
        assert_eq!(propagation(&seen_below.unwrap()), below, "{option} below");
    }
    assert_eq!(propagation(&made(&host, &["shared"])), (true, false));
    assert_eq!(propagation(&made(&host, &["unbindable"])), (false, true));
}

#[test]
fn a_slave_sees_what_the_host_mounts_later_and_a_private_one_does_not() {
    let host = Host::new();
    let tree = Tree::new(&host);
    mount(NONE, &tree.0, NONE, MsFlags::MS_SHARED, NONE).unwrap();
    let later = tree.0.join("later");
    fs::create_dir(&later).unwrap();
    for (option, sees) in [("rslave", true), ("rshared", true), ("rprivate", false), ("bind", false)] {
        let mut bundle = host.bundle();
        bundle.mount("/data", "bind", &tree.0, &["rbind", option]);
        bundle.script("test -e /data/later/file && exit 3; exit 4").create().ok();
        mount(Some("later"), &later, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        fs::write(later.join("file"), "").unwrap();
        let pid = bundle.pid();
        bundle.start().ok();
        assert_eq!(host.reap(pid), if sees { 3 } else { 4 }, "{option}");
        bundle.delete_by_force();
        umount2(&later, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn what_a_container_mounts_in_a_shared_tree_is_not_mounted_on_the_host() {
    let host = Host::new();
    let tree = Tree::new(&host);
    mount(NONE, &tree.0, NONE, MsFlags::MS_REC | MsFlags::MS_SHARED, NONE).unwrap();
    for own_users in [false, true] {
        for option in ["private", "slave", "shared", "rshared", "rslave"] {
            let mut bundle = host.bundle();
            fs::create_dir(bundle.rootfs.join("data")).unwrap();
            bundle.mount("/data", "bind", &tree.0, &["rbind", option]);
            if own_users {
                user_namespace(&mut bundle, 100_000);
            }
            give(&mut bundle, &["CAP_SYS_ADMIN"]);
            bundle.script("for place in /data/sub /data; do busybox mount -t tmpfs inside $place || exit; done");
            bundle.run().ok();
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!table.contains(" inside "), "{option} {own_users}: {table}");
        }
    }
}

#[test]
fn a_file_system_in_a_shared_tree_has_the_propagation_that_it_asks_for() {
    let host = Host::new();
    let tree = Tree::new(&host);
    for (option, expected) in [("rprivate", (false, false)), ("unbindable", (false, true)), ("shared", (true, false))] {
        let mut bundle = host.bundle();
        bundle.mount("/data", "bind", &tree.0, &["rbind", "rshared"]).mount("/data/sub", "tmpfs", "inside", &[option]);
        let report = bundle.probe(&["mounts"]);
        let mount = mount_at(&report, "/data/sub").unwrap();
        assert_eq!((mount["source"].as_str(), propagation(mount)), (Some("inside"), expected), "{option}");
    }
}

#[test]
fn mounts_travel_both_ways_where_the_root_and_the_volume_are_shared() {
    let host = Host::new();
    let tree = Tree::new(&host);
    mount(NONE, &tree.0, NONE, MsFlags::MS_SHARED, NONE).unwrap();
    for place in ["of-host", "of-container"] {
        fs::create_dir(tree.0.join(place)).unwrap();
    }
    let mut bundle = host.bundle();
    bundle.config["linux"]["rootfsPropagation"] = "rshared".into();
    bundle.mount("/data", "bind", &tree.0, &["rbind", "rshared"]);
    give(&mut bundle, &["CAP_SYS_ADMIN"]);
    bundle.script("test -e /data/of-host/file && exec busybox mount -t tmpfs inside /data/of-container");
    bundle.create().ok();
    mount(Some("outside"), &tree.0.join("of-host"), Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
    fs::write(tree.0.join("of-host/file"), "").unwrap();
    let pid = bundle.pid();
    bundle.start().ok();
    assert_eq!(host.reap(pid), 0);
    bundle.delete_by_force();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(table.contains(" inside ") && table.contains(" below "), "{table}");
    for place in ["of-host", "of-container"] {
        umount2(&tree.0.join(place), MntFlags::MNT_DETACH).unwrap();
    }
}
