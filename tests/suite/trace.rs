//! `--trace FILE`: how long each step took, as Chrome's tracing has it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Bundle, Host};
use crate::support::namespace;

/// Name, process, begin and end of each step, in microseconds.
type Step = (String, String, f64, f64);

fn steps(file: &Path) -> Vec<Step> {
    let events: Vec<Value> = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let names = events.iter().filter(|event| event["ph"] == "M");
    let names: Vec<_> = names.map(|event| (event["tid"].clone(), event["args"]["name"].clone())).collect();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let process = |tid: &Value| text(&names.iter().find(|(number, _)| number == tid).unwrap().1);
    let timed = events.iter().filter(|event| event["ph"] == "X");
    timed
        .map(|event| {
            let (begin, length) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
            (text(&event["name"]), process(&event["tid"]), begin, begin + length)
        })
        .collect()
}

/// The names of one process's steps, once it is seen that each begins where the one before ended.
fn of<'a>(process: &str, steps: &'a [Step]) -> Vec<&'a str> {
    let own: Vec<_> = steps.iter().filter(|step| step.1 == process).collect();
    for pair in own.windows(2) {
        assert!((pair[0].3 - pair[1].2).abs() < 0.01, "{pair:?}");
    }
    own.iter().map(|step| step.0.as_str()).collect()
}

fn traced(bundle: &mut Bundle, host: &Host, name: &str) -> std::path::PathBuf {
    let file = host.temp.join(name);
    bundle.global_flags = vec!["--trace".into(), file.display().to_string()];
    file
}

#[test]
fn a_run_is_traced_from_begin_to_end() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let file = traced(&mut bundle, &host, "run.json");
    bundle.args(&["/bin/true"]).run().ok();
    let steps = steps(&file);
    let runtime = of("runtime", &steps);
    assert_eq!((runtime.first(), runtime.last()), (Some(&"begin"), Some(&"end")), "{runtime:?}");
    for name in ["config", "plan", "state", "cgroup", "clone", "ready", "program"] {
        assert!(runtime.contains(&name), "{name} is not in {runtime:?}");
    }
    let init = of("init", &steps);
    assert_eq!(init[..4], ["begin", "namespaces", "sources", "rootfs"]);
    assert!(init.contains(&"pivot") && init.contains(&"process"), "{init:?}");
    let at = |name: &str, process: &str| steps.iter().find(|step| step.0 == name && step.1 == process).unwrap();
    assert!(at("mounts", "init").2 >= at("cgroup", "runtime").2);
    assert!(at("process", "init").3 <= at("program", "runtime").3);
}

#[test]
fn create_start_and_exec_are_traced_and_leave_nothing_of_the_trace_in_the_container() {
    let host = Host::new();
    let mut bundle = host.bundle();
    namespace(&mut bundle, "time", None);
    bundle.args(&["/bin/sleep", "100"]);
    let file = traced(&mut bundle, &host, "create.json");
    bundle.create().ok();
    let created = steps(&file);
    assert_eq!(of("stage", &created).last(), Some(&"namespaces"));
    assert!(of("init", &created).contains(&"mounts"), "{created:?}");
    let pipes = |pid: i32| {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let targets = entries.map(|entry| fs::read_link(entry.unwrap().path()).unwrap());
        targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).count()
    };
    assert_eq!(pipes(bundle.pid()), 0);
    bundle.global_flags.clear();
    bundle.start().ok();
    let file = host.temp.join("exec.json");
    bundle.exec(&["--trace", file.to_str().unwrap()], &["/bin/true"]).run().ok();
    let added = steps(&file);
    let stage = of("stage", &added);
    assert!(stage.first() == Some(&"begin") && stage.contains(&"process"), "{stage:?}");
    assert_eq!(of("runtime", &added)[0], "begin");
    bundle.delete_by_force();
}

#[test]
fn what_fails_is_traced_too() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let file = traced(&mut bundle, &host, "failed.json");
    bundle.args(&["/bin/nothing"]).making("run", &[]).run().fails_with("no such file or directory");
    assert_eq!(of("init", &steps(&file)).last(), Some(&"process"));
}

#[test]
fn a_trace_that_cannot_be_written_is_an_error_before_anything_is_made() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.global_flags = vec!["--trace=/nowhere/trace".into()];
    bundle.making("create", &[]).run().fails_with("cannot open the trace: /nowhere/trace: ENOENT");
    bundle.global_flags.clear();
    host.kelson(["state", &bundle.id]).fails_with("does not exist");
}
