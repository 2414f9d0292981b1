//! `pause`, `resume` and `ps`, and a signal to all of a container that cannot fork away from it.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::harness::{Bundle, Host, View, is_alive, wait_until};

/// A container that counts in a file, of the returned path, as long as it runs.
fn counting<'a>(host: &'a Host, bundle: &mut Bundle<'a>) -> PathBuf {
    let shared = host.temp.join("shared");
    fs::create_dir_all(&shared).unwrap();
    bundle.mount("/shared", "bind", &shared, &["bind"]);
    bundle.script("i=0; while :; do i=$((i+1)); echo $i > /shared/count; sleep 0.005; done");
    shared.join("count")
}

fn goes_on(count: &PathBuf) -> bool {
    let read = || fs::read_to_string(count).unwrap_or_default();
    let before = read();
    std::thread::sleep(std::time::Duration::from_millis(60));
    before != read()
}

#[test]
fn a_paused_container_stands_still_and_goes_on_when_resumed() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let count = counting(&host, &mut bundle);
    bundle.up();
    wait_until("it counts", || goes_on(&count));
    host.kelson(["pause", &bundle.id]).ok();
    assert!(!goes_on(&count));
    assert_eq!(bundle.status(), "paused");
    assert_eq!(host.kelson(["list", "-f", "json"]).ok().json()[0]["status"], "paused");
    host.kelson(["pause", &bundle.id]).fails_with("paused already");
    bundle.start().fails_with("cannot start");
    bundle.delete(false).fails_with("not stopped: paused");
    host.kelson(["resume", &bundle.id]).ok();
    wait_until("it goes on", || goes_on(&count));
    assert_eq!(bundle.status(), "running");
    host.kelson(["resume", &bundle.id]).fails_with("container not paused");
    bundle.delete_by_force();
}

#[test]
fn what_is_not_there_or_does_not_run_is_not_paused() {
    let host = Host::new();
    let bundle = host.bundle();
    for verb in ["pause", "resume", "ps"] {
        host.kelson([verb, "nothing"]).fails_with("does not exist");
    }
    bundle.up();
    host.reap_container(&bundle);
    for verb in ["pause", "resume"] {
        host.kelson([verb, &bundle.id]).fails_with("container not running");
    }
    bundle.delete(false).ok();
}

#[test]
fn a_created_container_can_be_paused() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.create().ok();
    host.kelson(["pause", &bundle.id]).ok();
    assert_eq!(bundle.status(), "paused");
    host.kelson(["resume", &bundle.id]).ok();
    assert_eq!(bundle.status(), "created");
    bundle.start().ok();
    host.reap_container(&bundle);
    bundle.delete(false).ok();
}

#[test]
fn a_paused_container_can_be_killed() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.script("sleep 100 & sleep 100");
    for flag in [None, Some("--all")] {
        bundle.up();
        host.kelson(["pause", &bundle.id]).ok();
        let pid = bundle.pid();
        host.kelson(["kill"].into_iter().chain(flag).chain([bundle.id.as_str(), "KILL"])).ok();
        assert_eq!(host.reap(pid), -9);
        bundle.delete(false).ok();
    }
}

#[test]
fn a_paused_container_without_a_pid_namespace_can_be_deleted() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.share("pid").script("sleep 100 & sleep 100").up();
    host.kelson(["pause", &bundle.id]).ok();
    bundle.delete_by_force();
    bundle.share("pid").script("sleep 100 & exit 0").up();
    host.reap_container(&bundle);
    // Frozen by somebody else after init has ended.
    match View::current() {
        View::V2 => fs::write(bundle.cgroup("").join("cgroup.freeze"), "1"),
        _ => fs::write(bundle.cgroup("freezer").join("freezer.state"), "FROZEN"),
    }
    .unwrap();
    bundle.delete(false).ok();
}

#[test]
fn a_signal_to_all_waits_while_a_container_is_paused() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.script("trap 'exit 5' TERM; while :; do sleep 0.01; done").up();
    std::thread::sleep(std::time::Duration::from_millis(50));
    host.kelson(["pause", &bundle.id]).ok();
    let pid = bundle.pid();
    host.kelson(["kill", "--all", &bundle.id, "TERM"]).ok();
    assert_eq!(bundle.status(), "paused");
    assert!(is_alive(pid));
    host.kelson(["resume", &bundle.id]).ok();
    assert_eq!(host.reap(pid), 5);
    bundle.delete(false).ok();
}

#[test]
fn what_forks_all_the_time_is_paused_and_killed_whole() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let forks = "while :; do (:) & (:) & wait; done";
    bundle.share("pid").script(&format!("({forks}) & ({forks}) & {forks}")).up();
    for _ in 0..10 {
        host.kelson(["pause", &bundle.id]).ok();
        host.kelson(["resume", &bundle.id]).ok();
    }
    host.kelson(["kill", "--all", &bundle.id, "KILL"]).ok();
    assert_eq!(host.reap_container(&bundle), -9);
    wait_until("nothing is left", || host.kelson(["ps", "-f", "json", &bundle.id]).stdout == "null\n");
    bundle.delete(false).ok();
}

#[test]
fn what_forks_all_the_time_is_deleted_whole() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let forks = "while :; do (:) & (:) & wait; done";
    for _ in 0..5 {
        bundle.share("pid").script(&format!("({forks}) & ({forks}) & {forks}")).up();
        bundle.delete_by_force();
    }
}

#[test]
fn ps_lists_the_containers_processes_with_the_hosts_ids() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.script("sleep 100 & sleep 100 & wait").up();
    let pids = || -> Vec<i32> {
        serde_json::from_str(&host.kelson(["ps", "--format", "json", &bundle.id]).ok().stdout).unwrap()
    };
    wait_until("all run", || pids().len() == 3);
    assert_eq!(pids()[0], bundle.pid());
    let table = host.kelson(["ps", &bundle.id]).ok().stdout;
    let heading: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert_eq!(table.lines().count(), 4, "{table}");
    let table = host.kelson(["ps", &bundle.id, "-e", "-o", "pid,comm"]).ok().stdout;
    assert!(table.contains(&format!("{} sleep", pids()[1])) && table.lines().count() == 4, "{table}");
    host.kelson(["ps", &bundle.id, "-o", "comm"]).fails_with("no column PID");
    host.kelson(["ps", &bundle.id, "--no-such-option"]).fails_with("ps ended with status 1");
    host.kelson(["ps", "-f", "xml", &bundle.id]).fails_with("unknown format");
    host.call(["ps", &bundle.id]).env("PATH", "/nowhere").run().fails_with("--format json");
    bundle.kill("KILL").ok();
    host.reap_container(&bundle);
    assert_eq!(host.kelson(["ps", "-f", "json", &bundle.id]).ok().stdout, "null\n");
    assert_eq!(host.kelson(["ps", &bundle.id]).ok().stdout.lines().count(), 1);
    bundle.delete(false).ok();
}

#[test]
fn without_cgroups_a_signal_to_all_reaches_init_and_a_pause_is_refused() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.global_flags = vec!["--cgroup-manager".to_owned(), "disabled".to_owned()];
    bundle.config["linux"].as_object_mut().unwrap().remove("resources");
    bundle.args(&["/bin/sleep", "100"]).up();
    host.kelson(["pause", &bundle.id]).fails_with("no cgroup that could be frozen");
    let pid = bundle.pid();
    assert_eq!(host.kelson(["ps", "-f", "json", &bundle.id]).ok().stdout, format!("[{pid}]\n"));
    host.kelson(["kill", "--all", &bundle.id, "KILL"]).ok();
    assert_eq!(host.reap(pid), -(Signal::SIGKILL as i32));
    bundle.delete(false).ok();
}
