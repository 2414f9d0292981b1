//! `run`: exit codes, detached and in the foreground, signals passed on; and the pid file.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;

use crate::harness::{Host, children, is_alive, wait_until};

#[test]
fn the_exit_code_is_the_programs() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for code in [0, 1, 7, 255] {
        assert_eq!(bundle.script(&format!("exit {code}")).run().code, code);
    }
    for (signal, code) in [("KILL", 128 + 9), ("TERM", 128 + 15), ("SEGV", 128 + 11)] {
        bundle.share("pid").args(&["/bin/probe", "kill-self", signal]);
        assert_eq!(bundle.run().code, code, "{signal}");
    }
    assert_eq!(bundle.script("kill -35 $$").run().code, 128 + 35, "a real-time signal");
}

#[test]
fn output_and_input_are_the_callers() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.script("read line; echo out $line; echo err >&2");
    let output = bundle.making("run", &[]).stdin("hello\n").run().ok();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out hello\n", "err\n"));
}

#[test]
fn an_error_is_exit_code_1_and_nothing_is_left() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/nothing"]).run().fails_with("no such file or directory");
    assert!(!host.root.join(&bundle.id).exists());
}

#[test]
fn a_detached_container_runs_on() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    bundle.making("run", &["--detach"]).run().ok();
    assert_eq!(bundle.status(), "running");
    let pid = bundle.pid();
    bundle.kill("KILL").ok();
    assert_eq!(host.reap(pid), -9);
    bundle.delete(false).ok();
    bundle.making("run", &["-d"]).run().ok();
    bundle.delete_by_force();
}

#[test]
fn a_kept_container_is_there_after_its_end() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.script("exit 5");
    assert_eq!(bundle.making("run", &["--keep"]).run().code, 5);
    assert_eq!(bundle.status(), "stopped");
    bundle.run().fails_with("already exists");
    bundle.delete(false).ok();
}

#[test]
fn a_foreground_container_is_deleted_under_its_run() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let running = bundle.args(&["/bin/sleep", "100"]).making("run", &[]).spawn();
    wait_until("it runs", || bundle.state_path("state.json").exists() && bundle.status() == "running");
    bundle.delete_by_force();
    assert_eq!(running.wait().code, 128 + 9);
}

#[test]
fn signals_are_passed_on() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let running = bundle.args(&["/bin/probe", "signals"]).making("run", &[]).spawn();
    wait_until("the program listens", || running.stdout().contains("ready"));
    let mut expected = "ready\n".to_owned();
    for signal in [Signal::SIGUSR1, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        running.signal(signal);
        expected += &format!("{signal}\n");
        wait_until(signal.as_str(), || running.stdout() == expected);
    }
    assert_eq!(running.wait().code, 0);
}

#[test]
fn orphans_leave_no_zombies() {
    let host = Host::new();
    let mut bundle = host.bundle();
    // Without a pid namespace the orphans become children of `run`; it has to reap them while it waits.
    bundle.share("pid").script("for i in 1 2 3; do sh -c 'sleep 0.01 & exit 0'; done; echo made; sleep 100");
    let running = bundle.making("run", &[]).spawn();
    wait_until("the orphans are made", || running.stdout().contains("made"));
    wait_until("init is the only child", || children(running.pid()).len() == 1);
    bundle.kill("KILL").ok();
    assert_eq!(running.wait().code, 128 + 9);
}

#[test]
fn the_end_of_init_is_the_end_of_run() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for namespace in ["own", "shared"] {
        if namespace == "shared" {
            bundle.share("pid");
        }
        assert_eq!(bundle.script("sleep 100 & exit 4").run().code, 4, "{namespace}");
    }
}

#[test]
fn the_pid_file_has_the_pid_and_nothing_else() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let path = host.temp.join("pid");
    bundle.args(&["/bin/sleep", "100"]).making("create", &["--pid-file", path.to_str().unwrap()]).run().ok();
    assert_eq!(fs::read_to_string(&path).unwrap(), bundle.pid().to_string());
    bundle.delete_by_force();
    fs::create_dir(host.temp.join("place")).unwrap();
    bundle.making("run", &["-d", "--pid-file", "relative"]).directory(host.temp.join("place")).run().ok();
    assert_eq!(fs::read_to_string(host.temp.join("place/relative")).unwrap(), bundle.pid().to_string());
    bundle.delete_by_force();
}

#[test]
fn the_pid_file_is_there_whole_or_not_at_all() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    let (path, done) = (host.temp.join("pid"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if let Ok(text) = fs::read_to_string(&path) {
                    return text;
                }
            }
            String::new()
        });
        let output = bundle.making("create", &["--pid-file", path.to_str().unwrap()]).run();
        done.store(true, Ordering::Relaxed);
        output.ok();
        let seen = watcher.join().unwrap();
        assert!(seen.is_empty() || seen == bundle.pid().to_string(), "{seen:?}");
    });
    bundle.delete_by_force();
}

#[test]
fn a_failure_writes_no_pid_file() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let (path, directory) = (host.temp.join("place/pid"), host.temp.join("place"));
    fs::create_dir(&directory).unwrap();
    let flags = ["--pid-file", path.to_str().unwrap()];
    bundle.args(&["/bin/nothing"]).making("create", &flags).run().fails_with("no such file");
    bundle.making("run", &flags).run().fails_with("no such file");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    fs::remove_dir(&directory).unwrap();
    bundle.args(&["/bin/true"]).making("create", &flags).run().fails_with("cannot write the pid file");
    assert!(!host.root.join(&bundle.id).exists(), "a pid file that cannot be written is a failure of create");
}

#[test]
fn the_caller_may_go_while_the_container_runs() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let running = bundle.args(&["/bin/sleep", "100"]).making("run", &[]).spawn();
    wait_until("it runs", || bundle.state_path("state.json").exists() && bundle.status() == "running");
    let pid = bundle.pid();
    running.signal(Signal::SIGKILL);
    assert_eq!(running.wait().code, -9);
    assert!(is_alive(pid), "a container that runs outlives the runtime");
    bundle.delete_by_force();
}

#[test]
fn a_caller_that_ignores_the_end_of_children_is_no_hindrance() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let python =
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])";
    bundle.wrapper = ["/usr/bin/python3", "-c", python].map(Into::into).to_vec();
    bundle.config["hooks"] = serde_json::json!({"createRuntime": [{"path": "/bin/true"}]});
    assert_eq!(bundle.script("exit 6").run().code, 6);
}

/// How often in a tight loop a `run` of a program that ends at once has to end.
fn end_at_once(times: usize) {
    let host = Host::new();
    let mut bundle = host.bundle();
    for round in 0..times {
        // Some end before they are waited for, some while they are, and some leave others behind.
        let (script, code) = match round % 4 {
            0 => ("exit 0", 0),
            1 => ("sleep 1 & exit 3", 3),
            2 => ("sleep 0.001; exit 4", 4),
            _ => ("kill -9 $$", 0),
        };
        bundle.script(script);
        assert_eq!(bundle.run().code, code, "round {round}");
    }
}

#[test]
fn runs_in_a_tight_loop_all_end() {
    end_at_once(60);
}

#[test]
#[ignore = "takes a minute"]
fn five_thousand_runs_in_a_tight_loop_all_end() {
    end_at_once(5000);
}

#[test]
fn no_signal_is_lost_between_the_start_and_the_wait() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["hooks"] = serde_json::json!({"poststart": [{"path": "/bin/sleep", "args": ["sleep", "0.3"]}]});
    let running = bundle.args(&["/bin/probe", "signals"]).making("run", &[]).spawn();
    wait_until("the program listens", || running.stdout().contains("ready"));
    // The runtime is busy with its hook.
    running.signal(Signal::SIGUSR1);
    wait_until("it has come", || running.stdout().contains("SIGUSR1"));
    running.signal(Signal::SIGTERM);
    let output = running.wait();
    assert!(output.stdout.contains("SIGUSR1\n") && output.stdout.contains("SIGTERM\n"), "{output:?}");
}
