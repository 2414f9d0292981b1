//! A signal that asks kelson to end while it makes a container: nothing is left, and nothing is waited for.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Bundle, Host, hierarchies, seconds, wait_until};
use crate::support::{Neighbour, namespace};

/// A hook that says that it runs, by a file, and goes on for long.
fn long_hook(host: &Host) -> serde_json::Value {
    let script = format!("touch {}; exec sleep 100", host.temp.join("runs").display());
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
}

fn interrupted(host: &Host, bundle: &Bundle, verb: &str, flags: &[&str], signal: Signal) {
    let marker = host.temp.join("runs");
    let call = bundle.making(verb, flags).spawn();
    wait_until("the hook runs", || marker.exists());
    let began = Instant::now();
    call.signal(signal);
    // A second one does not keep it from cleaning up.
    call.signal(Signal::SIGTERM);
    call.wait().fails_with("the creation of the container was interrupted by SIG");
    assert!(began.elapsed() < seconds(3));
    fs::remove_file(marker).unwrap();
    assert!(!host.root.join(&bundle.id).exists());
    let cgroups = hierarchies().into_iter().map(|hierarchy| hierarchy.join(&bundle.id));
    assert_eq!(cgroups.filter(|cgroup| cgroup.exists()).count(), 0, "{verb} {flags:?} {signal}");
}

#[test]
fn a_signal_while_a_container_is_made_ends_it_whole() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}/a/b", bundle.id));
    for hook in ["prestart", "createRuntime", "createContainer"] {
        bundle.config["hooks"] = json!({hook: long_hook(&host)});
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            interrupted(&host, &bundle, "create", &[], signal);
            interrupted(&host, &bundle, "run", &[], signal);
            interrupted(&host, &bundle, "run", &["--detach"], signal);
        }
    }
}

#[test]
fn a_signal_ends_a_container_whose_init_a_stage_has_made() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let neighbour = Neighbour::new(&host, &["--time"]);
    namespace(&mut bundle, "time", Some(&neighbour.path("time_for_children")));
    bundle.config["hooks"] = json!({"createRuntime": long_hook(&host)});
    interrupted(&host, &bundle, "create", &[], Signal::SIGTERM);
}

#[test]
fn signals_at_any_moment_leave_nothing_or_a_whole_container() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    for turn in 0..40 {
        let call = bundle.making("create", &[]).spawn();
        std::thread::sleep(Duration::from_micros(turn * 300));
        call.signal(Signal::SIGTERM);
        let output = call.wait();
        if output.code == 0 {
            assert_eq!(bundle.status(), "created");
            bundle.delete_by_force();
        } else if output.code != 1 {
            // Before it began, when nothing was there that could be left.
            assert_eq!(output.code, -(Signal::SIGTERM as i32), "{output:?}");
        }
        let left = host.wait_for_no_differences();
        assert!(left.is_empty(), "after {turn} turns: {output:?}: {left:?}");
    }
}

#[test]
fn what_the_caller_has_ignored_stays_ignored() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "kill -HUP $PPID"]}]});
    // Both are said: whoever runs the tests may ignore it (nohup).
    bundle.making("run", &[]).before(["/usr/bin/env", "--ignore-signal=HUP"]).run().ok();
    bundle
        .making("run", &[])
        .before(["/usr/bin/env", "--default-signal=HUP"])
        .run()
        .fails_with("interrupted by SIGHUP");
}

#[test]
fn a_started_container_gets_the_signals_of_a_foreground_run() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.script("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done");
    let call = bundle.making("run", &[]).spawn();
    wait_until("it runs", || call.stdout() == "ready\n");
    wait_until("kelson waits for its end", || holds(call.pid(), Signal::SIGTERM));
    call.signal(Signal::SIGTERM);
    assert_eq!(call.wait().code, 7);
}

/// Whether a process blocks `signal`, so as to wait for it.
fn holds(pid: i32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap_or_default();
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 << (signal as i32 - 1) != 0)
}
