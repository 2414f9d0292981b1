//! `checkpoint` and `restore`, where there is a criu that works on this kernel.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::{Bundle, Host, Output, is_alive, skip, wait_until};
use crate::support::namespace;
use crate::terminal::accept;

/// Whether criu can be used; says that the test is skipped if not.
fn has_criu(host: &Host) -> bool {
    let works = ["/usr/local/sbin/criu", "/usr/sbin/criu"].iter().any(|path| PathBuf::from(path).exists())
        && host.command(["criu", "check"]).run().code == 0;
    if !works {
        skip("there is no criu that works with this kernel");
    }
    works
}

/// A container that counts, in a file on a tmpfs of its own, and holds no file of the host's.
fn counter(host: &Host) -> Bundle<'_> {
    let mut bundle = host.bundle();
    bundle.mount("/count", "tmpfs", "tmpfs", &["nosuid"]);
    bundle.script(
        "exec </dev/null >/dev/null 2>&1; i=0; while sleep 0.3; do i=$((i+1)); echo $i >/count/n; [ ! -e /count/end ] || exit 7; done",
    );
    bundle
}

fn count(bundle: &Bundle) -> u64 {
    let text = bundle.exec(&[], &["/bin/cat", "/count/n"]).run().stdout;
    text.trim().parse().unwrap_or_default()
}

fn images(host: &Host) -> String {
    host.temp.join("images").display().to_string()
}

fn checkpoint(bundle: &Bundle, host: &Host, flags: &[&str]) -> Output {
    let images = images(host);
    let words = ["checkpoint", "--image-path", &images].into_iter().chain(flags.iter().copied()).chain([&*bundle.id]);
    host.kelson(words)
}

fn restore(bundle: &Bundle, host: &Host, flags: &[&str]) -> Output {
    let images = images(host);
    bundle.making("restore", &[&["--image-path", &images], flags].concat()).run()
}

/// Lets what is run in a container mount.
fn may_mount(bundle: &mut Bundle) {
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
    }
}

/// What a tool prints in a container, where it has to work.
#[track_caller]
fn busybox(bundle: &Bundle, words: &[&str]) -> String {
    bundle.exec(&[], &[&["/bin/busybox"], words].concat()).run().ok().stdout
}

#[test]
fn a_container_goes_on_where_it_was_checkpointed() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let mut bundle = counter(&host);
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    let is_limited = controllers.map_or(true, |controllers| controllers.contains("pids"));
    if is_limited {
        bundle.config["linux"]["resources"] = json!({ "pids": { "limit": 42 } });
    }
    bundle.up();
    wait_until("it counts", || count(&bundle) > 3);
    let before = count(&bundle);
    let old = bundle.pid();
    checkpoint(&bundle, &host, &[]).ok();
    host.kelson(["state", &bundle.id]).fails_with("does not exist");
    host.reap(old);
    assert_eq!(host.wait_for_no_differences(), Vec::<String>::new());

    let pid_file = host.temp.join("pid");
    restore(&bundle, &host, &["--detach", "--pid-file", pid_file.to_str().unwrap()]).ok();
    assert_eq!(bundle.status(), "running");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), bundle.pid().to_string());
    wait_until("it goes on counting", || count(&bundle) > before + 3);
    assert!(count(&bundle) < before + 2000, "it did not begin anew");
    let cgroup = bundle.cgroup("pids");
    assert!(!is_limited || fs::read_to_string(cgroup.join("pids.max")).unwrap() == "42\n");
    assert!(fs::read_to_string(cgroup.join("cgroup.procs")).unwrap().contains(&bundle.pid().to_string()));
    // And once more.
    checkpoint(&bundle, &host, &[]).ok();
    restore(&bundle, &host, &["--detach"]).ok();
    bundle.delete_by_force();
}

#[test]
fn a_restore_in_the_foreground_waits_for_the_end() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let mut bundle = counter(&host);
    let outside = host.temp.join("outside");
    fs::create_dir_all(&outside).unwrap();
    bundle.mount("/outside", "bind", &outside, &["bind"]);
    bundle.script("exec </dev/null >/dev/null 2>&1; until [ -e /outside/end ]; do sleep 0.05; done; exit 7");
    bundle.up();
    let pid = bundle.pid();
    checkpoint(&bundle, &host, &[]).ok();
    host.reap(pid);
    fs::write(outside.join("end"), "").unwrap();
    assert_eq!(restore(&bundle, &host, &[]).code, 7);
    host.kelson(["state", &bundle.id]).fails_with("does not exist");
}

#[test]
fn it_may_be_left_running_and_its_memory_written_before() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let bundle = counter(&host);
    bundle.up();
    let pid = bundle.pid();
    let before = host.temp.join("before").display().to_string();
    let tracks = host.kelson(["checkpoint", "--pre-dump", "--image-path", &before, &bundle.id]);
    assert!(is_alive(pid));
    if tracks.code == 0 {
        checkpoint(&bundle, &host, &["--parent-path", "../before", "--leave-running"]).ok();
        assert!(host.temp.join("images/parent").exists());
    } else {
        // A kernel that does not keep track of what is written to.
        assert!(tracks.stderr.contains("criu could not checkpoint"), "{tracks:?}");
        checkpoint(&bundle, &host, &["--leave-running"]).ok();
    }
    assert_eq!((bundle.status().as_str(), bundle.pid()), ("running", pid));
    checkpoint(&bundle, &host, &["--parent-path", "/before"]).fails_with("--parent-path");
    checkpoint(&bundle, &host, &["--parent-path", "nowhere"]).fails_with("--parent-path");
    bundle.delete_by_force();
}

#[test]
fn what_is_the_hosts_is_bound_again() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let mut bundle = counter(&host);
    let (one, two) = (host.temp.join("one"), host.temp.join("two"));
    for (directory, text) in [(&one, "1"), (&two, "2")] {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("file"), text).unwrap();
    }
    bundle.mount("/one", "bind", &one, &["rbind", "ro"]);
    bundle.mount("/one/nested", "bind", &two, &["bind"]);
    bundle.mount("/count/file", "bind", two.join("file"), &["bind"]);
    fs::create_dir_all(one.join("nested")).unwrap();
    bundle.up();
    checkpoint(&bundle, &host, &[]).ok();
    fs::remove_dir_all(bundle.rootfs.join("one")).unwrap();
    fs::write(two.join("file"), "changed").unwrap();
    restore(&bundle, &host, &["--detach"]).ok();
    let cat = |path: &str| bundle.exec(&[], &["/bin/cat", path]).run().ok().stdout;
    assert_eq!(
        (cat("/one/file"), cat("/one/nested/file"), cat("/count/file")),
        ("1".into(), "changed".into(), "changed".into())
    );
    bundle.exec(&[], &["/bin/sh", "-c", "echo x >/one/file"]).run().fails_with("Read-only file system");
    bundle.delete_by_force();
}

#[test]
fn a_bind_of_the_rootfs_itself_is_made_again() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let mut bundle = counter(&host);
    let outside = host.temp.join("outside");
    for directory in
        [&bundle.rootfs.join("a"), &bundle.rootfs.join("b"), &bundle.rootfs.join("c"), &outside.join("sub")]
    {
        fs::create_dir_all(directory).unwrap();
    }
    fs::write(bundle.rootfs.join("a/file"), "of the rootfs").unwrap();
    fs::write(outside.join("sub/file"), "of the host").unwrap();
    bundle.mount("/outside", "bind", &outside, &["bind"]);
    bundle.writable();
    bundle.config["linux"]["readonlyPaths"].as_array_mut().unwrap().push(json!("/etc"));
    may_mount(&mut bundle);
    bundle.up();
    busybox(&bundle, &["mount", "-o", "bind", "/a", "/b"]);
    busybox(&bundle, &["mount", "-o", "bind", "/outside/sub", "/c"]);
    busybox(&bundle, &["mount", "-t", "tmpfs", "tmpfs", "/outside/sub"]);
    busybox(&bundle, &["touch", "/outside/sub/kept"]);
    checkpoint(&bundle, &host, &[]).ok();
    restore(&bundle, &host, &["--detach"]).ok();
    assert_eq!(busybox(&bundle, &["cat", "/b/file", "/c/file"]), "of the rootfsof the host");
    busybox(&bundle, &["test", "-e", "/outside/sub/kept"]);
    bundle.exec(&[], &["/bin/sh", "-c", "echo x >/etc/x"]).run().fails_with("Read-only file system");
    bundle.delete_by_force();
}

#[test]
fn what_could_not_be_mounted_again_is_refused_and_the_container_goes_on() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let mut bundle = counter(&host);
    bundle.mount("/outside", "bind", host.temp.join("outside"), &["bind"]);
    fs::create_dir_all(host.temp.join("outside")).unwrap();
    may_mount(&mut bundle);
    bundle.up();
    let pid = bundle.pid();
    for (kind, place, why) in
        [("tmpfs", "/outside", "mounted over a mount of the host's"), ("ramfs", "/tmp", "unsupported")]
    {
        busybox(&bundle, &["mount", "-t", kind, "none", place]);
        let output = checkpoint(&bundle, &host, &[]).fails_with(why);
        assert!(output.stderr.contains(place), "{output:?}");
        let before = count(&bundle);
        wait_until("it goes on counting", || count(&bundle) > before);
        assert_eq!(bundle.pid(), pid);
        busybox(&bundle, &["umount", place]);
    }
    checkpoint(&bundle, &host, &[]).ok();
    restore(&bundle, &host, &["--detach"]).ok();
    bundle.delete_by_force();
}

#[test]
fn masks_are_found_where_links_lead_to() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let mut bundle = counter(&host);
    std::os::unix::fs::symlink("etc", bundle.rootfs.join("link")).unwrap();
    bundle.config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/link/passwd"]);
    bundle.up();
    checkpoint(&bundle, &host, &[]).ok();
    restore(&bundle, &host, &["--detach"]).ok();
    let output = bundle.exec(&[], &["/bin/cat", "/etc/passwd"]).run();
    assert!(!output.stdout.contains("root"), "{output:?}");
    bundle.delete_by_force();
}

#[test]
fn images_that_give_more_than_the_configuration_are_refused() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let mut bundle = counter(&host);
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    let given = bundle.config.clone();
    bundle.up();
    let pid = bundle.pid();
    checkpoint(&bundle, &host, &[]).ok();
    host.reap(pid);
    let filter =
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["swapon"], "action": "SCMP_ACT_ERRNO" }] });
    for (pointer, value, why) in [
        ("/process/capabilities", json!({ "bounding": ["CAP_KILL"] }), "CAP_NET_BIND_SERVICE"),
        ("/process/noNewPrivileges", json!(true), "no_new_privs is not set"),
        ("/linux/seccomp", filter, "there is no seccomp filter"),
    ] {
        bundle.config = given.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        bundle.config.pointer_mut(parent).unwrap()[name] = value;
        restore(&bundle, &host, &["--detach"]).fails_with(why);
        host.kelson(["state", &bundle.id]).fails_with("does not exist");
        assert_eq!(host.wait_for_no_differences(), Vec::<String>::new(), "{pointer}");
    }
    bundle.config = given;
    restore(&bundle, &host, &["--detach"]).ok();
    bundle.delete_by_force();
}

#[test]
fn a_process_that_was_confined_is_restored_as_such() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let mut bundle = counter(&host);
    bundle.config["linux"]["seccomp"] =
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["swapon"], "action": "SCMP_ACT_ERRNO" }] });
    bundle.up();
    let status = |bundle: &Bundle| {
        let text = fs::read_to_string(format!("/proc/{}/status", bundle.pid())).unwrap();
        let names = ["Cap", "NoNewPrivs", "Seccomp:"];
        text.lines()
            .filter(|line| names.iter().any(|name| line.starts_with(name)))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = status(&bundle);
    checkpoint(&bundle, &host, &[]).ok();
    restore(&bundle, &host, &["--detach"]).ok();
    assert_eq!(status(&bundle), before);
    bundle.delete_by_force();
}

#[test]
fn the_hosts_cgroups_are_seen_again() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let mut bundle = counter(&host);
    bundle.share("cgroup");
    bundle.up();
    let list =
        || bundle.exec(&[], &["/bin/sh", "-c", "ls -d /sys/fs/cgroup/* /sys/fs/cgroup/*/cgroup.procs"]).run().stdout;
    let before = list();
    assert!(before.contains("cgroup.procs"), "{before}");
    checkpoint(&bundle, &host, &[]).ok();
    restore(&bundle, &host, &["--detach"]).ok();
    assert_eq!(list(), before);
    bundle.delete_by_force();
}

#[test]
fn images_that_runc_wrote_are_restored() {
    const RUNC: &str = "/usr/sbin/runc";
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    if !Path::new(RUNC).exists() {
        return skip("runc is not installed");
    }
    if cgroup2_options() != "rw" {
        return skip("runc would let criu lose the options of the host's cgroup2");
    }
    let bundle = counter(&host);
    bundle.write_config();
    let root = host.temp.join("runc").display().to_string();
    let runc = |words: &[&str]| host.command([&[RUNC, "--root", &root], words].concat()).run();
    runc(&["run", "--detach", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]).ok();
    wait_until("it counts", || runc(&["exec", &bundle.id, "test", "-s", "/count/n"]).code == 0);
    let before: u64 = runc(&["exec", &bundle.id, "cat", "/count/n"]).ok().stdout.trim().parse().unwrap();
    runc(&["checkpoint", "--image-path", &images(&host), &bundle.id]).ok();
    restore(&bundle, &host, &["--detach"]).ok();
    wait_until("it goes on counting", || count(&bundle) > before);
    bundle.delete_by_force();
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn a_terminal_goes_to_the_console_socket() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let mut bundle = host.bundle();
    bundle.config["process"]["terminal"] = json!(true);
    bundle.script("while read line; do echo got $line; done");
    let path = host.temp.join("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = ["--console-socket", path.to_str().unwrap()];
    bundle.making("create", &socket).run().ok();
    let first = accept(&listener);
    bundle.start().ok();
    checkpoint(&bundle, &host, &[]).ok();
    drop(first);
    restore(&bundle, &host, &[&["--detach"], &socket[..]].concat()).ok();
    let mut master = accept(&listener);
    master.write_all(b"word\n").unwrap();
    wait_until("it answers", || {
        let mut buffer = [0; 256];
        let length = std::io::Read::read(&mut master, &mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..length]).contains("got word")
    });
    bundle.delete_by_force();
}

#[test]
fn a_network_namespace_that_exists_is_joined_again() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let neighbour = crate::support::Neighbour::new(&host, &["--net"]);
    let mut bundle = counter(&host);
    let path = neighbour.path("net");
    namespace(&mut bundle, "network", Some(&path));
    bundle.up();
    checkpoint(&bundle, &host, &[]).ok();
    restore(&bundle, &host, &["--detach"]).ok();
    let joined = fs::read_link(format!("/proc/{}/ns/net", bundle.pid())).unwrap();
    assert_eq!(joined.to_string_lossy(), neighbour.namespace("net"));
    bundle.delete_by_force();
}

#[test]
fn what_criu_says_of_a_failure_is_quoted() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    // Its standard output is a file of the host's.
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "60"]);
    bundle.up();
    let output = checkpoint(&bundle, &host, &[]).fails_with("criu could not checkpoint the container");
    assert!(output.stderr.contains("Can't lookup mount") && output.stderr.contains("images/dump.log"), "{output:?}");
    // Whether it lives on is criu's; kelson keeps it.
    host.kelson(["state", &bundle.id]).ok();
    bundle.delete_by_force();
    let output = restore(&bundle, &host, &["--detach"]);
    assert_eq!(output.code, 1, "{output:?}");
    host.kelson(["state", &bundle.id]).fails_with("does not exist");
}

#[test]
fn what_cannot_be_checkpointed_or_restored_is_refused() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "60"]);
    bundle.create().ok();
    checkpoint(&bundle, &host, &[]).fails_with("cannot checkpoint a container that is created");
    bundle.start().ok();
    checkpoint(&bundle, &host, &["--manage-cgroups-mode", "some"]).fails_with("--manage-cgroups-mode cannot be");
    checkpoint(&bundle, &host, &["--page-server", "nowhere"]).fails_with("--page-server cannot be");
    checkpoint(&bundle, &host, &["--empty-ns", "pid"]).fails_with("--empty-ns cannot be");
    checkpoint(&bundle, &host, &["--lazy-pages", "--status-fd", "77"]).fails_with("which is not open");
    let empty = host.temp.display().to_string();
    let words = ["checkpoint", "--image-path", &images(&host), &bundle.id];
    host.call(words).env("PATH", &empty).run().fails_with("cannot find criu in $PATH");
    assert_eq!(bundle.status(), "running");
    bundle.delete_by_force();
    let nowhere = bundle
        .making("restore", &["--detach", "--image-path", "/nonexistent"])
        .env("PATH", "/usr/sbin:/usr/local/sbin");
    assert_eq!(nowhere.run().code, 1);
    host.kelson(["state", &bundle.id]).fails_with("does not exist");
    // What podman looks for.
    assert_eq!(host.kelson(["checkpoint", "--help"]).code, 0);
    let output = host.kelson(["restore", "--lsm-mount-context"]);
    assert!(output.stderr.contains("flag needs an argument: --lsm-mount-context"), "{output:?}");
}

/// The options of the host's cgroup2: of its one superblock.
fn cgroup2_options() -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find_map(|line| line.split_once(" - cgroup2 ")).unwrap_or_default();
    line.1.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn criu_3029_the_hosts_cgroup2_keeps_its_options() {
    let host = Host::new();
    if !has_criu(&host) {
        return;
    }
    let before = cgroup2_options();
    if !before.contains("nsdelegate") {
        return skip("the host's cgroup2 has no options that could be lost");
    }
    let bundle = counter(&host);
    bundle.up();
    checkpoint(&bundle, &host, &[]).ok();
    assert_eq!(cgroup2_options(), before);
    restore(&bundle, &host, &["--detach"]).ok();
    assert_eq!(cgroup2_options(), before);
    bundle.delete_by_force();
}

#[test]
fn a_criu_that_dies_is_not_waited_for_when_what_it_made_lives() {
    let host = Host::new();
    let bundle = host.bundle();
    let (bin, images) = (host.temp.join("bin"), host.temp.join("images"));
    for directory in [&bin, &images] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(images.join("descriptors.json"), r#"["", "", ""]"#).unwrap();
    // What it leaves has its end of the socket.
    fs::write(bin.join("criu"), "#!/bin/sh\nsleep 60 &\n").unwrap();
    fs::set_permissions(bin.join("criu"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let call = bundle.making("restore", &["--detach", "--image-path", images.to_str().unwrap()]).env("PATH", path);
    call.run().fails_with("criu ended without an answer");
}
