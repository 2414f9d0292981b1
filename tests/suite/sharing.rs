//! Verbs and containers that meet: at an id, at a cgroup, at the caller's own settings.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::cgroups::Made;
use crate::harness::{Bundle, Host, is_alive, wait_until};
use crate::limits::open_device;
use crate::notify::with_script;

fn hook(script: &str) -> serde_json::Value {
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
}

/// A container that has ended, whose poststop hook takes a while, and another to come of the same id.
fn old_and_new(host: &Host) -> (Bundle<'_>, Bundle<'_>, std::path::PathBuf) {
    let (mut old, mut new) = (host.bundle(), host.bundle());
    let mark = host.temp.join("poststop");
    old.config["hooks"]["poststop"] = hook(&format!("touch {}; sleep 1", mark.display()));
    new.id.clone_from(&old.id);
    new.args(&["/bin/sleep", "1000"]);
    (old, new, mark)
}

#[test]
fn two_deletes_of_a_container_leave_the_next_of_its_name_alone() {
    let host = Host::new();
    let (mut old, new, mark) = old_and_new(&host);
    old.args(&["/bin/sleep", "1000"]).up();
    let delete = || host.call(["delete", "--force", &old.id]).spawn();
    let (one, two) = (delete(), delete());
    wait_until("the hook runs", || mark.exists());
    new.up();
    one.wait().ok();
    two.wait().ok();
    assert_eq!(new.status(), "running");
    new.delete_by_force();
}

#[test]
fn a_run_that_ends_leaves_the_next_of_its_name_alone() {
    let host = Host::new();
    let (mut old, new, mark) = old_and_new(&host);
    let run = old.args(&["/bin/sleep", "1000"]).making("run", &[]).spawn();
    wait_until("it runs", || host.kelson(["state", &old.id]).code == 0 && old.status() == "running");
    let delete = host.call(["delete", "--force", &old.id]).spawn();
    wait_until("the hook runs", || mark.exists());
    new.up();
    delete.wait().ok();
    run.wait();
    assert_eq!(new.status(), "running");
    new.delete_by_force();
}

#[test]
fn what_is_in_a_stopped_containers_cgroup_is_anothers() {
    let host = Host::new();
    let (mut one, mut two) = (host.bundle(), host.bundle());
    let path = format!("/{}", one.id);
    for bundle in [&mut one, &mut two] {
        bundle.config["linux"]["cgroupsPath"] = json!(path);
    }
    one.args(&["/bin/true"]).up();
    wait_until("it has ended", || one.status() == "stopped");
    host.reap_container(&one);
    two.args(&["/bin/sleep", "1000"]).up();
    let output = one.delete(false).ok();
    assert!(output.stderr.contains("is left, others use it: process"), "{output:?}");
    assert_eq!(two.status(), "running");
    two.delete_by_force();
}

#[test]
fn a_container_whose_first_thread_has_ended_can_be_killed_and_deleted() {
    let host = Host::new();
    let script = "import ctypes, threading\nthreading.Thread(target=time.sleep, args=[1000]).start()\n\
        ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)";
    let bundle = with_script(&host, script);
    for by_force in [false, true] {
        bundle.up();
        let pid = bundle.pid();
        let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        wait_until("its first thread has ended", || status().contains("State:\tZ"));
        assert_eq!(bundle.status(), "running");
        if !by_force {
            bundle.kill("KILL").ok();
            host.reap_container(&bundle);
        }
        bundle.delete_by_force();
        assert!(!Path::new(&format!("/proc/{pid}/task")).exists() || status().contains("Threads:\t1"), "{}", status());
    }
}

#[test]
fn containers_in_turn_have_their_own_list_of_devices_in_one_cgroup() {
    let host = Host::new();
    let made = Made::new("kt-devices");
    let mut bundle = host.bundle();
    bundle.config["linux"]["cgroupsPath"] = json!("/kt-devices");
    for allow in [false, true, false, true] {
        bundle.config["linux"]["resources"] = json!({ "devices": [{ "allow": allow, "access": "rwm" }] });
        assert_eq!(open_device(&mut bundle, "c", 10, 237) == "EPERM", !allow, "{allow}");
    }
    for _ in 0..70 {
        bundle.config["linux"]["resources"] = json!({});
        bundle.args(&["/bin/true"]).run().ok();
    }
    drop(made);
}

#[test]
fn a_delete_by_force_ends_a_start_that_hangs_in_the_image() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["hooks"]["startContainer"] = json!([{"path": "/bin/sleep", "args": ["sleep", "1000"]}]);
    bundle.create().ok();
    let pid = bundle.pid();
    let start = host.call(["start", &bundle.id]).spawn();
    let has_child = || {
        let path = format!("/proc/{pid}/task/{pid}/children");
        fs::read_to_string(path).is_ok_and(|text| !text.is_empty())
    };
    wait_until("the hook runs", has_child);
    bundle.delete_by_force();
    assert_ne!(start.wait().code, 0);
    assert!(!is_alive(pid));
}

#[test]
fn the_callers_cpus_are_not_the_containers() {
    let host = Host::new();
    let cpus = |status: &str| status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap().to_owned();
    let own = cpus(&fs::read_to_string("/proc/self/status").unwrap());
    let mut bundle = host.bundle();
    bundle.wrapper = ["taskset", "-c", "0"].map(Into::into).to_vec();
    assert_eq!(cpus(&bundle.args(&["/bin/cat", "/proc/self/status"]).run().ok().stdout), own);
    bundle.args(&["/bin/sleep", "1000"]).up();
    let exec = bundle.exec(&[], &["/bin/cat", "/proc/self/status"]).before(["taskset", "-c", "0"]).run().ok();
    assert_eq!(cpus(&exec.stdout), own);
    bundle.delete_by_force();
}

#[test]
fn hooks_without_an_environment_have_the_runtimes_and_those_of_the_image_the_programs() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.writable();
    let file = host.temp.join("env");
    let script = format!("env >> {}", file.display());
    for kind in ["createRuntime", "createContainer", "poststart", "poststop"] {
        bundle.config["hooks"][kind] = hook(&script);
    }
    bundle.config["hooks"]["startContainer"] = hook("env > /env");
    bundle.config["process"]["env"] = json!(["PATH=/bin", "OF=the program"]);
    bundle.args(&["/bin/true"]).making("run", &[]).env("OF", "the caller").run().ok();
    let env = fs::read_to_string(&file).unwrap();
    assert_eq!(env.lines().filter(|line| *line == "OF=the caller").count(), 4, "{env}");
    assert!(!env.contains("_KELSON"), "{env}");
    let env = fs::read_to_string(bundle.rootfs.join("env")).unwrap();
    assert!(env.contains("OF=the program") && !env.contains("the caller"), "{env}");
}
