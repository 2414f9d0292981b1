//! A runtime that is killed at any moment leaves something that `delete --force` removes whole.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Bundle, Host, Output, children, is_alive, wait_until};
use crate::support::{STRACE, clean_up, has_strace};

/// Runs `verb`, killed at the system call `call` when it is made the `count`th time; nothing if it was not.
fn killed_at(bundle: &Bundle, verb: &str, call: &str, count: u32) -> Option<Output> {
    let inject = format!("inject={call}:signal=KILL:when={count}");
    let trace = format!("trace={call}");
    let output = bundle.making(verb, &[]).before([STRACE, "-o", "/dev/null", "-e", &trace, "-e", &inject]).run();
    (output.code == -9).then_some(output)
}

/// Kills `verb` at the first `most` times it makes each of `calls`.
fn sweep(host: &Host, bundle: &Bundle, verb: &str, calls: &[&str], most: u32) {
    for call in calls {
        for count in 1..=most {
            if killed_at(bundle, verb, call, count).is_none() {
                bundle.delete_by_force();
                break;
            }
            clean_up(host, bundle, &format!("{verb} was killed at {call} number {count}"));
        }
    }
}

#[test]
fn a_create_killed_at_what_it_makes() {
    if !has_strace() {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    sweep(&host, &bundle, "create", &["mkdir", "mkdirat", "clone3", "rename", "bind", "socketpair", "flock"], 3);
}

#[test]
fn a_create_killed_while_it_talks_to_init() {
    if !has_strace() {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}/a/b", bundle.id));
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]});
    sweep(&host, &bundle, "create", &["read", "write", "wait4", "clone", "execve"], 20);
}

#[test]
fn a_run_killed_at_what_it_makes() {
    if !has_strace() {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "0.01"]);
    sweep(&host, &bundle, "run", &["clone3", "rename", "read", "write", "wait4", "rmdir", "unlinkat", "unlink"], 2);
}

/// The system calls that `verb` makes itself, each with how many of its kind there were up to it.
fn calls_of(host: &Host, bundle: &Bundle, verb: &str) -> Vec<(String, u32)> {
    let trace = host.temp.join("trace");
    let output = bundle.making(verb, &[]).before([STRACE, "-o", trace.to_str().unwrap()]).run().ok();
    bundle.delete_by_force();
    let text = fs::read_to_string(&trace).unwrap();
    let names = text.lines().filter_map(|line| Some(line.split_once('(')?.0));
    let mut counts = BTreeMap::new();
    let count = |name: &str| {
        let count = counts.entry(name.to_owned()).or_insert(0);
        *count += 1;
        (name.to_owned(), *count)
    };
    let calls: Vec<_> =
        names.filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')).map(count).collect();
    assert!(calls.len() > 100, "{output:?}: {calls:?}");
    calls
}

/// Kills `verb` at every system call that it makes.
fn sweep_all(host: &Host, bundle: &Bundle, verb: &str) {
    for (call, count) in calls_of(host, bundle, verb) {
        let was_killed = killed_at(bundle, verb, &call, count).is_some();
        let how = if was_killed { "killed" } else { "not killed" };
        clean_up(host, bundle, &format!("{verb} was {how} at {call} number {count}"));
    }
}

#[test]
#[ignore = "takes a minute"]
fn a_create_killed_at_every_system_call() {
    if !has_strace() {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}/a/b", bundle.id));
    sweep_all(&host, &bundle, "create");
}

#[test]
#[ignore = "takes a minute"]
fn a_run_in_a_user_namespace_killed_at_every_system_call() {
    if !has_strace() {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "0.01"]);
    crate::support::user_namespace(&mut bundle, 100_000);
    bundle.config["hooks"] = json!({"prestart": [{"path": "/bin/true"}], "createContainer": [{"path": "/bin/true"}]});
    sweep_all(&host, &bundle, "run");
}

#[test]
fn a_delete_killed_on_its_way_can_be_repeated() {
    if !has_strace() {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}/a", bundle.id));
    for call in ["kill", "pidfd_send_signal", "rmdir", "unlinkat", "unlink", "wait4", "poll"] {
        for count in 1..=3 {
            bundle.up();
            let (inject, trace) = (format!("inject={call}:signal=KILL:when={count}"), format!("trace={call}"));
            let words = [STRACE, "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let output = host.call(["delete", "--force", &bundle.id]).before(words).run();
            clean_up(&host, &bundle, &format!("delete was killed at {call} number {count}"));
            if output.code == 0 {
                break;
            }
        }
    }
}

#[test]
fn a_start_killed_on_its_way_leaves_a_container_to_delete() {
    if !has_strace() {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    for call in ["connect", "write", "read", "unlink"] {
        bundle.create().ok();
        let (inject, trace) = (format!("inject={call}:signal=KILL"), format!("trace={call}"));
        let words = [STRACE, "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let output = host.call(["start", &bundle.id]).before(words).run();
        assert_eq!(output.code, -9, "{call}: {output:?}");
        assert!(matches!(bundle.status().as_str(), "created" | "running" | "stopped"), "{call}");
        clean_up(&host, &bundle, &format!("start was killed at {call}"));
    }
}

/// A sequence of numbers that looks random and is the same each time.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    })
}

#[test]
fn runtimes_killed_at_any_moment() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "0.005"]);
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}/a/b", bundle.id));
    for (turn, number) in numbers(42).take(40).enumerate() {
        let verb = if turn % 2 == 0 { "create" } else { "run" };
        let time = Duration::from_micros(number % 15_000);
        let call = bundle.making(verb, &[]).spawn();
        std::thread::sleep(time);
        call.signal(Signal::SIGKILL);
        call.wait();
        clean_up(&host, &bundle, &format!("{verb} was killed after {time:?}"));
    }
}

/// Once an init that had not yet asked to end with its parent waited for ever for a start that could not come.
#[test]
fn what_a_runtime_has_just_made_ends_with_it() {
    if !has_strace() {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    let slow = "inject=prctl:delay_enter=500000:when=1";
    let words = [STRACE, "-f", "-o", "/dev/null", "-e", "trace=prctl", "-e", slow];
    let create = bundle.making("create", &[]).before(words).spawn();
    let child_of = |pid: i32| children(pid).first().copied();
    let runtime = || child_of(create.pid());
    wait_until("init is made", || runtime().and_then(child_of).is_some());
    let runtime = runtime().unwrap();
    let init = child_of(runtime).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(runtime), Signal::SIGKILL).unwrap();
    wait_until("init has ended by itself", || !is_alive(init));
    create.wait();
    clean_up(&host, &bundle, "create was killed after it had made init");
}

#[test]
fn init_killed_at_any_moment_is_an_error_of_create() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let script = r#"kill -9 $(sed 's/.*"pid":\([0-9]*\).*/\1/')"#;
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    for output in [bundle.create(), bundle.run()] {
        output.fails_with("init was killed by SIGKILL");
        assert!(!host.root.join(&bundle.id).exists());
    }
}
