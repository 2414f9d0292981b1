//! config-linux.md, "Devices" and "Default Devices".

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};

use crate::harness::{Bundle, Host};
use crate::support::{fails_at, stat, user_namespace};

/// A bundle whose /dev is the image's own.
fn with_plain_dev(host: &Host) -> Bundle<'_> {
    let mut bundle = host.bundle();
    let list = bundle.config["mounts"].as_array_mut().unwrap();
    list.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    bundle.writable();
    bundle
}

#[test]
fn the_default_devices_and_links_are_there() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for (path, rdev) in [
        ("/dev/null", "1:3"),
        ("/dev/zero", "1:5"),
        ("/dev/full", "1:7"),
        ("/dev/random", "1:8"),
        ("/dev/urandom", "1:9"),
        ("/dev/tty", "5:0"),
    ] {
        let seen = stat(&mut bundle, path);
        assert_eq!(
            (&seen["type"], &seen["rdev"], &seen["mode"]),
            (&json!("char"), &json!(rdev), &json!("0666")),
            "{path}"
        );
    }
    for (path, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ] {
        assert_eq!(stat(&mut bundle, path)["target"], target, "{path}");
    }
    assert_eq!(stat(&mut bundle, "/dev/console")["error"], "ENOENT");
}

#[test]
fn the_hosts_terminals_as_a_device_are_the_containers_own() {
    let host = Host::new();
    for users in [false, true] {
        let mut bundle = host.bundle();
        bundle.config["linux"]["devices"] = json!([{ "path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2 }]);
        if users {
            user_namespace(&mut bundle, 100_000);
        }
        assert_eq!(stat(&mut bundle, "/dev/ptmx")["target"], "pts/ptmx", "{users}");
    }
}

#[test]
fn a_number_that_the_kernel_would_cut_is_refused() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let device = |kind: &str, major: i64, minor: i64| json!([{ "path": "/dev/x", "type": kind, "major": major, "minor": minor }]);
    for (major, minor, field) in [(4097, 3, "major"), (1, (1 << 20) + 3, "minor"), (1 << 32, 3, "major")] {
        bundle.config["linux"]["devices"] = device("c", major, minor);
        fails_at(&bundle.run(), &format!("/linux/devices/0/{field}"));
    }
    bundle.config["linux"]["devices"] = device("p", 4097, -1);
    assert_eq!(stat(&mut bundle, "/dev/x")["type"], "fifo");
}

#[test]
fn devices_have_the_type_mode_and_owner_asked_for() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let asked = |kind: &str, path: &str| json!({ "path": path, "type": kind, "major": 7, "minor": 9, "fileMode": 0o6640, "uid": 3, "gid": 4 });
    bundle.config["linux"]["devices"] = json!([
        asked("c", "/dev/sub/c"),
        asked("b", "/dev/b"),
        asked("u", "/dev/u"),
        asked("p", "/dev/p"),
        asked("c", "/elsewhere/c")
    ]);
    for (path, kind, rdev) in [
        ("/dev/sub/c", "char", "7:9"),
        ("/dev/b", "block", "7:9"),
        ("/dev/u", "char", "7:9"),
        ("/dev/p", "fifo", "0:0"),
        ("/elsewhere/c", "char", "7:9"),
    ] {
        let seen = stat(&mut bundle, path);
        assert_eq!(
            (&seen["type"], &seen["rdev"], &seen["mode"]),
            (&json!(kind), &json!(rdev), &json!("6640")),
            "{path}"
        );
        assert_eq!((&seen["uid"], &seen["gid"]), (&json!(3), &json!(4)), "{path}");
        // The caller's umask does not matter.
        bundle.wrapper = ["sh", "-c", "umask 077; exec \"$@\"", "sh"].map(Into::into).to_vec();
    }
    let _ = fs::remove_file(bundle.rootfs.join("elsewhere/c"));
}

#[test]
fn a_default_device_can_be_given_anew() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["devices"] =
        json!([{ "path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600 }]);
    assert_eq!(stat(&mut bundle, "/dev/null")["mode"], "0600");
}

#[test]
fn what_is_there_already_has_to_be_the_same_device() {
    let host = Host::new();
    let null = |kind, device| {
        move |bundle: &Bundle<'_>| mknod(&bundle.rootfs.join("dev/null"), kind, Mode::S_IRWXU, device).unwrap()
    };
    let matching = null(SFlag::S_IFCHR, makedev(1, 3));
    let bundle = with_plain_dev(&host);
    matching(&bundle);
    bundle.run().ok();
    let others: [&dyn Fn(&Bundle<'_>); 4] = [
        &null(SFlag::S_IFCHR, makedev(1, 5)),
        &null(SFlag::S_IFBLK, makedev(1, 3)),
        &|bundle| fs::write(bundle.rootfs.join("dev/null"), "").unwrap(),
        &|bundle| symlink("/dev/zero", bundle.rootfs.join("dev/null")).unwrap(),
    ];
    for make in others {
        let bundle = with_plain_dev(&host);
        make(&bundle);
        bundle.run().fails_with("another file is where a device belongs: /dev/null");
    }
}

#[test]
fn impossible_devices_are_refused_where_they_stand() {
    let host = Host::new();
    let device = |path: &str, kind: &str, major: i64| json!({ "path": path, "type": kind, "major": major, "minor": 3 });
    let cases: &[(Value, &str)] = &[
        (device("/dev/x", "z", 1), "/linux/devices/1/type"),
        (device("/dev/x", "", 1), "/linux/devices/1/type"),
        (device("dev/x", "c", 1), "/linux/devices/1/path"),
        (device("", "c", 1), "/linux/devices/1/path"),
        (device("/", "c", 1), "/linux/devices/1/path"),
        (device("/dev/x", "c", -1), "/linux/devices/1/major"),
        (device("/dev/first", "b", 1), "/linux/devices/1"),
        (device("/etc/passwd", "c", 1), "/linux/devices/1"),
        (device("/etc/passwd/x", "c", 1), "/linux/devices/1"),
    ];
    for (wrong, pointer) in cases {
        let mut bundle = host.bundle();
        bundle.config["linux"]["devices"] = json!([device("/dev/first", "c", 1), wrong]);
        fails_at(&bundle.run(), pointer);
    }
}

#[test]
fn the_hosts_dev_is_left_alone_when_it_is_mounted() {
    let host = Host::new();
    let dev = host.temp.join("host-dev");
    fs::create_dir(&dev).unwrap();
    mknod(&dev.join("null"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).unwrap();
    let mut bundle = with_plain_dev(&host);
    bundle.mount("/dev", "bind", &dev, &["rbind"]);
    bundle.run().ok();
    assert_eq!(fs::read_dir(&dev).unwrap().count(), 1);
}
