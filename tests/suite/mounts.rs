//! config.md, "Mounts": what is mounted where.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::{Bundle, Host, View};
use crate::support::{entry, fails_at, has_all, mount_at, stat, user_namespace};

/// A directory of the host with a file in it.
fn source(host: &Host) -> PathBuf {
    let path = host.temp.join("source");
    fs::create_dir_all(path.join("sub")).unwrap();
    fs::write(path.join("file"), "content").unwrap();
    path
}

#[test]
fn a_bind_mount_is_one_by_its_options_and_not_by_its_type() {
    let host = Host::new();
    let source = source(&host);
    for kind in ["bind", "none", "tmpfs", ""] {
        for option in ["bind", "rbind"] {
            let mut bundle = host.bundle();
            bundle.mount("/data", kind, &source, &[option]);
            assert_eq!(bundle.args(&["/bin/cat", "/data/file"]).run().ok().stdout, "content", "{kind} {option}");
        }
    }
    let mut bundle = host.bundle();
    let entry = json!({ "destination": "/data", "source": source, "options": ["bind"] });
    bundle.config["mounts"].as_array_mut().unwrap().push(entry);
    assert_eq!(bundle.args(&["/bin/cat", "/data/file"]).run().ok().stdout, "content");
}

#[test]
fn sources_are_relative_to_the_bundle_and_destinations_to_the_root() {
    let host = Host::new();
    let mut bundle = host.bundle();
    fs::create_dir(bundle.path.join("own")).unwrap();
    fs::write(bundle.path.join("own/file"), "relative").unwrap();
    bundle.mount("data/./x/../y", "bind", "own", &["bind"]);
    bundle.mount("/single", "bind", "own/file", &["bind", "ro"]);
    let script = "cat /data/y/file /single; echo x > /single";
    let output = bundle.script(script).run();
    assert_eq!((output.code, output.stdout.as_str()), (1, "relativerelative"), "{output:?}");
    assert!(output.stderr.contains("Read-only file system"));
}

#[test]
fn the_hosts_root_as_a_volume_is_the_hosts() {
    let host = Host::new();
    let file = source(&host).join("file");
    for options in [["rbind", "rslave"], ["rbind", "ro"], ["bind", "ro"]] {
        for root in ["/", "/tmp/.."] {
            let mut bundle = host.bundle();
            bundle.mount("/host", "bind", root, &options);
            let script =
                format!("! test -e /host/bin/probe && {{ test -e /host{} || test $0 = bind; }}", file.display());
            bundle.args(&["/bin/sh", "-c", &script, options[0]]).run().ok();
        }
    }
}

#[test]
fn a_source_is_the_hosts_though_its_path_leads_through_the_root() {
    let host = Host::new();
    let source = source(&host);
    let link = host.temp.join("link");
    symlink(Path::new("../../../../..").join(source.strip_prefix("/").unwrap()), &link).unwrap();
    let mut bundle = host.bundle();
    bundle.mount("/one", "bind", Path::new("/usr/..").join(source.strip_prefix("/").unwrap()), &["rbind"]);
    bundle.mount("/two", "bind", link.join("file"), &["bind"]);
    assert_eq!(bundle.script("cat /one/file /two").run().ok().stdout, "contentcontent");
}

#[test]
fn mounts_are_made_in_the_order_listed() {
    let host = Host::new();
    let source = source(&host);
    let mut bundle = host.bundle();
    bundle.mount("/a", "tmpfs", "one", &[]).mount("/a/b", "bind", &source, &["bind"]).mount(
        "/a/b/sub",
        "tmpfs",
        "x",
        &[],
    );
    bundle.mount("/c", "bind", &source, &["bind"]).mount("/c", "tmpfs", "hides", &[]);
    let report = bundle.probe(&["mounts"]);
    assert_eq!(mount_at(&report, "/a/b").unwrap()["fsType"], mount_at(&report, "/").unwrap()["fsType"]);
    assert_eq!(mount_at(&report, "/a/b/sub").unwrap()["source"], "x");
    assert_eq!(mount_at(&report, "/c").unwrap()["source"], "hides");
    bundle.script("test -e /a/b/file && ! test -e /c/file").run().ok();
}

#[test]
fn mount_points_are_made_through_the_images_own_links() {
    let host = Host::new();
    let source = source(&host);
    let mut bundle = host.bundle();
    symlink("/run", bundle.rootfs.join("var/run")).unwrap();
    bundle.mount("/var/run/secrets/file", "bind", source.join("file"), &["bind"]);
    bundle.mount("/var/run/directory", "bind", &source, &["bind"]);
    assert_eq!(bundle.script("cat /run/secrets/file /run/directory/file").run().ok().stdout, "contentcontent");
    assert!(bundle.rootfs.join("run/secrets/file").is_file());
}

#[test]
fn a_tmpfs_has_the_mode_asked_for_or_that_of_what_it_covers() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for (mode, options, expected) in
        [(0o700, vec![], "0700"), (0o1777, vec![], "1777"), (0o700, vec!["mode=711", "size=1m"], "0711")]
    {
        fs::set_permissions(bundle.rootfs.join("var"), fs::Permissions::from_mode(mode)).unwrap();
        bundle.mount("/var", "tmpfs", "tmpfs", &options);
        assert_eq!(stat(&mut bundle, "/var")["mode"], expected);
    }
    bundle.mount("/new", "tmpfs", "tmpfs", &[]);
    assert_eq!(stat(&mut bundle, "/new")["mode"], "1777");
}

fn fill(directory: &Path) {
    fs::create_dir(directory.join("sub")).unwrap();
    fs::write(directory.join("sub/file"), "copied").unwrap();
    fs::set_permissions(directory.join("sub/file"), fs::Permissions::from_mode(0o4640)).unwrap();
    chown(directory.join("sub"), Some(3), Some(4)).unwrap();
    symlink("/etc/passwd", directory.join("link")).unwrap();
}

#[test]
fn tmpcopyup_copies_what_is_covered() {
    let host = Host::new();
    let mut bundle = host.bundle();
    fill(&bundle.rootfs.join("var"));
    bundle.mount("/var", "tmpfs", "tmpfs", &["tmpcopyup"]);
    let script = "echo more >> /var/sub/file; stat -c '%u %g' /var/sub; stat -c %a /var/sub/file; \
        readlink /var/link; cat /var/sub/file";
    bundle.config["process"]["capabilities"]["effective"] = json!(["CAP_DAC_OVERRIDE", "CAP_FSETID"]);
    for set in ["bounding", "permitted"] {
        bundle.config["process"]["capabilities"][set] = json!(["CAP_DAC_OVERRIDE", "CAP_FSETID"]);
    }
    assert_eq!(bundle.script(script).run().ok().stdout, "3 4\n4640\n/etc/passwd\ncopiedmore\n");
    assert_eq!(fs::read_to_string(bundle.rootfs.join("var/sub/file")).unwrap(), "copied");
    bundle.config["mounts"].as_array_mut().unwrap().pop();
    bundle.mount("/var", "tmpfs", "tmpfs", &["tmpcopyup", "ro"]);
    bundle.script("test -e /var/link || exit 1; touch /var/x").run().fails_with("Read-only file system");
    // What it copies from may be read-only as well, the image or a volume.
    bundle.config["mounts"].as_array_mut().unwrap().pop();
    let volume = bundle.rootfs.join("var");
    bundle.mount("/mnt", "bind", &volume, &["bind", "ro"]);
    bundle.mount("/mnt/sub", "tmpfs", "tmpfs", &["tmpcopyup"]);
    bundle.config["root"]["readonly"] = json!(true);
    let script = "touch /mnt/x /x 2>/dev/null && exit 1; echo more >> /mnt/sub/file; cat /mnt/sub/file";
    assert_eq!(bundle.script(script).run().ok().stdout, "copiedmore\n");
}

#[test]
fn other_file_systems_are_mounted_with_their_own_options() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(bundle.path.join(name)).unwrap();
    }
    fs::write(bundle.path.join("lower/file"), "below").unwrap();
    let at = |name: &str| format!("{name}dir={}", bundle.path.join(name).display());
    let (lower, upper, work) = (at("lower"), at("upper"), at("work"));
    bundle.mount("/over", "overlay", "overlay", &[&lower, &upper, &work]);
    bundle.mount("/queue", "mqueue", "mqueue", &["nosuid"]);
    bundle.mount("/small", "tmpfs", "small", &["size=64k", "nr_inodes=4"]);
    assert_eq!(bundle.script("cat /over/file; echo x > /over/new").run().ok().stdout, "below");
    assert_eq!(fs::read_to_string(bundle.path.join("upper/new")).unwrap(), "x\n");
    let report = bundle.probe(&["mounts"]);
    assert_eq!(mount_at(&report, "/queue").unwrap()["fsType"], "mqueue");
    assert!(has_all(&mount_at(&report, "/small").unwrap()["superOptions"], &["size=64k", "nr_inodes=4"]));
}

#[test]
fn a_remount_changes_what_is_mounted() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.mount("/data", "tmpfs", "tmpfs", &[]).mount("/data", "", "", &["remount", "ro", "noexec"]);
    let report = bundle.probe(&["mounts"]);
    assert!(has_all(&mount_at(&report, "/data").unwrap()["options"], &["ro", "noexec"]));
    bundle.mount("/data", "tmpfs", "", &["remount", "size=1m"]);
    fails_at(&bundle.run(), "/mounts/9");
    let mut bundle = host.bundle();
    bundle.mount("/tmp", "tmpfs", "", &["remount", "ro"]);
    fails_at(&bundle.run(), "/mounts/7");
}

#[test]
fn impossible_mounts_are_refused_with_their_place_in_the_list() {
    let host = Host::new();
    let source = source(&host);
    for (destination, kind, from, options, words) in [
        ("/x", "tmpfs", "tmpfs", vec!["moon"], "Unknown parameter 'moon'"),
        ("/x", "moonfs", "x", vec![], "no file system `moonfs`"),
        ("/x", "none", "x", vec![], "needs a type"),
        ("/x", "bind", "/nowhere", vec!["bind"], "cannot open the source of a bind mount: /nowhere: ENOENT"),
        ("/x", "bind", source.to_str().unwrap(), vec!["bind", "sync"], "`sync` belongs to a file system"),
        ("/etc/passwd", "tmpfs", "tmpfs", vec![], "cannot attach a mount: /etc/passwd"),
        ("/etc/passwd/x", "tmpfs", "tmpfs", vec![], "ENOTDIR"),
        ("/x", "overlay", "overlay", vec!["lowerdir=/nowhere"], "overlay"),
    ] {
        let mut bundle = host.bundle();
        bundle.mount(destination, kind, from, &options);
        let output = bundle.run();
        fails_at(&output, "/mounts/7");
        assert!(output.stderr.contains(words), "{words}: {output:?}");
    }
    let mut bundle = host.bundle();
    bundle.mount("", "tmpfs", "tmpfs", &[]);
    fails_at(&bundle.run(), "/mounts/7/destination");
}

fn sees_only_its_own_cgroup(bundle: &mut Bundle<'_>, read_only: bool) {
    let script = "cd /sys/fs/cgroup; ls -d memory/cgroup.procs cgroup.procs unified/cgroup.procs 2>/dev/null | head -1; \
        grep -q \"^$$\\$\" $(ls -d pids/cgroup.procs cgroup.procs unified/cgroup.procs 2>/dev/null | head -1) && echo in; \
        d=$(ls -d pids . | tail -1); mkdir $d/sub 2>/dev/null && rmdir $d/sub && echo writable; true";
    let seen = bundle.script(script).run().ok().stdout;
    assert!(seen.contains("\nin\n"), "{seen}");
    assert_eq!(seen.contains("writable"), !read_only, "{seen}");
}

#[test]
fn a_cgroup_mount_shows_the_containers_own_cgroup() {
    let host = Host::new();
    // On v2 the whole hierarchy is shown to whom is in the host's cgroup namespace (mount_points.rs).
    let ways: &[bool] = if View::current().is_v2() { &[true] } else { &[true, false] };
    for own in ways {
        for read_only in [true, false] {
            let mut bundle = host.bundle();
            if !own {
                bundle.share("cgroup");
            }
            let options = if read_only { json!(["nosuid", "noexec", "nodev", "ro"]) } else { json!(["rw"]) };
            entry(&mut bundle, "type", "cgroup")["options"] = options;
            sees_only_its_own_cgroup(&mut bundle, read_only);
        }
    }
}

#[test]
fn a_cgroup_mount_works_in_a_user_namespace() {
    let host = Host::new();
    for own in [true, false] {
        let mut bundle = host.bundle();
        user_namespace(&mut bundle, 100_000);
        if own || !View::current().is_v2() {
            if !own {
                bundle.share("cgroup");
            }
            sees_only_its_own_cgroup(&mut bundle, true);
        }
    }
}
