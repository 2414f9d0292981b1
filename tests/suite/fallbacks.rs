//! Older kernels: with system calls missing, containers still run, and with everything that config.json asks for.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Bundle, Host, is_alive, program, wait_until};
use crate::support::{entry, has_all, mount_at};

/// Calls that came with Linux 5.2 to 6.x, by what they do; and as filters of engines older than they are refuse them.
const MISSING: [&str; 12] = [
    "openat2",
    "open_tree,move_mount,fsopen,fsconfig,fsmount,fspick,mount_setattr",
    "mount_setattr",
    "clone3",
    "pidfd_open,pidfd_send_signal,pidfd_getfd",
    "close_range",
    "execveat",
    "mremap",
    "openat2,open_tree,move_mount,fsopen,fsconfig,fsmount,fspick,mount_setattr,clone3,pidfd_open,pidfd_send_signal,\
     pidfd_getfd,close_range,execveat,faccessat2,statx,memfd_secret",
    "open_tree=EPERM,move_mount=EPERM,fsopen=EPERM,fsconfig=EPERM,fsmount=EPERM,fspick=EPERM,mount_setattr=EPERM",
    "mount_setattr=EPERM",
    "openat2=EPERM,open_tree=EPERM,move_mount=EPERM,fsopen=EPERM,fsconfig=EPERM,fsmount=EPERM,fspick=EPERM,\
     mount_setattr=EPERM,clone3=EPERM,pidfd_open=EPERM,pidfd_send_signal=EPERM,pidfd_getfd=EPERM,close_range=EPERM,\
     execveat=EPERM,faccessat2=EPERM,statx=EPERM",
];

/// Nothing missing; the calls of Linux 5.2; those of Linux 5.12.
pub const OF_MOUNTS: [&str; 3] = ["", MISSING[1], MISSING[2]];

/// Calls without these, if any.
pub fn without(bundle: &mut Bundle, calls: &str) {
    let wrapper = || vec![program("without").into(), calls.into(), "--".into()];
    bundle.wrapper = if calls.is_empty() { Vec::new() } else { wrapper() };
}

/// A bundle with something of everything that is made by mounting.
fn with_everything(host: &Host) -> Bundle<'_> {
    let mut bundle = host.bundle();
    let volume = host.temp.join("volume");
    fs::create_dir_all(volume.join("below")).unwrap();
    fs::write(volume.join("file"), "of the host").unwrap();
    bundle
        .mount("/volume", "bind", &volume, &["rbind", "ro", "nosuid", "nodev"])
        .mount("/file", "bind", volume.join("file"), &["bind"])
        .mount("/run", "tmpfs", "tmpfs", &["nosuid", "size=64k", "mode=700"]);
    bundle.config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/acpi", "/sys/firmware", "/proc/keys"]);
    bundle.config["linux"]["devices"] = json!([{"path": "/dev/own", "type": "c", "major": 1, "minor": 7}]);
    bundle
}

#[test]
fn procfs_is_bound_where_it_is_bound_already() {
    let host = Host::new();
    for calls in OF_MOUNTS {
        let mut bundle = host.bundle();
        without(&mut bundle, calls);
        bundle.share("pid");
        *entry(&mut bundle, "destination", "/proc") =
            json!({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]});
        bundle.mount("/host/proc", "bind", "/proc", &["rbind"]);
        bundle.args(&["/bin/cat", "/host/proc/version"]).run().ok();
    }
}

/// Compares what a container has with what it should.
#[track_caller]
fn check(bundle: &mut Bundle, what: &str) {
    let report = bundle.probe(&["mounts", "fds", "caps", "cwd"]);
    let mount = |point: &str| mount_at(&report, point).unwrap_or_else(|| panic!("{what}: no mount at {point}"));
    assert!(has_all(&mount("/")["options"], &["ro"]), "{what}: {}", mount("/"));
    assert!(has_all(&mount("/volume")["options"], &["ro", "nosuid", "nodev"]), "{what}: {}", mount("/volume"));
    assert!(has_all(&mount("/file")["options"], &["rw"]), "{what}: {}", mount("/file"));
    assert!(has_all(&mount("/run")["options"], &["rw", "nosuid"]), "{what}: {}", mount("/run"));
    assert!(has_all(&mount("/run")["superOptions"], &["size=64k", "mode=700"]), "{what}: {}", mount("/run"));
    assert!(has_all(&mount("/proc/sys")["options"], &["ro"]), "{what}: {}", mount("/proc/sys"));
    assert!(has_all(&mount("/sys")["options"], &["ro"]), "{what}: {}", mount("/sys"));
    let fds: Vec<_> = report["fds"].as_object().unwrap().keys().collect();
    assert_eq!(fds, ["0", "1", "2"], "{what}");
    let points: Vec<_> = report["mounts"].as_array().unwrap().iter().map(|mount| &mount["mountPoint"]).collect();
    assert!(points.iter().all(|point| !point.as_str().unwrap().contains("/tmp/kt-")), "{what}: {points:?}");
    masks_and_devices(bundle, what);
}

#[track_caller]
fn masks_and_devices(bundle: &mut Bundle, what: &str) {
    let script = "head -c 1 /proc/kcore | wc -c; ls /sys/firmware | wc -l; cat /proc/keys | wc -c; \
        for file in /volume/x /x /proc/sys/kernel/domainname; do touch $file 2>/dev/null && echo written; done; \
        echo 1 2>/dev/null > /proc/sys/vm/drop_caches && echo written; cat /file; echo; \
        exec /bin/probe stat /dev/null /dev/own /dev/full /dev/ptmx /dev/fd";
    let output = bundle.script(script).run().ok();
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_eq!(lines[..4], ["0", "0", "0", "of the host"], "{what}: {output:?}");
    let stat: Value = serde_json::from_str(lines[4]).unwrap();
    for (path, kind, rdev) in [("/dev/null", "char", "1:3"), ("/dev/own", "char", "1:7"), ("/dev/full", "char", "1:7")]
    {
        assert_eq!((&stat[path]["type"], &stat[path]["rdev"]), (&json!(kind), &json!(rdev)), "{what}: {path}");
    }
    assert_eq!(
        (&stat["/dev/ptmx"]["target"], &stat["/dev/fd"]["target"]),
        (&json!("pts/ptmx"), &json!("/proc/self/fd"))
    );
}

#[test]
fn on_this_kernel_everything_is_as_it_should_be() {
    let host = Host::new();
    check(&mut with_everything(&host), "this kernel");
}

/// From Linux 7.1 on, a rootfs that no hook looks at is put together detached, for an empty mount namespace.
#[test]
fn the_mounts_are_the_same_with_hooks_and_without() {
    let host = Host::new();
    let mut bundle = with_everything(&host);
    let mut seen = || {
        let mut mounts = bundle.probe(&["mounts"])["mounts"].as_array().unwrap().clone();
        for mount in &mut mounts {
            // What differs between any two containers.
            mount.as_object_mut().unwrap().retain(|field, _| !matches!(&**field, "id" | "parent" | "device"));
        }
        bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]});
        mounts
    };
    let without = seen();
    assert!(without.len() > 10);
    assert_eq!(without, seen());
}

#[test]
fn on_older_kernels_everything_is_as_it_should_be() {
    let host = Host::new();
    for calls in MISSING {
        let mut bundle = with_everything(&host);
        without(&mut bundle, calls);
        check(&mut bundle, calls);
    }
}

#[test]
fn on_older_kernels_containers_go_through_their_lives() {
    let host = Host::new();
    for calls in MISSING {
        let mut bundle = host.bundle();
        without(&mut bundle, calls);
        bundle.args(&["/bin/sleep", "100"]);
        bundle.config["hooks"] =
            json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "0.01"], "timeout": 5}]});
        let without = [program("without").into_os_string(), calls.into(), "--".into()];
        let verb = |words: &[&str]| host.call(words).before(&without).run().ok();
        bundle.create().ok();
        verb(&["start", &bundle.id]);
        let pid = bundle.pid();
        assert_eq!(verb(&["state", &bundle.id]).json()["status"], "running", "{calls}");
        verb(&["kill", &bundle.id, "KILL"]);
        assert_eq!(host.reap(pid), -9, "{calls}");
        verb(&["delete", &bundle.id]);
        bundle.create().ok();
        let pid = bundle.pid();
        verb(&["delete", "--force", &bundle.id]);
        wait_until(calls, || !is_alive(pid));
    }
}

#[test]
fn on_older_kernels_user_namespaces_work() {
    let host = Host::new();
    for calls in MISSING {
        let mut bundle = host.bundle();
        crate::support::user_namespace(&mut bundle, 100_000);
        without(&mut bundle, calls);
        let report = bundle.probe(&["uid", "groups"]);
        assert_eq!(report["uid"]["effective"].as_u64().or(report["uid"].as_u64()), Some(0), "{calls}: {report}");
    }
}

#[test]
fn what_an_older_kernel_cannot_do_is_an_error_and_not_left_out() {
    let host = Host::new();
    let mut bundle = host.bundle();
    without(&mut bundle, "mount_setattr,open_tree");
    let volume = host.temp.join("volume");
    fs::create_dir(&volume).unwrap();
    let good = bundle.config.clone();
    for option in ["rro", "rnosuid", "idmap", "rnoexec"] {
        bundle.config = good.clone();
        bundle.mount("/volume", "bind", &volume, &["rbind", option]);
        if option == "idmap" {
            let mount = bundle.config["mounts"].as_array_mut().unwrap().last_mut().unwrap();
            mount["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
            mount["gidMappings"] = mount["uidMappings"].clone();
        }
        let output = bundle.run();
        assert_eq!(output.code, 1, "{option}: {output:?}");
        assert!(output.stderr.contains("/mounts/7"), "{option}: {output:?}");
    }
}
