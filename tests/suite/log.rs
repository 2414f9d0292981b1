//! The log: what engines decode of a failure.

use std::fs;

use serde_json::{Value, json};

use crate::harness::Host;

fn is_rfc3339(time: &str) -> bool {
    let shape = time.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte }).collect::<Vec<_>>();
    shape == b"0000-00-00T00:00:00Z"
}

#[test]
fn a_failure_is_one_json_object_in_the_log_and_text_on_standard_error() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let log = host.temp.join("log.json");
    // A warning that must not come before the error: podman decodes the whole file as one object.
    bundle.config["process"]["capabilities"]["bounding"] = json!(["CAP_MOON"]);
    bundle.args(&["/bin/nothing"]);
    bundle.global_flags = vec!["--log-format=json".into(), "--log".into(), log.display().to_string()];
    for verb in ["create", "run"] {
        let _ = fs::remove_file(&log);
        let output = bundle.making(verb, &[]).run().fails_with("no such file or directory");
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!((text.lines().count(), text.ends_with('\n')), (1, true), "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "error");
        assert!(output.stderr.contains(line["msg"].as_str().unwrap()), "{output:?}");
        assert!(is_rfc3339(line["time"].as_str().unwrap()), "{text}");
        assert_eq!(line["pointer"], "/process/args/0");
    }
}

#[test]
fn the_log_is_appended_to() {
    let host = Host::new();
    let log = host.temp.join("log.json");
    for count in 1..=3 {
        host.kelson(["--log", log.to_str().unwrap(), "--log-format", "json", "state", "x"]).fails_with("not exist");
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!(text.lines().count(), count);
        assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
    }
}

#[test]
fn without_a_log_the_error_is_one_line_of_text_on_standard_error() {
    let host = Host::new();
    let output = host.kelson(["state", "x"]);
    assert_eq!((output.code, output.stdout.as_str()), (1, ""));
    let line = output.stderr.strip_suffix('\n').unwrap();
    let rest = line.strip_prefix("time=\"").unwrap();
    let (time, rest) = rest.split_once('"').unwrap();
    assert!(is_rfc3339(time), "{line}");
    assert!(rest.starts_with(" level=error msg=\"") && rest.ends_with('"'), "{line}");
    let json = host.kelson(["--log-format", "json", "state", "x"]);
    assert_eq!(serde_json::from_str::<Value>(&json.stderr).unwrap()["level"], "error");
}

#[test]
fn a_warning_is_logged_when_nothing_fails() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let log = host.temp.join("log.json");
    bundle.config["process"]["capabilities"]["bounding"] = json!(["CAP_MOON"]);
    bundle.global_flags = vec!["--log-format=json".into(), "--log".into(), log.display().to_string()];
    let output = bundle.run().ok();
    assert_eq!(output.stderr, "");
    let line: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(line["level"], "warning");
    assert!(line["msg"].as_str().unwrap().contains("CAP_MOON"));
}

#[test]
fn success_is_silent() {
    let host = Host::new();
    let bundle = host.bundle();
    let log = host.temp.join("log");
    for output in [bundle.create(), bundle.start(), bundle.delete(true)] {
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (0, "", ""));
    }
    host.kelson(["--log", log.to_str().unwrap(), "--log-format", "json", "delete", "--force", "x"]).ok();
    assert_eq!(fs::read_to_string(&log).unwrap_or_default(), "");
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error() {
    let host = Host::new();
    let bundle = host.bundle();
    let (path, log) = (bundle.path.to_str().unwrap(), host.temp.join("nowhere/log"));
    bundle.write_config();
    host.kelson(["--log", log.to_str().unwrap(), "create", "--bundle", path, &bundle.id])
        .fails_with("cannot open the log");
    assert!(!host.root.exists());
}

#[test]
fn a_log_may_be_a_pipe() {
    let host = Host::new();
    let call = host.call(["--log", "/dev/stderr", "--log-format", "json", "state", "x"]);
    let output = call.run();
    assert_eq!(output.code, 1);
    assert!(output.stderr.lines().any(|line| serde_json::from_str::<Value>(line).is_ok()), "{output:?}");
}

#[test]
fn debug_says_more_and_keeps_the_form() {
    let host = Host::new();
    let bundle = host.bundle();
    let log = host.temp.join("log.json");
    let flags = ["--debug", "--log-format", "json", "--log"];
    bundle.write_config();
    let words = [&flags[..], &[log.to_str().unwrap(), "run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]];
    host.kelson(words.concat()).ok();
    let text = fs::read_to_string(&log).unwrap_or_default();
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line["msg"].is_string())));
}
