//! What is at the places of mounts, above and below them, and which places are none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::fallbacks::{OF_MOUNTS, without};
use crate::harness::{Host, skip};
use crate::support::{Canary, entry, fails_at, has_all, mount_at, user_namespace};

#[test]
fn a_read_only_tmpfs_gets_what_belongs_into_it() {
    let host = Host::new();
    for calls in OF_MOUNTS {
        let mut bundle = host.bundle();
        without(&mut bundle, calls);
        fs::create_dir(bundle.rootfs.join("copied")).unwrap();
        fs::write(bundle.rootfs.join("copied/file"), "of the image").unwrap();
        entry(&mut bundle, "destination", "/dev")["options"] = json!(["nosuid", "ro", "mode=755"]);
        let probe = bundle.rootfs.join("bin/probe");
        bundle
            .mount("/empty", "tmpfs", "tmpfs", &["ro"])
            .mount("/empty/below", "tmpfs", "tmpfs", &[])
            .mount("/empty/probe", "bind", &probe, &["bind"])
            .mount("/copied", "tmpfs", "/of/this/name", &["noexec", "ro", "tmpcopyup"]);
        let report = bundle.probe(&["mounts"]);
        for (path, options) in [
            ("/dev", &["ro", "nosuid"][..]),
            ("/empty", &["ro"]),
            ("/empty/below", &["rw"]),
            ("/copied", &["ro", "noexec"]),
        ] {
            let mount = mount_at(&report, path).unwrap();
            assert!(has_all(&mount["options"], options), "{calls}: {mount}");
        }
        let script = "test -c /dev/null && test -L /dev/fd && test -e /empty/probe && cat /copied/file && \
            touch /empty/below/x && ! touch /dev/x 2>/dev/null && ! touch /copied/x 2>/dev/null && ! touch /empty/x";
        let output = bundle.script(script).run().ok();
        assert_eq!(output.stdout, "of the image", "{calls}");
    }
}

#[test]
fn the_options_of_a_file_system_may_be_long_and_several_in_one() {
    let host = Host::new();
    let mut layers = String::new();
    for number in 0..12 {
        let layer = host.temp.join(format!("layer-{number}-{}", "x".repeat(40)));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join(format!("file-{number}")), "").unwrap();
        layers += &format!("{}{}", if number == 0 { "lowerdir=" } else { ":" }, layer.display());
    }
    let mut bundle = host.bundle();
    bundle.mount("/layers", "overlay", "overlay", &["ro", &layers]).mount(
        "/small",
        "tmpfs",
        "tmpfs",
        &["size=64k,mode=700", "nosuid"],
    );
    let report = bundle.probe(&["mounts"]);
    let small = mount_at(&report, "/small").unwrap();
    assert!(has_all(&small["superOptions"], &["size=64k", "mode=700"]), "{small}");
    let output = bundle.args(&["/bin/probe", "stat", "/layers/file-0", "/layers/file-11"]).run().ok();
    let files: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&files["/layers/file-0"]["type"], &files["/layers/file-11"]["type"]), (&json!("file"), &json!("file")));

    let many = format!("lowerdir={}", vec!["/x"; 2000].join(":"));
    let mut bundle = host.bundle();
    let output = bundle.mount("/layers", "overlay", "overlay", &[&many]).run();
    fails_at(&output, "/mounts/7");
    assert!(output.stderr.contains("more than 4095 bytes"), "{output:?}");
}

#[test]
fn links_of_sysfs_are_followed_within_it() {
    let host = Host::new();
    let file = host.temp.join("file");
    fs::write(&file, "02:00:00:00:00:01").unwrap();
    for calls in OF_MOUNTS {
        let mut bundle = host.bundle();
        without(&mut bundle, calls);
        bundle.mount("/sys/class/net/lo/address", "bind", &file, &["bind", "ro"]);
        let output = bundle.args(&["/bin/cat", "/sys/devices/virtual/net/lo/address"]).run().ok();
        assert_eq!(output.stdout, "02:00:00:00:00:01", "{calls}");
    }
}

#[test]
fn a_link_of_the_image_leads_no_mount_into_proc() {
    let host = Host::new();
    let file = host.temp.join("file");
    fs::write(&file, "of the host").unwrap();
    for target in ["/proc/mounts", "../proc/sys/kernel/hostname", "/proc/1/attr"] {
        let mut bundle = host.bundle();
        fs::create_dir_all(bundle.rootfs.join("etc")).unwrap();
        symlink(target, bundle.rootfs.join("etc/link")).unwrap();
        let source = if target.ends_with("attr") { host.temp.as_path() } else { &file };
        let output = bundle.mount("/etc/link", "bind", source, &["bind"]).run();
        fails_at(&output, "/mounts/7");
        assert!(output.stderr.contains("nothing may be mounted inside /proc but a few files"), "{target}: {output:?}");
    }
    // A procfs that is not the container's own is a directory like others.
    let mut bundle = host.bundle();
    bundle.mount("/host", "bind", "/proc", &["rbind", "ro"]).mount("/host/version", "bind", &file, &["bind"]);
    assert_eq!(bundle.args(&["/bin/cat", "/host/version"]).run().ok().stdout, "of the host");
}

#[test]
fn a_source_that_is_a_link_can_be_copied() {
    let host = Host::new();
    let (file, link) = (host.temp.join("file"), host.temp.join("link"));
    fs::write(&file, "of the host").unwrap();
    symlink("../etc/target", &link).unwrap();
    for users in [false, true] {
        let mut bundle = host.bundle();
        if users {
            user_namespace(&mut bundle, 100_000);
            fs::create_dir(bundle.rootfs.join("own")).unwrap();
            bundle.mount("/own", "tmpfs", "tmpfs", &[]);
        }
        bundle
            .mount("/own/link", "bind", &link, &["bind", "copy-symlink", "ro"])
            .mount("/own/link", "bind", &link, &["rbind", "copy-symlink"])
            .mount("/own/file", "bind", &file, &["bind", "copy-symlink"]);
        let output = bundle.script("readlink /own/link; cat /own/file").run().ok();
        assert_eq!(output.stdout, "../etc/target\nof the host", "{users}");
    }
    let mut bundle = host.bundle();
    let output = bundle.mount("/bin/probe", "bind", &link, &["bind", "copy-symlink"]).run();
    fails_at(&output, "/mounts/7");
    assert!(output.stderr.contains("cannot copy a symbolic link to: /bin/probe: EEXIST"), "{output:?}");
}

#[test]
fn the_root_is_no_place_for_a_mount_but_can_be_remounted() {
    let host = Host::new();
    for destination in ["/", ".", "/x/.."] {
        let mut bundle = host.bundle();
        let output = bundle.mount(destination, "tmpfs", "tmpfs", &[]).run();
        fails_at(&output, "/mounts/7/destination");
        assert!(output.stderr.contains("would hide the rootfs"), "{output:?}");
    }
    let mut bundle = host.bundle();
    bundle.mount("/", "none", "none", &["remount", "nosuid"]);
    assert!(has_all(&mount_at(&bundle.probe(&["mounts"]), "/").unwrap()["options"], &["nosuid"]));
}

#[test]
fn without_a_cgroup_namespace_a_cgroup_v2_mount_shows_what_the_kernels_paths_name() {
    let host = Host::new();
    if !Path::new("/sys/fs/cgroup/cgroup.procs").exists() && !Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists()
    {
        return skip("there is no cgroup v2 here");
    }
    for users in [false, true] {
        let mut bundle = host.bundle();
        bundle.share("cgroup");
        if users {
            user_namespace(&mut bundle, 100_000);
        }
        entry(&mut bundle, "type", "cgroup")["type"] = json!("cgroup2");
        let script = "path=/sys/fs/cgroup$(grep ^0:: /proc/self/cgroup | cut -c4-); grep -x $$ $path/cgroup.procs; \
            ! mkdir $path/x 2>/dev/null";
        bundle.script(script).run().ok();
    }
}

#[test]
fn links_of_a_bound_dev_are_followed_within_the_root() {
    let host = Host::new();
    let canary = Canary::new(&host);
    for calls in OF_MOUNTS {
        let mut bundle = host.bundle();
        without(&mut bundle, calls);
        let dev = host.temp.join(format!("dev-{}", calls.len()));
        fs::create_dir(&dev).unwrap();
        symlink("/run/journal/log", dev.join("log")).unwrap();
        symlink(&canary.path, dev.join("out")).unwrap();
        fs::write(host.temp.join("log"), "the log's").unwrap();
        bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] == "/proc");
        bundle
            .mount("/dev", "bind", &dev, &["rbind"])
            .mount("/dev/log", "bind", host.temp.join("log"), &["bind"])
            .mount("/dev/out", "bind", &host.temp, &["bind"]);
        let output = bundle.script("cat /run/journal/log; cat /dev/log").run().ok();
        assert_eq!(output.stdout, "the log'sthe log's", "{calls}");
        canary.is_untouched();
    }
}
