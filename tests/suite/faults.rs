//! System calls that fail: what `conformance/crash` has found, one test for each.

use std::fs;

use serde_json::json;

use crate::harness::{Bundle, Call, Host, Output, View, is_alive, program};
use crate::support::{clean_up, namespace, user_namespace};

/// How often a call of one name may be made at most.
const MANY: usize = 60;

/// Runs a call in which the system call `place` (as `fault` takes it, such as `0:openat/3=EIO`) fails; nothing if it
/// was not made.
fn with_fault(host: &Host, call: &Call, place: &str) -> Option<Output> {
    let (fault, trace) = (program("fault"), host.temp.join("trace"));
    let output = call.clone().before([fault.to_str().unwrap(), trace.to_str().unwrap(), place, "-", "--"]).run();
    let is_hit = fs::read_to_string(&trace).unwrap().lines().any(|line| line.ends_with('*'));
    is_hit.then_some(output)
}

fn sleeper(host: &Host) -> Bundle<'_> {
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}/a/b", bundle.id));
    bundle
}

#[test]
fn a_hierarchy_that_cannot_be_looked_at_is_not_left_out() {
    let host = Host::new();
    let bundle = sleeper(&host);
    for count in 1..=if View::current().is_v2() { 1 } else { 4 } {
        let output = with_fault(&host, &bundle.making("create", &[]), &format!("0:statfs/{count}=EIO"));
        output.expect("a statfs").fails_with("cannot look at what is mounted");
    }
}

#[test]
fn a_create_that_cannot_open_something_leaves_nothing() {
    let host = Host::new();
    let bundle = sleeper(&host);
    for count in 1..MANY {
        let place = format!("0:openat/{count}=EIO");
        let Some(output) = with_fault(&host, &bundle.making("create", &[]), &place) else { break };
        if output.code != 0 {
            host.kelson(["state", &bundle.id]).fails_with("does not exist");
            assert!(!host.root.join(&bundle.id).exists(), "{place}");
        }
        clean_up(&host, &bundle, &place);
    }
    clean_up(&host, &bundle, "nothing failed");
}

#[test]
fn a_create_killed_before_it_has_made_anything_is_no_container() {
    let host = Host::new();
    let bundle = sleeper(&host);
    let output = with_fault(&host, &bundle.making("create", &[]), "0:flock/1=KILL").expect("a lock");
    assert_eq!(output.code, -9, "{output:?}");
    host.kelson(["state", &bundle.id]).fails_with("does not exist");
    bundle.create().fails_with("already exists");
    clean_up(&host, &bundle, "create was killed before its lock");
}

#[test]
fn a_cgroup_above_that_cannot_be_removed_fails_the_deletion_and_can_be_removed_later() {
    let host = Host::new();
    let bundle = sleeper(&host);
    for count in 1..MANY {
        bundle.up();
        let place = format!("0:unlinkat/{count}=EIO");
        let output = with_fault(&host, &host.call(["delete", "--force", &bundle.id]), &place);
        let Some(output) = output else { break };
        if output.code == 0 {
            // It was tried again.
            let left = host.wait_for_no_differences();
            assert!(left.is_empty(), "{place}: {left:?}");
        } else {
            output.fails_with("cannot remove a cgroup");
        }
        clean_up(&host, &bundle, &place);
    }
    clean_up(&host, &bundle, "nothing failed");
}

#[test]
fn a_process_that_cannot_be_looked_at_is_not_taken_for_dead() {
    let host = Host::new();
    let bundle = sleeper(&host);
    bundle.up();
    let pid = bundle.pid();
    for count in 1..MANY {
        let place = format!("0:openat/{count}=ENOMEM");
        let Some(output) = with_fault(&host, &host.call(["delete", &bundle.id]), &place) else { break };
        assert!(output.code == 1 && is_alive(pid), "{place}: {output:?}");
    }
    clean_up(&host, &bundle, "deletions that failed");
}

#[test]
fn a_message_that_cannot_be_sent_is_an_error_and_nobody_waits() {
    let host = Host::new();
    let mut bundle = sleeper(&host);
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]});
    user_namespace(&mut bundle, 100_000);
    namespace(&mut bundle, "time", None);
    for who in ["0", "0.1", "0.1.1"] {
        for count in 1..MANY {
            let place = format!("{who}:sendto/{count}=ENOMEM");
            let Some(output) = with_fault(&host, &bundle.making("create", &[]), &place) else { break };
            assert!(output.code == 1, "{place}: {output:?}");
            clean_up(&host, &bundle, &place);
        }
        bundle.delete_by_force();
    }
    let bundle = sleeper(&host);
    bundle.up();
    for who in ["0", "0.1", "0.1.1"] {
        for count in 1..MANY {
            let place = format!("{who}:sendto/{count}=ENOMEM");
            let Some(output) = with_fault(&host, &bundle.exec(&[], &["true"]), &place) else { break };
            assert!(output.code == 255, "{place}: {output:?}");
        }
    }
    clean_up(&host, &bundle, "messages were lost");
}

#[test]
fn a_lock_that_cannot_be_released_harms_nobody() {
    let host = Host::new();
    let bundle = sleeper(&host);
    bundle.create().ok();
    with_fault(&host, &host.call(["start", &bundle.id]), "0:flock/2=EIO").expect("a release of the lock").ok();
    clean_up(&host, &bundle, "a lock was not released");
}

#[test]
fn a_process_killed_before_its_program_is_an_error_of_exec() {
    let host = Host::new();
    let bundle = sleeper(&host);
    bundle.up();
    for _ in 0..20 {
        let call = bundle.exec(&["--detach"], &["true"]);
        let output = with_fault(&host, &call, "0.1.1:execve/1=KILL").expect("an execution");
        output.exec_fails_with("before it had become its program");
    }
    clean_up(&host, &bundle, "processes were killed");
}

#[test]
fn a_resume_that_succeeds_has_resumed() {
    let host = Host::new();
    let bundle = sleeper(&host);
    bundle.up();
    for count in 1..MANY {
        host.kelson(["pause", &bundle.id]).ok();
        let place = format!("0:stat/{count}=EIO");
        let output = with_fault(&host, &host.call(["resume", &bundle.id]), &place);
        let status = bundle.status();
        host.kelson(["resume", &bundle.id]);
        let Some(output) = output else { break };
        assert!(output.code != 0 || status == "running", "{place}: {output:?}");
    }
    clean_up(&host, &bundle, "resumes that failed");
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let host = Host::new();
    let bundle = sleeper(&host);
    bundle.create().ok();
    for words in [&["list"][..], &["list", "-q"], &["state", &bundle.id], &["ps", "--format", "json", &bundle.id]] {
        let full = host.call(words).before(["bash", "-c", "exec \"$@\" > /dev/full", "bash"]);
        full.run().fails_with("cannot write to standard output: ENOSPC");
    }
    clean_up(&host, &bundle, "answers were lost");
}

#[test]
fn an_error_that_cannot_be_written_is_still_its_exit_code() {
    let host = Host::new();
    for (words, code) in
        [(&["bogus"][..], 3), (&["state", "--bogus"], 1), (&["state", "nobody"], 1), (&["exec", "nobody", "x"], 255)]
    {
        let full = host.bare(words).before(["bash", "-c", "exec \"$@\" 2> /dev/full", "bash"]).run();
        assert_eq!(full.code, code, "{words:?}: {full:?}");
    }
}

#[test]
fn no_memory_is_one_line() {
    let host = Host::new();
    let bundle = sleeper(&host);
    // The first two are of Rust's own start.
    for count in 2..5 {
        let place = format!("0:mmap/{count}=ENOMEM");
        let Some(output) = with_fault(&host, &host.call(["state", &bundle.id]), &place) else { break };
        if output.code == 1 && output.stderr.contains("ENOMEM") {
            assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
            return;
        }
    }
    panic!("no mapping was refused");
}

#[test]
fn a_container_that_cannot_be_looked_at_has_not_gone() {
    let host = Host::new();
    let bundle = sleeper(&host);
    bundle.making("create", &[]).run().ok();
    let delete = host.call(["delete", "--force", &bundle.id]);
    for count in 1..MANY {
        let place = format!("0:fstat/{count}=ENOMEM");
        match with_fault(&host, &delete, &place) {
            None => break,
            Some(output) if output.code == 0 => {
                assert!(!host.root.join(&bundle.id).exists(), "{place}");
                bundle.making("create", &[]).run().ok();
            }
            Some(_) => {}
        }
    }
    for call in [host.call(["list"]), host.call(["list", "-q"])] {
        let output = with_fault(&host, &call, "0:getdents64/1=EIO").expect("a listing");
        output.fails_with("cannot list the containers");
    }
    clean_up(&host, &bundle, "nothing failed");
}

#[test]
fn a_stage_that_is_killed_leaves_nobody_waiting() {
    let host = Host::new();
    let mut staged = sleeper(&host);
    user_namespace(&mut staged, 100_000);
    namespace(&mut staged, "time", None);
    let bundle = sleeper(&host);
    bundle.up();
    let exec = bundle.exec(&["--detach"], &["true"]);
    for (name, call) in [("create", staged.making("create", &[])), ("exec", exec)] {
        let mut killed = 0;
        for count in 1..MANY {
            let Some(output) = with_fault(&host, &call, &format!("0.1:write/{count}=KILL")) else { break };
            killed += usize::from(output.code != 0);
            staged.delete(true);
        }
        assert!(killed > 0, "{name}");
    }
    clean_up(&host, &bundle, "stages were killed");
}
