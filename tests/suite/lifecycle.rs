//! create, start, state, delete, in the right order and in wrong ones, with the texts that engines match.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Bundle, Host, View, is_alive, wait_until};

#[test]
fn a_container_goes_through_its_life() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/probe", "wait-term"]);
    bundle.config["annotations"] = json!({"a.b": "c"});
    bundle.create().ok();
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], bundle.id.as_str());
    assert_eq!(state["ociVersion"], "1.3.0");
    assert_eq!(state["bundle"], bundle.path.to_str().unwrap());
    assert_eq!(state["rootfs"], bundle.rootfs.to_str().unwrap());
    assert_eq!(state["annotations"], json!({"a.b": "c"}));
    assert_eq!(state["owner"], "");
    let pid = bundle.pid();
    assert!(is_alive(pid));
    bundle.start().ok();
    assert_eq!(bundle.status(), "running");
    assert_eq!(bundle.pid(), pid);
    bundle.kill("KILL").ok();
    assert_eq!(host.reap(pid), -9);
    let state = bundle.state();
    assert_eq!((&state["status"], &state["pid"]), (&json!("stopped"), &json!(0)));
    bundle.delete(false).ok();
    host.kelson(["state", &bundle.id]).fails_with("does not exist");
}

#[test]
fn a_zombie_is_a_stopped_container() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.up();
    wait_until("it is stopped", || bundle.status() == "stopped");
    bundle.kill("KILL").fails_with("container not running");
    bundle.delete(false).ok();
}

#[test]
fn verbs_on_an_unknown_container_say_that_it_does_not_exist() {
    let host = Host::new();
    for verb in ["state", "start", "kill", "delete"] {
        host.kelson([verb, "nobody"]).fails_with("does not exist");
    }
    host.kelson(["delete", "--force", "nobody"]).ok();
    assert!(!host.root.exists(), "a verb that finds nothing makes nothing");
}

#[test]
fn verbs_on_a_created_container() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.create().ok();
    bundle.create().fails_with("already exists");
    assert_eq!(bundle.status(), "created", "a create that fails must not change the one that is there");
    let pid = bundle.pid();
    // As every engine expects, and other than the letter of the specification.
    bundle.delete(false).ok();
    assert!(!is_alive(pid));
}

#[test]
fn verbs_on_a_running_container() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    let pid = bundle.pid();
    bundle.create().fails_with("already exists");
    bundle.run().fails_with("already exists");
    bundle.start().fails_with("cannot start an already running container");
    bundle.delete(false).fails_with("is not stopped");
    assert_eq!((bundle.status().as_str(), bundle.pid()), ("running", pid), "nothing of this has an effect");
    bundle.delete_by_force();
    // It leaves its cgroup a moment before it has ended.
    wait_until("it has ended", || !is_alive(pid));
}

#[test]
fn verbs_on_a_stopped_container() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.up();
    host.reap_container(&bundle);
    bundle.start().fails_with("cannot start a container that has stopped");
    bundle.create().fails_with("already exists");
    bundle.kill("TERM").fails_with("container not running");
    assert_eq!(bundle.status(), "stopped");
    bundle.delete(false).ok();
    bundle.delete(false).fails_with("does not exist");
    bundle.delete_by_force();
}

#[test]
fn an_id_can_be_used_again() {
    let host = Host::new();
    let bundle = host.bundle();
    for _ in 0..3 {
        bundle.up();
        bundle.delete_by_force();
    }
}

fn freeze(bundle: &Bundle, frozen: bool) {
    let (file, text) = match (View::current(), frozen) {
        (View::V2, true) => (bundle.cgroup("").join("cgroup.freeze"), "1"),
        (View::V2, false) => (bundle.cgroup("").join("cgroup.freeze"), "0"),
        (_, true) => (bundle.cgroup("freezer").join("freezer.state"), "FROZEN"),
        (_, false) => (bundle.cgroup("freezer").join("freezer.state"), "THAWED"),
    };
    fs::write(file, text).unwrap();
}

#[test]
fn a_frozen_container_is_paused() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    let pid = bundle.pid();
    freeze(&bundle, true);
    assert_eq!((bundle.status().as_str(), bundle.pid()), ("paused", pid));
    bundle.start().fails_with("cannot start");
    bundle.delete(false).fails_with("is not stopped: paused");
    freeze(&bundle, false);
    assert_eq!(bundle.status(), "running");
    freeze(&bundle, true);
    bundle.delete_by_force();
    assert!(!is_alive(pid));
}

#[test]
fn a_kill_ends_a_frozen_container() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    let pid = bundle.pid();
    freeze(&bundle, true);
    bundle.kill("KILL").ok();
    assert_eq!(host.reap(pid), -9);
    bundle.delete(false).ok();
}

#[test]
fn later_edits_of_the_configuration_do_not_matter() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.script("exit 42").create().ok();
    fs::write(bundle.path.join("config.json"), "{ this is no JSON").unwrap();
    let pid = bundle.pid();
    bundle.start().ok();
    assert_eq!(host.reap(pid), 42);
    fs::remove_file(bundle.path.join("config.json")).unwrap();
    assert_eq!(bundle.status(), "stopped");
    bundle.delete(false).ok();
}

#[test]
fn the_bundle_may_go_before_the_container() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    fs::remove_dir_all(&bundle.path).unwrap();
    assert_eq!(bundle.status(), "running");
    bundle.delete_by_force();
}

#[test]
fn a_container_without_a_process_can_be_created_but_not_started() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config.as_object_mut().unwrap().remove("process");
    bundle.create().ok();
    assert_eq!(bundle.status(), "created");
    bundle.start().fails_with("no process to start");
    assert_eq!(bundle.status(), "created");
    let pid = bundle.pid();
    bundle.kill("KILL").ok();
    assert_eq!(host.reap(pid), -9);
    bundle.delete(false).ok();
}

#[test]
fn init_is_the_callers_child() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.script("exit 3").create().ok();
    let pid = bundle.pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!(parent, std::process::id().to_string());
    bundle.start().ok();
    assert_eq!(host.reap(pid), 3, "an engine gets the program's exit code");
    bundle.delete(false).ok();
}

#[test]
fn containers_are_made_side_by_side() {
    let host = Host::new();
    let bundles: Vec<_> = (0..4).map(|_| host.bundle()).collect();
    let calls: Vec<_> = bundles.iter().map(|bundle| bundle.making("create", &[]).spawn()).collect();
    calls.into_iter().for_each(|call| drop(call.wait().ok()));
    let calls: Vec<_> = bundles.iter().map(|bundle| host.call(["start", &bundle.id]).spawn()).collect();
    calls.into_iter().for_each(|call| drop(call.wait().ok()));
    bundles.iter().for_each(Bundle::delete_by_force);
}

#[test]
fn of_two_creates_of_one_id_one_wins() {
    let host = Host::new();
    let bundle = host.bundle();
    for _ in 0..5 {
        let call = bundle.making("create", &[]);
        let [one, other] = [call.spawn(), call.spawn()].map(|call| call.wait());
        let loser = if one.code == 0 { other } else { one };
        loser.fails_with("already exists");
        assert_eq!(bundle.status(), "created");
        bundle.delete_by_force();
    }
}

#[test]
fn of_two_starts_one_wins() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).create().ok();
    let calls = [(); 2].map(|()| host.call(["start", &bundle.id]).spawn());
    let [one, other] = calls.map(|call| call.wait());
    assert_eq!(one.code + other.code, 1, "{one:?} {other:?}");
    bundle.delete_by_force();
}

#[test]
fn what_is_left_of_a_half_made_container_is_deleted() {
    let host = Host::new();
    fs::create_dir_all(host.root.join("half")).unwrap();
    host.kelson(["state", "half"]).fails_with("kelson delete");
    host.kelson(["delete", "half"]).fails_with("container \\\"half\\\" does not exist");
    assert!(!host.root.join("half").exists());
    fs::create_dir_all(host.root.join("half")).unwrap();
    fs::write(host.root.join("half/state.json.new"), "{").unwrap();
    host.kelson(["delete", "--force", "half"]).ok();
    assert!(!host.root.join("half").exists());
}

#[test]
fn a_process_without_a_program_is_refused_by_create() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&[]).create().fails_with("(config.json /process/args)");
    assert!(!host.root.exists());
}

#[test]
fn a_directory_for_the_state_that_is_none_is_an_error_of_every_verb() {
    let host = Host::new();
    let file = host.temp.join("file");
    fs::write(&file, "").unwrap();
    for verb in [&["state"][..], &["start"], &["kill"], &["delete"], &["delete", "--force"]] {
        let output = host.bare([&["--root", file.to_str().unwrap()], verb, &["x"]].concat()).run();
        assert!(!output.stderr.contains("does not exist"), "{verb:?} {output:?}");
        output.fails_with("ENOTDIR");
    }
}

#[test]
fn a_program_that_cannot_be_run_is_the_creates_or_starts_error() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/nothing"]).create().fails_with("no such file or directory");
    bundle.args(&["nothing"]).create().fails_with("executable file not found in");
    fs::write(bundle.rootfs.join("bin/no-program"), "text").unwrap();
    bundle.args(&["/bin/no-program"]).create().fails_with("permission denied");
    assert!(!host.root.join(&bundle.id).exists());
    bundle.flags = Vec::new();
    fs::set_permissions(bundle.rootfs.join("bin/no-program"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    bundle.create().ok();
    bundle.start().fails_with("exec format error");
    wait_until("init has ended", || bundle.status() == "stopped");
    bundle.delete(false).ok();
}

#[test]
fn a_container_whose_init_was_killed_before_its_start_is_stopped() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.create().ok();
    let pid = bundle.pid();
    bundle.kill("KILL").ok();
    assert_eq!(host.reap(pid), -9);
    bundle.start().fails_with("has stopped");
    bundle.delete(false).ok();
}

#[test]
fn a_container_is_creating_while_its_hooks_run() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let mark = host.temp.join("mark");
    let script = format!("touch {}; sleep 0.3", mark.display());
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    let call = bundle.making("create", &[]).spawn();
    wait_until("the hook runs", || mark.exists());
    let status = bundle.status();
    call.wait().ok();
    bundle.delete_by_force();
    assert_eq!(status, "creating");
}

#[test]
fn a_start_waits_for_the_create() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "0.3"]}]});
    let call = bundle.script("exit 9").making("create", &[]).spawn();
    wait_until("the container has a directory", || bundle.state_path("state.json").exists());
    std::thread::sleep(Duration::from_millis(20));
    bundle.start().ok();
    call.wait().ok();
    host.reap_container(&bundle);
    bundle.delete(false).ok();
}

#[test]
fn the_pid_file_is_written_through_no_link_and_waits_for_nobody() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let (victim, directory) = (host.temp.join("victim"), host.temp.join("pids"));
    fs::write(&victim, "precious").unwrap();
    fs::create_dir(&directory).unwrap();
    let file = directory.join("c.pid");
    bundle.flags = vec!["--pid-file".into(), file.display().to_string()];
    for kind in ["link", "fifo", "left"] {
        let new = directory.join(".c.pid");
        match kind {
            "link" => std::os::unix::fs::symlink(&victim, &new).unwrap(),
            "fifo" => nix::unistd::mkfifo(&new, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            _ => fs::write(&new, "1").unwrap(),
        }
        bundle.create().ok();
        assert_eq!(fs::read_to_string(&file).unwrap(), bundle.pid().to_string(), "{kind}");
        assert!(file.symlink_metadata().unwrap().is_file() && !new.exists(), "{kind}");
        bundle.delete_by_force();
    }
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    bundle.create().fails_with("cannot write the pid file");
    assert!(!directory.join(".c.pid").exists());
}
