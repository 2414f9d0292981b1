//! `events`: runc's JSON of what a container uses, at intervals and once, and of memory that ran out.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Bundle, Host, Running, View, wait_until};
use crate::limits::has;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn follow(host: &Host, bundle: &Bundle, interval: &str) -> Running {
    host.call(["events", "--interval", interval, &bundle.id]).spawn()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn statistics_are_shown_once() {
    let host = Host::new();
    let mut bundle = host.bundle();
    if View::current() != View::V2 {
        bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432});
        bundle.config["linux"]["resources"]["pids"] = json!({"limit": 77});
        bundle.config["linux"]["resources"]["cpu"] = json!({"cpus": "0"});
    }
    bundle.script("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100 & wait").up();
    wait_until("both run", || host.kelson(["ps", "-f", "json", &bundle.id]).stdout.matches(',').count() == 1);
    let output = host.kelson(["events", "--stats", &bundle.id]).ok();
    assert!(output.stdout.starts_with(&format!(r#"{{"type":"stats","id":"{}","data":{{"cpu":{{"usage""#, bundle.id)));
    let data = &lines(&output.stdout)[0]["data"];
    let mut expected =
        ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"].to_vec();
    expected.sort_unstable();
    assert_eq!(keys(data), expected);
    let usage = &data["cpu"]["usage"];
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} in {output:?}"));
    assert!(number(&usage["total"]) > 1_000_000, "{output:?}");
    assert_eq!(data["pids"]["current"], 2);
    if View::current() == View::V2 {
        for part in [&data["cpu"]["psi"], &data["memory"]["psi"], &data["blkio"]["psi"]] {
            assert!(part.is_null() || part["some"].is_null() || number(&part["some"]["total"]) > 0, "{output:?}");
        }
        return bundle.delete_by_force();
    }
    let percpu = usage["percpu"].as_array().unwrap();
    assert_eq!(percpu.iter().map(number).sum::<u64>(), number(&usage["total"]));
    assert_eq!(data["cpuset"]["cpus"], json!([0]));
    assert_eq!(data["memory"]["usage"]["limit"], 33_554_432);
    assert!(number(&data["memory"]["usage"]["usage"]) > 0);
    assert_eq!(data["memory"]["raw"]["hierarchical_memory_limit"], 33_554_432);
    assert_eq!(data["pids"]["limit"], 77);
    bundle.delete_by_force();
}

#[test]
fn statistics_are_what_runc_shows() {
    const RUNC: &str = "/usr/sbin/runc";
    // runc is asked about a cgroup of the same path; v2's memory and io controllers are not in every view.
    if !std::path::Path::new(RUNC).exists() || View::current() != View::Hybrid {
        return crate::harness::skip("runc is not installed, or this view is none of its");
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).write_config();
    let root = host.temp.join("runc");
    let runc = |words: &[&str]| {
        let front = [RUNC, "--root", root.to_str().unwrap()];
        host.command(front.iter().chain(words)).run().ok()
    };
    runc(&["run", "--detach", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let theirs = lines(&runc(&["events", "--stats", &bundle.id]).stdout).remove(0);
    runc(&["delete", "--force", &bundle.id]);
    bundle.up();
    let ours = lines(&host.kelson(["events", "--stats", &bundle.id]).ok().stdout).remove(0);
    bundle.delete_by_force();
    let mut differences = Vec::new();
    compare("", &theirs, &ours, &mut differences);
    // What depends on the disk; what runc leaves out since 1.5, where it is empty; and the hierarchy of hugetlb, at which
    // runc does not look on a hybrid host.
    let known = ["/data/blkio", "/data/cpu/throttling", "/data/hugetlb"];
    differences.retain(|path| !known.iter().any(|prefix| path.starts_with(prefix)));
    assert!(differences.is_empty(), "{differences:?}\n{theirs}\n{ours}");
}

/// Where the two have other keys, or values of another kind.
fn compare(path: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            for key in one.keys().chain(other.keys()) {
                match (one.get(key), other.get(key)) {
                    (Some(one), Some(other)) => compare(&format!("{path}/{key}"), one, other, found),
                    (one, _) => found.push(format!("{path}/{key} {}", if one.is_some() { "missing" } else { "new" })),
                }
            }
        }
        (Value::Number(_), Value::Number(_)) => {}
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {}
        (one, other) if one == other => {}
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn statistics_come_at_intervals_until_the_container_ends() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    let began = Instant::now();
    let events = follow(&host, &bundle, "200ms");
    wait_until("three have come", || events.stdout().lines().count() >= 3);
    assert!(began.elapsed() >= Duration::from_millis(600));
    bundle.kill("KILL").ok();
    host.reap_container(&bundle);
    let output = events.wait().ok();
    assert!(lines(&output.stdout).iter().all(|line| line["type"] == "stats" && line["id"] == json!(bundle.id)));
    for flags in [&["--stats"][..], &[]] {
        let words = ["events"].iter().chain(flags).copied().chain([bundle.id.as_str()]);
        host.kelson(words).fails_with("container not running");
    }
    bundle.delete(false).ok();
    host.kelson(["events", "--stats", &bundle.id]).fails_with("does not exist");
}

#[test]
fn events_end_with_a_container_that_is_deleted_and_with_their_reader() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    let events = follow(&host, &bundle, "1h");
    std::thread::sleep(Duration::from_millis(50));
    bundle.delete_by_force();
    assert_eq!(events.wait().ok().stdout, "");
    bundle.up();
    let script = "\"$@\" | head -n 1";
    let call = host.call(["events", "--interval", "10ms", &bundle.id]).before(["/bin/sh", "-c", script, "sh"]);
    assert_eq!(call.run().ok().stdout.lines().count(), 1);
    bundle.delete_by_force();
}

#[test]
fn wrong_intervals_are_refused() {
    let host = Host::new();
    for wrong in ["0s", "5", "x", "-1s"] {
        host.kelson(["events", &format!("--interval={wrong}"), "some"]).fails_with("no time above zero");
    }
}

#[test]
fn memory_that_runs_out_is_an_event() {
    if !has("memory") {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432, "swap": 33_554_432});
    let shared = host.temp.join("shared");
    fs::create_dir(&shared).unwrap();
    bundle.mount("/shared", "bind", &shared, &["bind"]);
    bundle.script("while :; do [ -e /shared/go ] && rm /shared/go && /bin/probe memory 64; sleep 0.01; done").up();
    let events = follow(&host, &bundle, "1h");
    let count = |expected: usize| wait_until("it was told of", || events.stdout().lines().count() == expected);
    std::thread::sleep(Duration::from_millis(100));
    for expected in [1, 2] {
        fs::write(shared.join("go"), "").unwrap();
        count(expected);
    }
    bundle.kill("KILL").ok();
    host.reap_container(&bundle);
    let line = format!(r#"{{"type":"oom","id":"{}"}}"#, bundle.id);
    assert_eq!(events.wait().ok().stdout, format!("{line}\n{line}\n"));
    // When it is init that is killed, the event still comes.
    bundle.delete(false).ok();
    bundle.script("while ! [ -e /shared/go ]; do sleep 0.01; done; exec /bin/probe memory 64").up();
    let events = follow(&host, &bundle, "1h");
    std::thread::sleep(Duration::from_millis(100));
    fs::write(shared.join("go"), "").unwrap();
    assert_eq!(host.reap_container(&bundle), -9);
    assert_eq!(events.wait().ok().stdout, format!("{line}\n"));
    bundle.delete(false).ok();
}

/// Resident memory in kB.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn events_do_not_grow() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    let events = follow(&host, &bundle, "1ms");
    let count = || events.stdout().lines().count();
    wait_until("some have come", || count() > 20);
    let before = resident(events.pid());
    wait_until("many have come", || count() > 300);
    let after = resident(events.pid());
    assert!(after <= before + 4, "from {before} kB to {after} kB");
    bundle.delete_by_force();
    events.wait().ok();
}
