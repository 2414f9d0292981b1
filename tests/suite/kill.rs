//! Signals: to init, to all, in a shared pid namespace, and never to somebody else.

use std::fs;

use serde_json::Value;

use crate::harness::{Bundle, Host, Running, is_alive, wait_until};

/// A container that notes the signals it gets in a file of the returned path.
fn listening<'a>(host: &'a Host, bundle: &mut Bundle<'a>) -> std::path::PathBuf {
    let shared = host.temp.join("shared");
    fs::create_dir_all(&shared).unwrap();
    bundle.mount("/shared", "bind", &shared, &["bind"]);
    bundle.script("exec /bin/probe signals > /shared/log").up();
    let log = shared.join("log");
    wait_until("the program listens", || fs::read_to_string(&log).is_ok_and(|text| text.contains("ready")));
    log
}

#[test]
fn signals_have_names_and_numbers_and_term_is_the_default() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let log = listening(&host, &mut bundle);
    for (signal, name) in [("USR1", "SIGUSR1"), ("SIGHUP", "SIGHUP"), ("12", "SIGUSR2"), ("sigint", "SIGINT")] {
        bundle.kill(signal).ok();
        wait_until(name, || fs::read_to_string(&log).unwrap().lines().last() == Some(name));
    }
    bundle.kill("RTMIN+3").ok();
    wait_until("RTMIN+3", || fs::read_to_string(&log).unwrap().contains("SIGRTMIN+3"));
    for wrong in ["65", "SIG", "MOON", "TERM "] {
        bundle.kill(wrong).fails_with("unknown signal");
    }
    let pid = bundle.pid();
    host.kelson(["kill", &bundle.id]).ok();
    assert_eq!(host.reap(pid), 0);
    assert!(fs::read_to_string(&log).unwrap().ends_with("SIGTERM\n"));
    bundle.delete(false).ok();
}

#[test]
fn signal_0_looks_whether_there_is_a_process() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    bundle.kill("0").ok();
    assert_eq!(bundle.status(), "running");
    bundle.kill("KILL").ok();
    host.reap_container(&bundle);
    bundle.kill("0").fails_with("container not running");
    bundle.delete(false).ok();
}

#[test]
fn a_created_container_takes_signals() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.create().ok();
    let pid = bundle.pid();
    bundle.kill("KILL").ok();
    assert_eq!(host.reap(pid), -9);
    bundle.delete(false).ok();
}

/// The host's pids of a container's processes.
fn processes(bundle: &Bundle) -> Vec<i32> {
    let text = fs::read_to_string(bundle.cgroup("pids").join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[test]
fn all_processes_get_a_signal_for_all() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.script("trap 'exit 5' TERM; sleep 100 & sleep 100 & wait").up();
    wait_until("all run", || processes(&bundle).len() == 3);
    let (pid, all) = (bundle.pid(), processes(&bundle));
    host.kelson(["kill", "--all", &bundle.id, "TERM"]).ok();
    assert_eq!(host.reap(pid), 5);
    wait_until("all have ended", || !all.iter().any(|pid| is_alive(*pid)));
    bundle.kill("TERM").fails_with("container not running");
    host.kelson(["kill", "--all", &bundle.id, "KILL"]).ok();
    host.kelson(["kill", "-a", &bundle.id, "9"]).ok();
    bundle.delete(false).ok();
}

#[test]
fn without_a_pid_namespace_a_kill_ends_every_process() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.share("pid").script("sleep 100 & sleep 100 & wait").up();
    wait_until("all run", || processes(&bundle).len() == 3);
    let all = processes(&bundle);
    bundle.kill("KILL").ok();
    host.reap_container(&bundle);
    wait_until("all have ended", || !all.iter().any(|pid| is_alive(*pid)));
    bundle.delete(false).ok();
}

#[test]
fn without_a_pid_namespace_others_are_killed_after_init() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.share("pid").script("sleep 100 & sleep 100 & exit 0").up();
    host.reap_container(&bundle);
    let all = processes(&bundle);
    assert_eq!((all.len(), bundle.status().as_str()), (2, "stopped"));
    bundle.kill("KILL").ok();
    wait_until("all have ended", || !all.iter().any(|pid| is_alive(*pid)));
    bundle.kill("KILL").fails_with("container not running");
    bundle.delete(false).ok();
}

#[test]
fn what_lives_on_without_a_pid_namespace_ends_with_the_delete() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.share("pid").script("sleep 100 & sleep 100 & exit 0").up();
    host.reap_container(&bundle);
    let all = processes(&bundle);
    assert_eq!(all.len(), 2);
    bundle.delete(false).ok();
    assert!(!all.iter().any(|pid| is_alive(*pid)));
}

/// A process that began later than anything before: start times count hundredths of a second.
fn later_process(host: &Host) -> Running {
    std::thread::sleep(std::time::Duration::from_millis(20));
    host.command(["/bin/sleep", "100"]).spawn()
}

/// Makes the state name another process as init.
fn forge(bundle: &Bundle, pid: i32) {
    let path = bundle.state_path("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["init"]["pid"] = pid.into();
    fs::write(&path, state.to_string()).unwrap();
}

#[test]
fn another_process_with_inits_id_gets_no_signal() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.up();
    host.reap_container(&bundle);
    let other = later_process(&host);
    forge(&bundle, other.pid());
    assert_eq!(bundle.status(), "stopped");
    assert_eq!(bundle.state()["pid"], 0);
    bundle.kill("KILL").fails_with("container not running");
    host.kelson(["kill", "--all", &bundle.id, "KILL"]).ok();
    bundle.start().fails_with("cannot start");
    bundle.delete(false).ok();
    assert!(is_alive(other.pid()));
}

#[test]
fn another_process_with_inits_id_survives_a_delete_by_force() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.share("pid").args(&["/bin/sleep", "100"]).up();
    let (pid, other) = (bundle.pid(), later_process(&host));
    forge(&bundle, other.pid());
    bundle.delete_by_force();
    assert!(is_alive(other.pid()));
    assert!(!is_alive(pid), "what is in the container's cgroup is the container's");
}
