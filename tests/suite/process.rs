//! config.md, "Process": program, environment, directory, limits, scheduling.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::Host;
use crate::support::{fails_at, set};

#[test]
fn the_program_is_looked_up_in_path_and_gets_its_arguments() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let report = bundle.args(&["probe", "args"]).run().ok().json();
    assert_eq!(report["args"], json!(["probe", "args"]));

    fs::create_dir(bundle.rootfs.join("own")).unwrap();
    fs::rename(bundle.rootfs.join("bin/probe"), bundle.rootfs.join("own/prober")).unwrap();
    bundle.args(&["prober", "true"]).run().fails_with("executable file not found in $PATH");
    bundle.config["process"]["env"] = json!(["PATH=/nowhere:/own"]);
    bundle.run().ok();
    // The working directory is not searched, whatever PATH says: as with runc.
    bundle.config["process"]["env"] = json!(["PATH=/nowhere:"]);
    bundle.config["process"]["cwd"] = json!("/own");
    bundle.run().fails_with("executable file not found in $PATH");
    bundle.args(&["./prober", "true"]).run().ok();
}

#[test]
fn a_program_that_cannot_be_executed_is_told_in_the_words_that_engines_know() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let script = bundle.rootfs.join("bin/script");
    fs::write(&script, "#!/nowhere/sh\n").unwrap();
    for (program, mode, words) in [
        ("nowhere", 0o755, "executable file not found in $PATH"),
        ("", 0o755, "executable file not found in $PATH"),
        ("/nowhere", 0o755, "no such file or directory"),
        ("/etc", 0o755, "permission denied: it is a directory"),
        ("/etc/passwd/x", 0o755, "not a directory"),
        ("/bin/script", 0o644, "permission denied"),
        ("script", 0o644, "permission denied"),
        ("/bin/script", 0o755, "no such file or directory"),
    ] {
        fs::set_permissions(&script, fs::Permissions::from_mode(mode)).unwrap();
        let output = bundle.args(&[program]).run();
        fails_at(&output, "/process/args/0");
        assert!(output.stderr.contains(words), "{program}: {output:?}");
    }
    fs::write(&script, "no program").unwrap();
    bundle.args(&["/bin/script"]).run().fails_with("exec format error");
}

#[test]
fn the_environment_is_that_of_the_configuration() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["process"]["env"] = json!(["A=1", "HOME=/x", "EMPTY=", "A=2", "SPACE= =x"]);
    bundle.args(&["/bin/probe", "env"]);
    let call = bundle.making("run", &[]).env("LD_PRELOAD", "/x.so").env("SECRET", "1");
    assert_eq!(call.run().ok().json()["env"], json!(["HOME=/x", "EMPTY=", "A=2", "SPACE= =x"]));
    // HOME alone is added, from the image's passwd.
    for (uid, home) in [(0, "HOME=/root"), (1000, "HOME=/home/user"), (7, "HOME=/")] {
        bundle.config["process"]["env"] = json!(["HOME="]);
        bundle.config["process"]["user"]["uid"] = json!(uid);
        assert_eq!(bundle.probe(&["env"])["env"], json!([home]));
    }
}

#[test]
fn the_working_directory_is_made_even_below_a_read_only_root() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for cwd in ["/", "/made/for it", "/tmp/../made/./x", "/proc/self"] {
        bundle.config["process"]["cwd"] = json!(cwd);
        bundle.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        let seen = bundle.probe(&["cwd"])["cwd"].as_str().unwrap().to_owned();
        assert!(seen.starts_with(if cwd.contains("proc") { "/proc/" } else { "/" }), "{seen}");
        assert!(!seen.contains(".."));
    }
    bundle.config["process"]["cwd"] = json!("/etc/passwd");
    fails_at(&bundle.run(), "/process/cwd");
}

#[test]
fn a_directory_that_only_its_user_may_enter_is_entered_as_that_user() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let own = bundle.rootfs.join("own");
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
    nix::unistd::chown(&own, Some(1000.into()), Some(1000.into())).unwrap();
    bundle.config["process"]["cwd"] = json!("/own");
    bundle.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    assert_eq!(bundle.probe(&["cwd"])["cwd"], "/own");
}

#[test]
fn no_new_privileges_and_the_oom_score_are_set() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let report = bundle.probe(&["noNewPrivs", "oomScoreAdj"]);
    assert_eq!(report, json!({ "noNewPrivs": true, "oomScoreAdj": own }));
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    bundle.config["process"]["oomScoreAdj"] = json!(own + 100);
    let report = bundle.probe(&["noNewPrivs", "oomScoreAdj"]);
    assert_eq!(report, json!({ "noNewPrivs": false, "oomScoreAdj": own + 100 }));
}

#[test]
fn limits_are_exact() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let before = bundle.probe(&["rlimits"])["rlimits"].clone();
    bundle.config["process"]["rlimits"] = json!([
        { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
        { "type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 1_u64 << 33 },
    ]);
    let mut expected = before;
    expected["RLIMIT_NOFILE"] = json!({ "soft": 100, "hard": 200 });
    expected["RLIMIT_CORE"] = json!({ "soft": 0, "hard": 0 });
    expected["RLIMIT_STACK"] = json!({ "soft": 1 << 20, "hard": 1_u64 << 33 });
    assert_eq!(bundle.probe(&["rlimits"])["rlimits"], expected);
}

#[test]
fn schedulers_are_set() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for (asked, policy, nice, flags) in [
        (json!({ "policy": "SCHED_BATCH", "nice": 5 }), "SCHED_BATCH", 5, json!([])),
        (json!({ "policy": "SCHED_IDLE" }), "SCHED_IDLE", 0, json!([])),
        (
            json!({ "policy": "SCHED_OTHER", "nice": -3, "flags": ["SCHED_FLAG_RESET_ON_FORK"] }),
            "SCHED_OTHER",
            -3,
            json!(["SCHED_FLAG_RESET_ON_FORK"]),
        ),
    ] {
        bundle.config["process"]["scheduler"] = asked;
        let seen = bundle.probe(&["scheduler"])["scheduler"].clone();
        assert_eq!((&seen["policy"], &seen["nice"], &seen["flags"]), (&json!(policy), &json!(nice), &flags));
    }
    let deadline =
        json!({ "policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 10_000_000, "period": 10_000_000 });
    bundle.config["process"]["scheduler"] = deadline;
    let seen = bundle.probe(&["scheduler"])["scheduler"].clone();
    assert_eq!((&seen["policy"], &seen["runtime"]), (&json!("SCHED_DEADLINE"), &json!(1_000_000)));
}

#[test]
fn io_priorities_are_set_and_otherwise_left_alone() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let unset = bundle.probe(&["ioprio"])["ioprio"].clone();
    assert_ne!(unset["class"], "IOPRIO_CLASS_IDLE");
    for (class, level) in [("IOPRIO_CLASS_BE", 6), ("IOPRIO_CLASS_RT", 3), ("IOPRIO_CLASS_IDLE", 0)] {
        let asked = json!({ "class": class, "priority": level });
        bundle.config["process"]["ioPriority"] = asked.clone();
        assert_eq!(bundle.probe(&["ioprio"])["ioprio"], asked);
    }
}

#[test]
fn impossible_processes_are_refused_where_they_stand() {
    let host = Host::new();
    let wrong: &[(&str, Value, &str)] = &[
        ("/process/cwd", json!("tmp"), "/process/cwd"),
        ("/process/cwd", json!(""), "/process/cwd"),
        ("/process/args", json!(["a\0b"]), "/process/args/0"),
        ("/process/args", json!([]), "/process/args"),
        ("/process/env", json!(["A=1", "novalue"]), "/process/env/1"),
        ("/process/oomScoreAdj", json!(1001), "/process/oomScoreAdj"),
        ("/process/user/uid", json!(u32::MAX), "/process/user/uid"),
        ("/process/user/gid", json!(-1), "/process/user/gid"),
        ("/process/user/umask", json!(0o10000), "/process/user/umask"),
        ("/process/rlimits", json!([{ "type": "RLIMIT_MOON", "soft": 1, "hard": 1 }]), "/process/rlimits/0/type"),
        ("/process/rlimits", json!([{ "type": "RLIMIT_CPU", "soft": 2, "hard": 1 }]), "/process/rlimits/0/soft"),
        ("/process/scheduler", json!({ "policy": "SCHED_MOON" }), "/process/scheduler/policy"),
        ("/process/scheduler", json!({ "policy": "SCHED_OTHER", "nice": 20 }), "/process/scheduler/nice"),
        ("/process/scheduler", json!({ "policy": "SCHED_FIFO" }), "/process/scheduler"),
        ("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }), "/process/ioPriority/priority"),
        ("/process/ioPriority", json!({ "class": "", "priority": 1 }), "/process/ioPriority/class"),
    ];
    for (place, value, pointer) in wrong {
        let mut bundle = host.bundle();
        set(&mut bundle.config, place, value.clone());
        fails_at(&bundle.run(), pointer);
    }
    let mut bundle = host.bundle();
    let twice = json!({ "type": "RLIMIT_CPU", "soft": 1, "hard": 1 });
    bundle.config["process"]["rlimits"] = json!([twice, twice]);
    fails_at(&bundle.run(), "/process/rlimits/1/type");
}
