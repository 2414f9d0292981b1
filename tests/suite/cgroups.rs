//! Cgroups: where they are made, what of them is left, whose they are, and how the container sees them.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::write;
use serde_json::json;

use crate::harness::{Bundle, Host, Running, View, hierarchies, is_alive, skip, wait_until};
use crate::support::{fails_at, give, mount_at, user_namespace};

/// The cgroups of a process, by its `/proc/PID/cgroup`: the paths, without hierarchies that a view hides.
fn paths_of(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let visible = |line: &&str| match View::current() {
        View::V2 => line.starts_with("0::"),
        View::V1 => !line.starts_with("0::"),
        View::Hybrid => true,
    };
    text.lines().filter(visible).map(|line| line.splitn(3, ':').nth(2).unwrap().to_owned()).collect()
}

/// A cgroup of this path in each hierarchy, removed at the end of the test.
pub struct Made(Vec<PathBuf>);

impl Made {
    pub fn new(path: &str) -> Self {
        let made: Vec<_> = hierarchies().iter().map(|hierarchy| hierarchy.join(path)).collect();
        for directory in &made {
            fs::create_dir(directory).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"].into_iter().filter(|_| !View::current().is_v2()) {
                if let Ok(text) = fs::read_to_string(directory.join("..").join(file)) {
                    fs::write(directory.join(file), text.trim()).unwrap();
                }
            }
        }
        Self(made)
    }

    fn are_all_there(&self) -> bool {
        self.0.iter().all(|directory| directory.is_dir())
    }

    /// A command that puts what follows into these cgroups.
    fn wrapper(&self) -> Vec<String> {
        let lists: Vec<_> = self.0.iter().map(|path| path.join("cgroup.procs").display().to_string()).collect();
        let script = format!("for list in {}; do echo $$ > $list; done; exec \"$@\"", lists.join(" "));
        ["/bin/sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for directory in &self.0 {
            for _ in 0..100 {
                if fs::remove_dir(directory).is_ok() || !directory.exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}

#[test]
fn an_absolute_path_is_below_the_roots() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).create().ok();
    let expected = format!("/{}", bundle.id);
    assert!(paths_of(bundle.pid()).iter().all(|path| *path == expected), "{:?}", paths_of(bundle.pid()));
    bundle.start().ok();
    assert!(paths_of(bundle.pid()).iter().all(|path| *path == expected), "{:?}", paths_of(bundle.pid()));
    bundle.delete_by_force();
}

#[test]
fn a_relative_or_absent_path_is_below_the_callers_cgroups() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let callers = Made::new(&format!("{}-caller", host.name));
    bundle.args(&["/bin/sleep", "100"]);
    for path in ["", "sub", "sub/deep"] {
        bundle.config["linux"]["cgroupsPath"] = json!(path);
        bundle.making("create", &[]).before(callers.wrapper()).run().ok();
        // On v2 a cgroup with processes cannot have children with controllers: beside the caller's.
        let above = if View::current().is_v2() { String::new() } else { format!("/{}-caller", host.name) };
        let expected = format!("{above}/{}", if path.is_empty() { &bundle.id } else { path });
        let paths = paths_of(bundle.pid());
        assert!(paths.iter().all(|path| *path == expected), "{path:?}: {expected} and not {paths:?}");
        bundle.delete_by_force();
        assert!(callers.are_all_there());
    }
}

#[test]
fn made_parents_go_and_others_stay() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}/a/b/c", host.name));
    bundle.run().ok();
    assert!(!bundle.cgroup("pids").ancestors().nth(3).unwrap().exists());
    let parent = Made::new(&host.name);
    bundle.run().ok();
    assert!(parent.are_all_there());
    assert!(!parent.0[0].join("a").exists());
}

#[test]
fn a_cgroup_with_processes_is_refused_and_they_live_on() {
    let host = Host::new();
    let bundle = host.bundle();
    let made = Made::new(&bundle.id);
    let other = host.command(["/bin/sleep", "100"]).before(made.wrapper()).spawn();
    wait_until("it is in the cgroups", || !fs::read_to_string(made.0[0].join("cgroup.procs")).unwrap().is_empty());
    wait_until("it is in all", || paths_of(other.pid()).iter().all(|path| path.contains(&bundle.id)));
    for output in [bundle.create(), bundle.run()] {
        output.fails_with("container's cgroup is not empty");
        assert!(is_alive(other.pid()) && made.are_all_there());
    }
    assert!(!host.root.join(&bundle.id).exists());
}

#[test]
fn a_cgroup_with_processes_below_it_is_refused_and_they_live_on() {
    let host = Host::new();
    let bundle = host.bundle();
    let above = Made::new(&bundle.id);
    let made = Made::new(&format!("{}/below", bundle.id));
    let other = host.command(["/bin/sleep", "100"]).before(made.wrapper()).spawn();
    wait_until("it is in all", || paths_of(other.pid()).iter().all(|path| path.contains(&bundle.id)));
    let output = bundle.run();
    assert!(is_alive(other.pid()), "{output:?}");
    output.fails_with("container's cgroup is not empty");
    assert!(above.are_all_there() && made.are_all_there());
    drop((other, made, above));
}

#[test]
fn of_two_containers_made_at_once_in_one_cgroup_one_is_refused_and_the_other_lives() {
    let host = Host::new();
    let mut bundles = [host.bundle(), host.bundle()];
    let path = bundles[0].config["linux"]["cgroupsPath"].clone();
    bundles[1].config["linux"]["cgroupsPath"] = path;
    let mut count = 0;
    for _ in 0..20 {
        let calls = bundles.each_ref().map(|bundle| bundle.making("create", &[]).spawn());
        let mut made = Vec::new();
        for (bundle, output) in bundles.iter().zip(calls.map(Running::wait)) {
            if output.code == 0 {
                made.push(bundle);
            } else {
                output.fails_with("container's cgroup is not empty");
            }
        }
        assert!(made.len() <= 1, "both were made");
        for bundle in made {
            count += 1;
            assert_eq!(bundle.status(), "created");
            bundle.delete_by_force();
        }
        assert!(!bundles[0].cgroup("pids").exists());
    }
    assert!(count > 0, "none was made");
}

#[test]
fn a_cgroup_that_takes_no_process_is_named() {
    if !View::current().is_v2() {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    let above = Made::new(&bundle.id);
    let threaded = Made::new(&format!("{}/threaded", bundle.id));
    fs::write(threaded.0[0].join("cgroup.type"), "threaded").unwrap();
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}/threaded/x", bundle.id));
    let output = bundle.run();
    assert!(output.stderr.contains("cgroup: the cgroup takes no process"), "{output:?}");
    assert!(output.stderr.contains("threaded/x") && output.stderr.contains("EOPNOTSUPP"), "{output:?}");
    fails_at(&output, "/linux/cgroupsPath");
    output.fails_with("below a threaded cgroup");
    drop((threaded, above));
}

#[test]
fn an_exec_into_a_frozen_cgroup_is_refused() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    let made = ["a", "a/b"].map(|path| Made::new(&format!("{}/{path}", bundle.id)));
    let (file, frozen, thawed) = match View::current() {
        View::V2 => (bundle.cgroup("").join("a/cgroup.freeze"), "1", "0"),
        _ => (bundle.cgroup("freezer").join("a/freezer.state"), "FROZEN", "THAWED"),
    };
    fs::write(&file, frozen).unwrap();
    for path in ["a", "a/b"] {
        let call = bundle.exec(&["--cgroup", path], &["true"]).before(["timeout", "10"]);
        call.run().exec_fails_with("cannot exec in a frozen cgroup");
    }
    bundle.exec(&[], &["true"]).run().ok();
    fs::write(&file, thawed).unwrap();
    bundle.exec(&["--cgroup", "a/b"], &["true"]).run().ok();
    bundle.delete_by_force();
    drop(made);
}

#[test]
fn a_frozen_cgroup_is_refused() {
    let host = Host::new();
    let bundle = host.bundle();
    let made = Made::new(&bundle.id);
    let (file, frozen, thawed) = match View::current() {
        View::V2 => (bundle.cgroup("").join("cgroup.freeze"), "1", "0"),
        _ => (bundle.cgroup("freezer").join("freezer.state"), "FROZEN", "THAWED"),
    };
    fs::write(&file, frozen).unwrap();
    bundle.create().fails_with("container's cgroup unexpectedly frozen");
    assert!(made.are_all_there());
    fs::write(&file, thawed).unwrap();
    bundle.run().ok();
}

#[test]
fn cgroups_that_were_there_before_stay_and_are_emptied() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let made = Made::new(&bundle.id);
    let below = Made::new(&format!("{}/below", bundle.id));
    bundle.args(&["/bin/sleep", "100"]);
    // v1 does not change the list of devices of a cgroup with others below it.
    bundle.config["linux"]["resources"] = json!({ "devices": [{ "allow": true, "access": "rwm" }] });
    bundle.up();
    let inner = Made::new(&format!("{}/inner", bundle.id));
    let other = host.command(["/bin/sleep", "100"]).before(inner.wrapper()).spawn();
    wait_until("it is in all", || paths_of(other.pid()).iter().all(|path| path.contains("/inner")));
    bundle.delete_by_force();
    assert!(made.are_all_there() && below.are_all_there());
    assert!(!inner.0.iter().any(|directory| directory.exists()));
    assert!(!is_alive(other.pid()));
    drop((inner, below));
}

#[test]
fn cgroups_that_went_away_are_no_error_for_a_delete() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.up();
    host.reap_container(&bundle);
    for hierarchy in hierarchies() {
        fs::remove_dir(hierarchy.join(&bundle.id)).unwrap();
    }
    assert_eq!(bundle.status(), "stopped");
    bundle.delete(false).ok();
}

#[test]
fn nested_cgroups_and_stragglers_go_with_the_container() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    let mut stragglers = Vec::new();
    for path in ["one", "one/two", "other"] {
        let made = Made::new(&format!("{}/{path}", bundle.id));
        stragglers.push(host.command(["/bin/sleep", "100"]).before(made.wrapper()).spawn());
        std::mem::forget(made);
    }
    for straggler in &stragglers {
        wait_until("it is in all", || paths_of(straggler.pid()).iter().all(|path| path.contains(&bundle.id)));
    }
    bundle.delete_by_force();
    assert!(hierarchies().iter().all(|hierarchy| !hierarchy.join(&bundle.id).exists()));
    for straggler in stragglers {
        assert_eq!(straggler.wait().code, -9);
    }
}

#[test]
fn frozen_nested_cgroups_go_with_the_container() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    let made = Made::new(&format!("{}/nested", bundle.id));
    let straggler = host.command(["/bin/sleep", "100"]).before(made.wrapper()).spawn();
    wait_until("it is in all", || paths_of(straggler.pid()).iter().all(|path| path.contains("nested")));
    std::mem::forget(made);
    match View::current() {
        View::V2 => fs::write(bundle.cgroup("").join("nested/cgroup.freeze"), "1").unwrap(),
        _ => fs::write(bundle.cgroup("freezer").join("nested/freezer.state"), "FROZEN").unwrap(),
    }
    bundle.delete_by_force();
    assert_eq!(straggler.wait().code, -9);
}

/// Cgroups of long names, each in the one before: made by descriptors, as a container does that has its own.
fn nest(top: &Path, levels: usize) -> OwnedFd {
    let name = "n".repeat(200);
    (0..levels).fold(File::open(top).unwrap().into(), |place: OwnedFd, _| {
        mkdirat(&place, &*name, Mode::S_IRWXU).unwrap();
        openat(&place, &*name, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
    })
}

#[test]
fn cgroups_nested_deeper_than_a_path_is_long_go_with_the_container() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    let straggler = host.command(["/bin/sleep", "100"]).spawn();
    let deepest = nest(&bundle.cgroup("memory"), 40);
    let list = openat(&deepest, "cgroup.procs", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    write(&list, straggler.pid().to_string().as_bytes()).unwrap();
    let listed = host.kelson(["ps", "-f", "json", &bundle.id]).ok().stdout;
    assert!(listed.contains(&straggler.pid().to_string()), "{listed}");
    bundle.delete_by_force();
    assert_eq!(straggler.wait().code, -9);
}

#[test]
fn without_a_cgroup_manager_the_container_stays_where_the_caller_is() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.global_flags = vec!["--cgroup-manager".into(), "disabled".into()];
    bundle.args(&["/bin/sleep", "100"]).up();
    let own = paths_of(std::process::id() as i32);
    assert_eq!(paths_of(bundle.pid()), own);
    assert_eq!(bundle.status(), "running");
    bundle.kill("KILL").ok();
    host.reap_container(&bundle);
    bundle.delete(false).ok();
    bundle.up();
    bundle.delete_by_force();
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 10});
    bundle.run().fails_with("cgroups disabled");
}

#[test]
fn what_is_deleted_has_ended_though_no_cgroup_tells() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.global_flags = vec!["--cgroup-manager".into(), "disabled".into()];
    // To give back that much takes its time.
    let pid = bundle.args(&["/bin/busybox", "dd", "bs=200M", "if=/dev/zero", "of=/dev/null"]).up().pid();
    let resident =
        || fs::read_to_string(format!("/proc/{pid}/statm")).unwrap().split(' ').nth(1).unwrap().parse::<u64>();
    wait_until("it has its memory", || resident().unwrap() > 40_000);
    bundle.delete_by_force();
    assert!(!is_alive(pid));
}

#[test]
fn what_a_container_mounts_over_its_cgroup_is_not_mounted_on_the_host() {
    let host = Host::new();
    for options in [vec!["ro"], vec!["rslave"], vec!["shared", "ro"]] {
        let mut bundle = host.bundle();
        bundle.share("cgroup").config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "cgroup");
        bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &options);
        give(&mut bundle, &["CAP_SYS_ADMIN"]);
        bundle.args(&["/bin/busybox", "mount", "-t", "tmpfs", "inside", place()]).run().ok();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(" inside "), "{options:?}: {table}");
    }
}

/// What the container sees below /sys/fs/cgroup where the hierarchy with `pids` is.
fn place() -> &'static str {
    if View::current().is_v2() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" }
}

#[test]
fn the_containers_cgroup_is_the_root_of_what_it_sees() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for namespace in ["own", "shared"] {
        if namespace == "shared" {
            bundle.share("cgroup");
        }
        // v2 is mounted as a whole for whom is in the host's cgroup namespace, as with runc and crun.
        let below = if namespace == "shared" && View::current().is_v2() { &*bundle.id } else { "" };
        let seen = bundle.script(&format!("exec cat {}/{below}/cgroup.procs", place())).run().ok();
        assert_eq!(seen.stdout, "1\n", "{namespace}");
        let cgroups = bundle.probe(&["cgroup"])["cgroup"].clone();
        let visible = cgroups.as_array().unwrap().iter().map(|line| line.as_str().unwrap());
        let visible = visible.filter(|line| View::current() != View::V1 || !line.starts_with("0::"));
        let visible: Vec<_> = visible.filter(|line| !View::current().is_v2() || line.starts_with("0::")).collect();
        let end = if namespace == "own" { ":/".to_owned() } else { format!(":/{}", bundle.id) };
        assert!(visible.iter().all(|line| line.ends_with(&end)), "{namespace}: {visible:?}");
    }
}

#[test]
fn the_cgroup_mount_is_read_only_as_asked() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for namespace in ["own", "shared"] {
        if namespace == "shared" {
            bundle.share("cgroup");
        }
        let script = format!("mkdir {0}/x; echo 1 > {0}/cgroup.procs", place());
        let output = bundle.script(&script).run();
        assert_eq!(output.stderr.matches("Read-only file system").count(), 2, "{namespace}: {output:?}");
    }
}

#[test]
fn every_hierarchy_of_the_host_is_mounted() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let mounts = bundle.probe(&["mounts"])["mounts"].clone();
    let of_cgroups = |mount: &&serde_json::Value| mount["mountPoint"].as_str().unwrap().starts_with("/sys/fs/cgroup");
    let mounts: Vec<_> = mounts.as_array().unwrap().iter().filter(of_cgroups).cloned().collect();
    let points: Vec<_> = mounts.iter().map(|mount| mount["mountPoint"].as_str().unwrap()).collect();
    for hierarchy in hierarchies() {
        assert!(points.contains(&hierarchy.to_str().unwrap()), "{} is not in {points:?}", hierarchy.display());
    }
    for mount in &mounts {
        let has = |option: &str| mount["options"].as_array().unwrap().contains(&json!(option));
        assert!(["ro", "nosuid", "nodev", "noexec"].into_iter().all(has), "{mount}");
        assert!(mount["fsType"] == "tmpfs" || mount["root"] == "/", "{mount}");
    }
}

#[test]
fn a_writable_cgroup_can_be_divided_and_is_removed_whole() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for mount in bundle.config["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/sys/fs/cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "relatime"]);
        }
    }
    let script = format!("mkdir -p {0}/a/b && echo 1 > {0}/a/b/cgroup.procs && echo moved; sleep 100", place());
    let running = bundle.script(&script).making("run", &[]).spawn();
    wait_until("it has moved", || running.stdout().contains("moved"));
    assert!(bundle.cgroup("pids").join("a/b").is_dir());
    assert_eq!(bundle.status(), "running");
    bundle.kill("KILL").ok();
    assert_eq!(running.wait().code, 128 + 9);
    assert!(!bundle.cgroup("pids").exists());
}

#[test]
fn containers_share_a_parent() {
    let host = Host::new();
    let parent = Made::new(&host.name);
    let bundles: [Bundle; 2] = std::array::from_fn(|number| {
        let mut bundle = host.bundle();
        bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}/pod/{number}", host.name));
        bundle.args(&["/bin/sleep", "100"]);
        bundle.up();
        bundle
    });
    bundles[0].delete_by_force();
    assert!(Path::exists(&parent.0[0].join("pod")), "the other container's is in it");
    assert_eq!(bundles[1].status(), "running");
    bundles[1].delete_by_force();
    // The one that made it could not remove it: the last that leaves does, but nothing that it did not make.
    for (hierarchy, parent) in hierarchies().iter().zip(&parent.0) {
        assert!(parent.exists() && !parent.join("pod").exists(), "{}", hierarchy.display());
    }
}

#[test]
fn the_cgroup_of_a_container_that_may_write_to_it_is_its_users() {
    if View::current() == View::V1 {
        return skip("only cgroups of v2 are given away");
    }
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    let host = Host::new();
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    bundle.config["process"]["user"] = json!({"uid": 7, "gid": 7});
    bundle.args(&["/bin/sleep", "100"]);
    for (writable, uid) in [(false, 0), (true, 100_007)] {
        for mount in bundle.config["mounts"].as_array_mut().unwrap() {
            if mount["destination"] == "/sys/fs/cgroup" && writable {
                mount["options"] = json!(["nosuid", "noexec", "nodev", "relatime", "rw"]);
            }
        }
        bundle.create().ok();
        let directory = bundle.cgroup("unified");
        for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            assert_eq!(owner(&directory.join(name)), uid, "{writable} {name}");
        }
        for name in ["cgroup.kill", "cgroup.freeze", "cgroup.max.depth"] {
            assert_eq!(owner(&directory.join(name)), 0, "{name}");
        }
        bundle.delete_by_force();
    }
}

#[test]
fn cgroup2_is_mounted_where_it_is_asked_for_by_name() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.mount("/tmp", "cgroup2", "cgroup2", &["ro", "nosuid", "noexec", "nodev"]);
    for namespace in ["own", "shared"] {
        if namespace == "shared" {
            if View::current() == View::V1 {
                continue;
            }
            bundle.share("cgroup");
        }
        let mounts = bundle.probe(&["mounts"]);
        let mount = mount_at(&mounts, "/tmp").unwrap();
        assert_eq!(mount["fsType"], "cgroup2", "{namespace}: {mount}");
        if View::current() != View::V1 {
            let own = if namespace == "own" { String::new() } else { format!("/{}", bundle.id) };
            let script = format!("exec cat /tmp{own}/cgroup.procs");
            assert_eq!(bundle.script(&script).run().ok().stdout, "1\n", "{namespace}");
        }
    }
}
