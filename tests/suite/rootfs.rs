//! config.md, "Root", and what config-linux.md does to it: masked and read-only paths, propagation.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::harness::Host;
use crate::support::{fails_at, give, has_all, mount_at, stat, user_namespace};

#[test]
fn the_root_is_the_rootfs_by_a_relative_or_absolute_path() {
    let host = Host::new();
    let mut bundle = host.bundle();
    fs::write(bundle.rootfs.join("etc/mark"), "here").unwrap();
    symlink("rootfs", bundle.path.join("link")).unwrap();
    for path in ["rootfs", "./rootfs/../rootfs/", "link", bundle.rootfs.clone().to_str().unwrap()] {
        bundle.config["root"]["path"] = json!(path);
        assert_eq!(
            bundle.script("cat /etc/mark; ls -d /../etc/mark").run().ok().stdout,
            "here/../etc/mark\n",
            "{path}"
        );
    }
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for path in ["nowhere", "config.json", ""] {
        bundle.config["root"]["path"] = json!(path);
        fails_at(&bundle.run(), "/root/path");
    }
    bundle.config["root"] = json!(null);
    fails_at(&bundle.run(), "/root");
}

#[test]
fn a_read_only_root_is_so_and_what_is_mounted_in_it_is_not() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.mount("/data", "tmpfs", "tmpfs", &[]);
    let script = "touch /data/x && touch /dev/x && touch /etc/x";
    bundle.script(script).run().fails_with("/etc/x: Read-only file system");
    bundle.writable().run().ok();
    assert!(bundle.rootfs.join("etc/x").exists());
}

#[test]
fn nothing_of_the_host_is_mounted_in_the_container() {
    let host = Host::new();
    for flags in [vec![], vec!["--no-pivot".to_owned()]] {
        let mut bundle = host.bundle();
        bundle.flags = flags;
        let report = bundle.probe(&["mounts", "cwd"]);
        let points: Vec<_> =
            report["mounts"].as_array().unwrap().iter().map(|it| it["mountPoint"].as_str().unwrap()).collect();
        assert!(
            points
                .iter()
                .all(|point| *point == "/" || ["/dev", "/proc", "/sys"].iter().any(|top| point.starts_with(top)))
        );
        let root = mount_at(&report, "/").unwrap();
        assert!(root["root"].as_str().unwrap().ends_with("/rootfs"), "{root}");
        assert_eq!(report["cwd"], "/");
    }
}

#[test]
fn no_root_can_be_left_by_chroot() {
    let host = Host::new();
    for flags in [vec![], vec!["--no-pivot".to_owned()]] {
        for hooks in [json!({}), json!({"createRuntime": [{"path": "/bin/true"}]})] {
            let mut bundle = host.bundle();
            let jail = bundle.rootfs.join("jail/bin");
            fs::create_dir_all(&jail).unwrap();
            fs::copy(bundle.rootfs.join("bin/busybox"), jail.join("sh")).unwrap();
            bundle.flags.clone_from(&flags);
            bundle.config["hooks"] = hooks;
            give(&mut bundle, &["CAP_SYS_CHROOT"]);
            let script = "cd ../../../../../../../../..; test -e ./bin/probe && echo inside";
            bundle.args(&["/bin/busybox", "nsenter", "-r/jail", "-w/", "/bin/sh", "-c", script]);
            assert_eq!(bundle.run().ok().stdout, "inside\n", "{flags:?}");
        }
    }
}

#[test]
fn masked_paths_show_nothing() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.writable();
    fs::write(bundle.rootfs.join("etc/file"), "secret").unwrap();
    fs::create_dir(bundle.rootfs.join("etc/directory")).unwrap();
    fs::write(bundle.rootfs.join("etc/directory/file"), "secret").unwrap();
    symlink("etc/directory", bundle.rootfs.join("link")).unwrap();
    for masked in [json!(["/etc/file", "/link", "/nowhere", "/etc/file/x"]), json!(["/etc/file", "/etc/directory"])] {
        bundle.config["linux"]["maskedPaths"] = masked;
        let output =
            bundle.script("cat /etc/file; ls /etc/directory; echo x > /etc/file || touch /etc/directory/x").run();
        assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{output:?}");
        assert_eq!(output.stderr.matches("Read-only file system").count(), 2, "{output:?}");
    }
    bundle.config["linux"]["maskedPaths"] = json!(["etc"]);
    fails_at(&bundle.run(), "/linux/maskedPaths/0");
}

#[test]
fn read_only_paths_are_so_with_what_is_mounted_below() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.writable();
    bundle.mount("/var/below", "tmpfs", "tmpfs", &["nosuid"]);
    bundle.config["linux"]["readonlyPaths"] = json!(["/var", "/nowhere", "/etc/passwd"]);
    for path in ["/var/x", "/var/below/x", "/etc/passwd"] {
        bundle.args(&["/bin/touch", path]);
        bundle.script(&format!("echo x >> {path}")).run().fails_with("Read-only file system");
    }
    let report = bundle.probe(&["mounts"]);
    assert!(has_all(&mount_at(&report, "/var/below").unwrap()["options"], &["ro", "nosuid"]));
    bundle.config["linux"]["readonlyPaths"] = json!(["/etc", "var"]);
    fails_at(&bundle.run(), "/linux/readonlyPaths/1");
}

#[test]
fn the_default_container_cannot_write_to_procfs() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for path in ["/proc/sys/kernel/domainname", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"] {
        if std::path::Path::new(path).exists() {
            assert!(has_all(&stat(&mut bundle, path)["flags"], &["ro"]), "{path}");
        }
    }
}

/// Whether the root is shared, unbindable; and whether /proc is shared.
fn seen(report: &Value) -> (bool, bool, bool) {
    let (root, proc) = (mount_at(report, "/").unwrap(), mount_at(report, "/proc").unwrap());
    (!root["shared"].is_null(), root["unbindable"] == true, !proc["shared"].is_null())
}

#[test]
fn the_propagation_of_the_root_is_set() {
    let host = Host::new();
    for (value, expected) in [
        ("", (false, false, false)),
        ("private", (false, false, false)),
        ("shared", (true, false, false)),
        ("rshared", (true, false, true)),
        ("slave", (false, false, false)),
        ("unbindable", (false, true, false)),
        ("runbindable", (false, true, false)),
    ] {
        let mut bundle = host.bundle();
        bundle.config["linux"]["rootfsPropagation"] = json!(value);
        assert_eq!(seen(&bundle.probe(&["mounts"])), expected, "{value}");
    }
    let mut bundle = host.bundle();
    bundle.config["linux"]["rootfsPropagation"] = json!("moon");
    fails_at(&bundle.run(), "/linux/rootfsPropagation");
}

#[test]
fn masked_paths_are_hidden_in_a_user_namespace_too() {
    let host = Host::new();
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    fs::create_dir(bundle.rootfs.join("etc/hidden")).unwrap();
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/hidden", "/etc/passwd"]);
    let report = bundle.probe(&["mounts"]);
    for path in ["/etc/hidden", "/etc/passwd"] {
        assert_eq!(mount_at(&report, path).unwrap()["fsType"], "tmpfs");
    }
}
