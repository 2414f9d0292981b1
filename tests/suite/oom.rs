//! Memory that runs out: the error or the log says so, with the limit, the peak and the kernel's own words.

use serde_json::json;

use crate::harness::{Bundle, Host};
use crate::limits::has;

fn limit(bundle: &mut Bundle<'_>, bytes: u64) {
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": bytes, "swap": bytes});
}

#[test]
fn a_program_that_runs_out_of_memory_is_told_of() {
    if !has("memory") {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    limit(&mut bundle, 33_554_432);
    bundle.args(&["/bin/probe", "memory", "64"]);
    let output = bundle.run();
    assert_eq!((output.code, output.stderr.lines().count()), (128 + 9, 1), "{output:?}");
    for part in ["level=warning", "its limit is 33554432 bytes, its peak was 33554432", "oom_kill 1"] {
        assert!(output.stderr.contains(part), "{part}: {output:?}");
    }
    // Killed by somebody else.
    bundle.script("kill -9 $$; sleep 1");
    bundle.share("pid");
    let output = bundle.run();
    assert_eq!((output.code, output.stderr.as_str()), (128 + 9, ""), "{output:?}");
}

#[test]
fn an_init_that_runs_out_of_memory_is_an_error_of_create() {
    if !has("memory") {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    limit(&mut bundle, 65_536);
    let output = bundle.create().fails_with("was killed by SIGKILL before it was ready");
    assert!(output.stderr.contains("ran out of memory: its limit is 65536 bytes"), "{output:?}");
    assert!(output.stderr.contains("(config.json /linux/resources/memory/limit)"), "{output:?}");
    assert!(!host.root.join(&bundle.id).exists());
}

#[test]
fn an_exec_that_runs_out_of_memory_is_told_of() {
    if !has("memory") {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    limit(&mut bundle, 33_554_432);
    bundle.args(&["/bin/sleep", "100"]).up();
    let eat = || host.kelson(["exec", &bundle.id, "/bin/probe", "memory", "64"]);
    for count in [1, 2] {
        let output = eat();
        assert_eq!((output.code, output.stderr.lines().count()), (128 + 9, 1), "{output:?}");
        for part in ["level=warning", "its limit is 33554432 bytes", &format!("oom_kill {count}")] {
            assert!(output.stderr.contains(part), "{part}: {output:?}");
        }
    }
    // Killed by somebody else, after memory had run out before.
    let output = host.kelson(["exec", &bundle.id, "/bin/sh", "-c", "kill -9 $$; sleep 1"]);
    assert_eq!((output.code, output.stderr.as_str()), (128 + 9, ""), "{output:?}");
    bundle.delete_by_force();
}

#[test]
fn a_limit_of_half_a_megabyte_is_enough_to_start_and_to_exec() {
    if !has("memory") {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    limit(&mut bundle, 524_288);
    bundle.args(&["/bin/sleep", "100"]).up();
    assert_eq!(host.kelson(["exec", &bundle.id, "/bin/echo", "hello"]).ok().stdout, "hello\n");
    host.kelson(["exec", "--detach", &bundle.id, "/bin/true"]).ok();
    bundle.delete_by_force();
}
