//! `exec`: a process added to a container, by each flag; confined as the container's first one is.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::descriptors::receive;
use crate::harness::{Bundle, Host, View, is_alive, wait_until};
use crate::support::{agent, namespace, set, user_namespace};
use crate::terminal::{accept, read_all};

/// A container that sleeps.
fn sleeper(host: &Host) -> Bundle<'_> {
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "1000"]).up();
    bundle
}

/// What the probe sees when it is added with these flags.
#[track_caller]
fn probe(bundle: &Bundle<'_>, flags: &[&str], sections: &[&str]) -> Value {
    bundle.exec(flags, &[&["/bin/probe"], sections].concat()).run().ok().json()
}

#[test]
fn the_exit_code_is_the_processs() {
    let host = Host::new();
    let bundle = sleeper(&host);
    for code in ["0", "1", "42", "255"] {
        let output = bundle.exec(&[], &["sh", "-c", &format!("exit {code}")]).run();
        assert_eq!((output.code.to_string().as_str(), output.stderr.as_str()), (code, ""));
    }
    for (signal, code) in [("KILL", 128 + 9), ("TERM", 128 + 15), ("SEGV", 128 + 11)] {
        assert_eq!(bundle.exec(&[], &["/bin/probe", "kill-self", signal]).run().code, code, "{signal}");
    }
    assert_eq!(bundle.exec(&[], &["sh", "-c", "kill -35 $$"]).run().code, 128 + 35, "a real-time signal");
    bundle.delete_by_force();
}

#[test]
fn failures_of_the_runtime_are_255_and_say_why() {
    let host = Host::new();
    let bundle = sleeper(&host);
    bundle.exec(&[], &["nothing"]).run().exec_fails_with("executable file not found in $PATH");
    bundle.exec(&[], &["/bin/nothing"]).run().exec_fails_with("no such file or directory");
    bundle.exec(&[], &["/etc/passwd"]).run().exec_fails_with("permission denied");
    bundle.exec(&["--cwd", "/nowhere"], &["true"]).run().exec_fails_with("cannot enter the working directory");
    bundle.exec(&[], &[]).run().exec_fails_with("a command, or --process");
    host.kelson(["exec", "nobody", "true"]).exec_fails_with("does not exist");
    assert_eq!(bundle.exec(&["--moon"], &["true"]).run().code, 1);
    bundle.delete_by_force();
}

#[test]
fn input_output_and_what_comes_after_the_id_are_the_processs() {
    let host = Host::new();
    let bundle = sleeper(&host);
    let script = "read line; echo out $line; echo err >&2";
    let output = bundle.exec(&[], &["sh", "-c", script]).stdin("hello\n").run().ok();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out hello\n", "err\n"));
    let words = ["/bin/echo", "-d", "--tty=false", "--", "--help", "--pid-file", "x"];
    assert_eq!(bundle.exec(&[], &words).run().ok().stdout, "-d --tty=false -- --help --pid-file x\n");
    bundle.delete_by_force();
}

#[test]
fn flags_change_the_containers_process() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["process"]["env"] = json!(["PATH=/bin", "KEPT=1", "CHANGED=1"]);
    bundle.config["process"]["user"]["additionalGids"] = json!([7]);
    set(&mut bundle.config, "/process/noNewPrivileges", json!(false));
    bundle.args(&["/bin/sleep", "1000"]).up();
    let report = probe(&bundle, &["-e", "CHANGED=2", "--env", "NEW=x=y"], &["env"]);
    assert_eq!(report["env"], json!(["PATH=/bin", "KEPT=1", "CHANGED=2", "NEW=x=y", "HOME=/root"]));
    let flags = ["--cwd", "/tmp", "-u", "1000:1001", "-g", "5", "--additional-gids", "6"];
    let report = probe(&bundle, &flags, &["cwd", "uid", "gid", "groups", "env", "noNewPrivs"]);
    assert_eq!((&report["cwd"], &report["uid"]["effective"]), (&json!("/tmp"), &json!(1000)));
    assert_eq!((&report["gid"]["saved"], &report["groups"]), (&json!(1001), &json!([5, 6, 7])));
    assert!(report["env"].as_array().unwrap().contains(&json!("HOME=/home/user")), "{report}");
    assert_eq!(report["noNewPrivs"], json!(false));
    assert_eq!(probe(&bundle, &["--no-new-privs"], &["noNewPrivs"])["noNewPrivs"], json!(true));
    assert_eq!(probe(&bundle, &[], &["noNewPrivs"])["noNewPrivs"], json!(false));
    bundle.delete_by_force();
}

#[test]
fn new_privileges_can_be_allowed_to_an_exec_that_are_not_to_the_container() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    for (flags, forbidden) in [
        (&[][..], true),
        (&["--no-new-privs=false"], false),
        (&["--no-new-privs=0", "--no-new-privs"], true),
        (&["--no-new-privs", "--no-new-privs=False"], false),
    ] {
        assert_eq!(probe(&bundle, flags, &["noNewPrivs"])["noNewPrivs"], json!(forbidden), "{flags:?}");
    }
    bundle.delete_by_force();
}

#[test]
fn a_process_is_read_from_a_file_or_a_pipe() {
    let host = Host::new();
    let bundle = sleeper(&host);
    let file = host.temp.join("process.json");
    let path = file.to_str().unwrap();
    let write = |process: Value| fs::write(&file, process.to_string()).unwrap();
    write(json!({ "args": ["/bin/probe", "env", "uid", "cwd", "caps"], "cwd": "/tmp", "env": ["A=1"],
        "user": { "uid": 5, "gid": 6 } }));
    for call in [bundle.exec(&["-p", path], &[]), bundle.exec(&["--process", path], &[])] {
        let report = call.run().ok().json();
        assert_eq!((&report["uid"]["real"], &report["cwd"]), (&json!(5), &json!("/tmp")));
        assert_eq!(report["env"], json!(["A=1", "HOME=/"]));
        // It says nothing of them: they are the container's, and not all.
        assert_eq!(report["caps"]["bounding"], json!(["CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_AUDIT_WRITE"]));
    }
    let text = fs::read(&file).unwrap();
    let piped = bundle.exec(&["--process", "/dev/stdin"], &[]).stdin(text).run().ok();
    assert_eq!(piped.json()["uid"]["real"], json!(5));
    bundle.exec(&["-p", path], &["true"]).run().exec_fails_with("exclude each other");
    bundle.exec(&["-p", "/nowhere"], &[]).run().exec_fails_with("cannot open the process");
    for (process, text) in [
        (json!({ "args": [], "cwd": "/" }), "process.json /args)"),
        (json!({ "args": ["true"] }), "process.json /cwd)"),
        (json!({ "args": ["true"], "cwd": "/", "user": { "uid": u32::MAX } }), "process.json /user/uid)"),
        (json!({ "args": "true" }), "process.json /args)"),
        (json!([]), "invalid type: sequence"),
    ] {
        write(process);
        bundle.exec(&["-p", path], &[]).run().exec_fails_with(text);
    }
    bundle.delete_by_force();
}

#[test]
fn the_configuration_is_that_of_the_creation() {
    let host = Host::new();
    let mut bundle = sleeper(&host);
    bundle.config["process"]["env"] = json!(["PATH=/bin", "LATER=1"]);
    bundle.config["process"]["user"] = json!({ "uid": 7, "gid": 7 });
    bundle.write_config();
    let report = probe(&bundle, &[], &["env", "uid"]);
    assert!(!report["env"].to_string().contains("LATER") && report["uid"]["real"] == 0, "{report}");
    fs::remove_file(bundle.path.join("config.json")).unwrap();
    bundle.exec(&[], &["true"]).run().ok();
    bundle.delete_by_force();
}

/// What init and an added process have to have in common.
const SAME: [&str; 19] = [
    "namespaces",
    "cgroup",
    "caps",
    "noNewPrivs",
    "seccomp",
    "keyring",
    "umask",
    "rlimits",
    "oomScoreAdj",
    "uid",
    "gid",
    "groups",
    "cwd",
    "scheduler",
    "ioprio",
    "personality",
    "mempolicy",
    "sigBlk",
    "sigIgn",
];

type Change = fn(&mut Bundle<'_>);

/// Asserts that a process added is confined as init is.
fn is_like_init(bundle: &mut Bundle<'_>, name: &str) {
    let script = format!("/bin/probe {} > /report/init; exec sleep 1000", SAME.join(" "));
    let report = bundle.path.join("report");
    fs::create_dir_all(&report).unwrap();
    fs::write(report.join("init"), "").unwrap();
    fs::set_permissions(report.join("init"), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    fs::create_dir_all(bundle.rootfs.join("report")).unwrap();
    bundle.mount("/report", "bind", &report, &["bind"]).script(&script).up();
    let read = || fs::read(report.join("init")).unwrap_or_default();
    wait_until("init has reported", || read().ends_with(b"\n"));
    let init: Value = serde_json::from_slice(&read()).unwrap();
    let added = probe(bundle, &[], &SAME);
    for section in SAME {
        assert_eq!(added[section], init[section], "{name}: {section}");
    }
    bundle.config["mounts"].as_array_mut().unwrap().pop();
    bundle.delete_by_force();
}

#[test]
fn cve_2019_10144_an_added_process_is_confined_as_init_is() {
    let host = Host::new();
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" }] });
    let changes: [(&str, Change); 8] = [
        ("plain", |_| {}),
        ("with privileges", |bundle| set(&mut bundle.config, "/process/noNewPrivileges", json!(false))),
        ("as a user", |bundle| {
            set(
                &mut bundle.config,
                "/process/user",
                json!({ "uid": 1000, "gid": 1000, "umask": 7, "additionalGids": [3] }),
            );
        }),
        ("own users", |bundle| user_namespace(bundle, 100_000)),
        ("own clocks", |bundle| namespace(bundle, "time", None)),
        ("the host's processes", |bundle| {
            bundle.share("pid");
        }),
        ("the host's network, ipc and names", |bundle| {
            bundle.share("network").share("ipc").share("uts");
            bundle.config["hostname"] = json!("");
        }),
        ("the host's cgroups", |bundle| {
            bundle.share("cgroup");
        }),
    ];
    for (name, change) in changes {
        let mut bundle = host.bundle();
        set(&mut bundle.config, "/linux/seccomp", profile.clone());
        set(&mut bundle.config, "/process/oomScoreAdj", json!(123));
        set(&mut bundle.config, "/process/scheduler", json!({ "policy": "SCHED_BATCH", "nice": 5 }));
        set(&mut bundle.config, "/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 }));
        set(
            &mut bundle.config,
            "/process/rlimits",
            json!([
                { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
                { "type": "RLIMIT_NPROC", "soft": 500, "hard": 600 },
            ]),
        );
        change(&mut bundle);
        is_like_init(&mut bundle, name);
    }
}

#[test]
fn a_container_without_mounts_of_its_own_is_entered() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.share("mount");
    bundle.config["mounts"] = json!([]);
    for name in ["maskedPaths", "readonlyPaths"] {
        bundle.config["linux"].as_object_mut().unwrap().remove(name);
    }
    bundle.args(&["/bin/sleep", "1000"]).up();
    assert_eq!(bundle.exec(&[], &["ls", "/"]).run().ok().stdout, "bin\ndev\netc\nproc\nroot\nsys\ntmp\nvar\n");
    bundle.exec(&["--cwd", "/../.."], &["/bin/busybox", "pwd"]).run().ok();
    bundle.delete_by_force();
}

#[test]
fn a_detached_process_is_its_callers_child() {
    let host = Host::new();
    let bundle = sleeper(&host);
    let path = host.temp.join("pid");
    let flags = ["--detach", "--pid-file", path.to_str().unwrap()];
    bundle.exec(&flags, &["sh", "-c", "sleep 0.05; exit 9"]).run().ok();
    let pid = fs::read_to_string(&path).unwrap();
    assert_eq!(pid, pid.trim());
    assert_eq!(host.reap(pid.parse().unwrap()), 9);
    bundle.exec(&["-d", "--pid-file", "relative"], &["sleep", "1000"]).directory(&host.temp).run().ok();
    let pid = fs::read_to_string(host.temp.join("relative")).unwrap().parse().unwrap();
    assert!(is_alive(pid));
    // The container's end is its end.
    bundle.kill("KILL").ok();
    assert_eq!(host.reap(pid), -9);
    bundle.delete_by_force();
}

#[test]
fn a_failure_writes_no_pid_file_and_leaves_no_process() {
    let host = Host::new();
    let bundle = sleeper(&host);
    let place = host.temp.join("place");
    fs::create_dir(&place).unwrap();
    let file = place.join("pid");
    fs::write(bundle.rootfs.join("bin/broken"), "#!/bin/nothing\n").unwrap();
    fs::set_permissions(bundle.rootfs.join("bin/broken"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for detach in [&[][..], &["-d"]] {
        for command in [&["/bin/nothing"][..], &["/bin"], &["/bin/broken"]] {
            let flags = [detach, &["--pid-file", file.to_str().unwrap()]].concat();
            bundle.exec(&flags, command).run().exec_fails_with("exec");
            assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        }
        let flags = [detach, &["--pid-file", "/nowhere/pid"]].concat();
        bundle.exec(&flags, &["sleep", "1000"]).run().exec_fails_with("cannot write the pid file");
    }
    assert_eq!(bundle.exec(&[], &["ps"]).run().ok().stdout.matches("sleep").count(), 1);
    bundle.delete_by_force();
}

#[test]
fn a_terminal_is_sent_over_the_console_socket() {
    let host = Host::new();
    let bundle = sleeper(&host);
    let path = host.temp.join("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let flags = ["-t", "-d", "--console-socket", path.to_str().unwrap(), "--pid-file", "pid", "-u", "1000"];
    bundle.exec(&flags, &["sh", "-c", "probe tty sid pid; tty; echo x > /dev/tty"]).run().ok();
    let text = read_all(accept(&listener));
    let report: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&report["tty"]["0"], &report["tty"]["2"]), (&json!(true), &json!(true)), "{text}");
    assert!(report["sid"] != 1 && report["sid"].as_i64() < report["pid"].as_i64(), "{text}");
    assert!(text.ends_with("/dev/pts/0\r\nx\r\n"), "{text:?}");
    host.reap(fs::read_to_string(host.temp.join("pid")).unwrap().parse().unwrap());
    bundle.exec(&["-d", "-t"], &["true"]).run().exec_fails_with("--console-socket");
    bundle.exec(&["-d", "--console-socket", path.to_str().unwrap()], &["true"]).run().exec_fails_with("no terminal");
    bundle.delete_by_force();
}

#[test]
fn a_terminal_in_the_foreground_is_relayed() {
    let host = Host::new();
    let bundle = sleeper(&host);
    let output = bundle.exec(&["-t"], &["sh", "-c", "tty; read line; echo got $line; exit 6"]).stdin("hello\n").run();
    assert_eq!(output.code, 6);
    assert!(output.stdout.contains("/dev/pts/0") && output.stdout.contains("got hello"), "{output:?}");
    bundle.delete_by_force();
}

#[test]
fn signals_are_passed_on() {
    let host = Host::new();
    let bundle = sleeper(&host);
    let running = bundle.exec(&[], &["/bin/probe", "signals"]).spawn();
    wait_until("the program listens", || running.stdout().contains("ready"));
    let mut expected = "ready\n".to_owned();
    for signal in [Signal::SIGUSR1, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        running.signal(signal);
        expected += &format!("{signal}\n");
        wait_until(signal.as_str(), || running.stdout() == expected);
    }
    assert_eq!(running.wait().code, 0);
    bundle.delete_by_force();
}

#[test]
fn real_time_signals_are_passed_on() {
    let host = Host::new();
    let bundle = sleeper(&host);
    // systemd ends containers with 37, SIGRTMIN+3.
    let script = "trap 'exit 7' 37; echo ready; while :; do sleep 0.01; done";
    let by_exec = bundle.exec(&[], &["sh", "-c", script]).spawn();
    let mut other = host.bundle();
    let by_run = other.script(script).making("run", &[]).spawn();
    for running in [by_exec, by_run] {
        wait_until("the program listens", || running.stdout().contains("ready"));
        host.command(["kill", "-37", &running.pid().to_string()]).run().ok();
        assert_eq!(running.wait().code, 7);
    }
    bundle.delete_by_force();
}

#[test]
fn a_pidfd_is_sent_when_asked_for() {
    let host = Host::new();
    let bundle = sleeper(&host);
    let path = host.temp.join("pidfd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let flags = ["-d", "--pidfd-socket", path.to_str().unwrap(), "--pid-file", "pid"];
    bundle.exec(&flags, &["sleep", "1000"]).run().ok();
    let (connection, _) = listener.accept().unwrap();
    let pidfd = receive(&connection);
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).unwrap();
    nix::unistd::close(pidfd).unwrap();
    let pid = fs::read_to_string(host.temp.join("pid")).unwrap();
    assert!(info.lines().any(|line| line == format!("Pid:\t{pid}")), "{info}");
    bundle.delete_by_force();
}

#[test]
fn descriptors_are_preserved_when_asked_for() {
    let host = Host::new();
    let bundle = sleeper(&host);
    fs::write(host.temp.join("file"), "passed on").unwrap();
    let call = |flags: &[&str], command: &[&str]| {
        let script = format!("exec 3</etc 4<{}/file 5</; exec \"$@\"", host.temp.display());
        bundle.exec(flags, command).before(["bash", "-c", &script, "bash"]).run()
    };
    let report = call(&[], &["/bin/probe", "fds"]).ok().json();
    assert_eq!(report["fds"].as_object().unwrap().len(), 3, "{report}");
    let report = call(&["--preserve-fds", "2"], &["/bin/probe", "fds"]).ok().json();
    assert_eq!(report["fds"].as_object().unwrap().len(), 5, "{report}");
    assert_eq!(call(&["--preserve-fds=2"], &["/bin/probe", "echo-fd", "4"]).ok().stdout, "passed on");
    call(&["--preserve-fds", "20"], &["true"]).exec_fails_with("which is to be passed on, is not open");
    bundle.delete_by_force();
}

/// Freezes or thaws a container.
fn freeze(bundle: &Bundle<'_>, on: bool) {
    let file = if View::current() == View::V1 || !bundle.cgroup("unified").join("cgroup.freeze").exists() {
        (bundle.cgroup("freezer").join("freezer.state"), if on { "FROZEN" } else { "THAWED" })
    } else {
        (bundle.cgroup("unified").join("cgroup.freeze"), if on { "1" } else { "0" })
    };
    fs::write(file.0, file.1).unwrap();
}

#[test]
fn a_paused_container_takes_a_process_only_when_told_so() {
    let host = Host::new();
    let bundle = sleeper(&host);
    freeze(&bundle, true);
    bundle.exec(&[], &["true"]).run().exec_fails_with("cannot exec in a paused container");
    let waiting = bundle.exec(&["--ignore-paused"], &["echo", "on"]).spawn();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(waiting.stdout(), "");
    freeze(&bundle, false);
    assert_eq!(waiting.wait().ok().stdout, "on\n");
    bundle.delete_by_force();
}

#[test]
fn a_stopped_container_takes_none_and_a_created_one_does() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "1000"]).create().ok();
    assert_eq!(bundle.exec(&[], &["echo", "on"]).run().ok().stdout, "on\n");
    assert_eq!(bundle.status(), "created");
    let pid = bundle.pid();
    bundle.kill("KILL").ok();
    host.reap(pid);
    bundle.exec(&[], &["true"]).run().exec_fails_with("container not running");
    bundle.delete(false).ok();
    bundle.exec(&[], &["true"]).run().exec_fails_with("does not exist");
}

#[test]
fn a_cgroup_below_the_containers_is_joined() {
    let host = Host::new();
    let bundle = sleeper(&host);
    let all = |flags: &[&str], path: &str| bundle.exec(flags, &["cat", path]).run().ok().stdout;
    // In the view of v2 the machine's other hierarchies are still there.
    let shown = |flags: &[&str]| {
        let text = all(flags, "/proc/self/cgroup");
        if View::current().is_v2() { text.lines().last().unwrap_or_default().to_owned() } else { text }
    };
    for flags in [&["--cgroup", "/"][..], &["--cgroup", "."], &["--cgroup="], &[]] {
        assert_eq!(all(flags, "/proc/self/cgroup"), all(&[], "/proc/1/cgroup"), "{flags:?}");
    }
    bundle.exec(&["--cgroup", "nonexistent"], &["true"]).run().exec_fails_with("cannot open the cgroup");
    if View::current().is_v2() {
        fs::create_dir_all(bundle.cgroup("unified").join("sub/deeper")).unwrap();
        assert_eq!(shown(&["--cgroup", "sub"]), "0::/sub");
        assert_eq!(shown(&["--cgroup", "/sub/deeper"]), "0::/sub/deeper");
        bundle.exec(&["--cgroup", "memory:sub"], &["true"]).run().exec_fails_with("unknown controller");
    } else {
        for controller in ["pids", "freezer"] {
            fs::create_dir(bundle.cgroup(controller).join("sub")).unwrap();
        }
        let seen = shown(&["--cgroup", "pids:sub", "--cgroup", "devices:/"]);
        assert!(seen.contains(":pids:/sub\n") && seen.contains(":freezer:/\n"), "{seen}");
        let seen = shown(&["--cgroup", "pids,freezer:/sub"]);
        assert!(seen.contains(":pids:/sub\n") && seen.contains(":freezer:/sub\n"), "{seen}");
        bundle.exec(&["--cgroup", "whaaat:/"], &["true"]).run().exec_fails_with("unknown controller");
        bundle.exec(&["--cgroup", "pids:sub", "--cgroup", "x"], &["true"]).run().exec_fails_with("needs a controller");
        bundle.exec(&["--cgroup", "sub"], &["true"]).run().exec_fails_with("cannot open the cgroup");
    }
    bundle.delete_by_force();
}

#[test]
fn the_cgroup_that_init_has_moved_to_is_joined_where_its_own_takes_no_processes() {
    let host = Host::new();
    if !View::current().is_v2() {
        return;
    }
    let bundle = sleeper(&host);
    let own = bundle.cgroup("unified");
    fs::create_dir(own.join("moved")).unwrap();
    fs::write(own.join("moved/cgroup.procs"), bundle.pid().to_string()).unwrap();
    let shown = |flags: &[&str]| bundle.exec(flags, &["grep", "^0::", "/proc/self/cgroup"]).run();
    assert_eq!(shown(&[]).ok().stdout, "0::/\n");
    // With a controller given on, only the leaves have processes.
    if fs::write(own.join("cgroup.subtree_control"), "+hugetlb").is_ok() {
        let output = shown(&[]);
        assert!(matches!(output.stdout.as_str(), "0::/moved\n" | "0::/\n"), "{output:?}");
    }
    bundle.delete_by_force();
}

#[test]
fn cpus_are_chosen_before_and_after_joining_the_cgroup() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["process"]["execCPUAffinity"] = json!({ "initial": "0", "final": "1" });
    bundle.args(&["/bin/sleep", "1000"]).up();
    assert_eq!(probe(&bundle, &[], &["affinity"])["affinity"], json!([1]));
    let file = host.temp.join("process.json");
    for (affinity, seen) in [(json!({ "initial": "1" }), json!([1])), (json!({ "final": "0-1" }), json!([0, 1]))] {
        let process = json!({ "args": ["/bin/probe", "affinity"], "cwd": "/", "execCPUAffinity": affinity });
        fs::write(&file, process.to_string()).unwrap();
        let report = bundle.exec(&["-p", file.to_str().unwrap()], &[]).run().ok().json();
        assert_eq!(report["affinity"], seen, "{affinity}");
    }
    let process = json!({ "args": ["true"], "cwd": "/", "execCPUAffinity": { "initial": "9000" } });
    fs::write(&file, process.to_string()).unwrap();
    bundle.exec(&["-p", file.to_str().unwrap()], &[]).run().exec_fails_with("process.json /execCPUAffinity/initial)");
    bundle.delete_by_force();
}

#[test]
fn a_deadline_scheduler_is_set_on_the_process_itself() {
    let host = Host::new();
    let bundle = sleeper(&host);
    let file = host.temp.join("process.json");
    for scheduler in [
        json!({ "policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 10_000_000, "period": 20_000_000 }),
        json!({ "policy": "SCHED_BATCH", "nice": -3, "flags": ["SCHED_FLAG_RESET_ON_FORK"] }),
    ] {
        let process = json!({ "args": ["/bin/probe", "scheduler"], "cwd": "/", "scheduler": scheduler });
        fs::write(&file, process.to_string()).unwrap();
        let report = bundle.exec(&["-p", file.to_str().unwrap()], &[]).run().ok().json();
        assert_eq!(report["scheduler"]["policy"], scheduler["policy"], "{report}");
        assert_eq!(
            report["scheduler"]["flags"].as_array().map(Vec::len),
            Some(scheduler["flags"].as_array().map_or(0, Vec::len))
        );
    }
    bundle.delete_by_force();
}

#[test]
fn the_seccomp_agent_is_told_of_the_process() {
    let host = Host::new();
    for no_new_privileges in [true, false] {
        let mut bundle = host.bundle();
        let socket = host.temp.join("agent.sock");
        let agent = || agent(&host, &socket, "continue");
        set(&mut bundle.config, "/process/noNewPrivileges", json!(no_new_privileges));
        set(
            &mut bundle.config,
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": socket,
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }] }),
        );
        bundle.args(&["/bin/sleep", "1000"]);
        let first = agent();
        bundle.up();
        let second = agent();
        let script = "mkdir /tmp/x 2>/dev/null; echo $?";
        bundle.exec(&["--pid-file", "pid"], &["sh", "-c", script]).run().ok();
        let output = second.wait().ok();
        let state: Value = serde_json::from_str(output.stdout.lines().nth(1).unwrap()).unwrap();
        let pid: i32 = fs::read_to_string(host.temp.join("pid")).unwrap().parse().unwrap();
        let told = state["pid"].as_i64().unwrap() as i32;
        // A filter that takes capabilities to load is there before the process is.
        assert_eq!(told, if no_new_privileges { pid } else { bundle.pid() }, "{output:?}");
        assert_eq!((&state["state"]["pid"], &state["state"]["status"]), (&json!(bundle.pid()), &json!("running")));
        assert!(output.stdout.lines().count() > 2, "it was asked: {output:?}");
        bundle.delete_by_force();
        first.wait();
    }
}

#[test]
fn the_limit_on_processes_does_not_count_the_runtimes() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["process"]["user"] = json!({ "uid": 54_321, "gid": 1 });
    bundle.config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NPROC", "soft": 2, "hard": 2 }]);
    bundle.args(&["/bin/sleep", "1000"]).up();
    bundle.exec(&[], &["true"]).run().ok();
    bundle.delete_by_force();
}

#[test]
fn many_at_once_all_end() {
    let host = Host::new();
    let bundle = sleeper(&host);
    let calls: Vec<_> = (0..30).map(|code| bundle.exec(&[], &["sh", "-c", &format!("exit {code}")]).spawn()).collect();
    for (code, call) in calls.into_iter().enumerate() {
        assert_eq!(call.wait().code, code as i32);
    }
    bundle.delete_by_force();
}

#[test]
fn nothing_is_left_however_the_runtime_ends() {
    let host = Host::new();
    let bundle = sleeper(&host);
    for delay in (0..60).map(|step| step * 100) {
        let running = bundle.exec(&[], &["sleep", "1000"]).spawn();
        std::thread::sleep(std::time::Duration::from_micros(delay));
        running.signal(Signal::SIGKILL);
        running.wait();
    }
    // Those that had become the program go on, and belong to the container; no stage does.
    let list = bundle.exec(&[], &["ps", "-o", "stat,args"]).run().ok().stdout;
    let is_fine =
        |line: &str| line.starts_with('Z') || ["sleep", "ps", "COMMAND"].iter().any(|name| line.contains(name));
    assert!(list.lines().all(is_fine), "{list}");
    bundle.delete_by_force();
}

#[test]
fn a_container_of_one_mebibyte_takes_processes() {
    let host = Host::new();
    if View::current().is_v2() || !Path::new("/sys/fs/cgroup/memory").exists() {
        return;
    }
    let mut bundle = host.bundle();
    set(&mut bundle.config, "/linux/resources/memory", json!({ "limit": 1 << 20 }));
    bundle.args(&["/bin/sleep", "1000"]).up();
    for _ in 0..10 {
        bundle.exec(&[], &["true"]).run().ok();
        // The kernel takes its time to free what it held for a process that has ended.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    bundle.delete_by_force();
}

#[test]
fn a_wrong_value_of_a_flag_is_told_of_the_flag() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).up();
    for (flags, text) in
        [(&["-e", "A"][..], "--env: "), (&["--cwd", "tmp"], "--cwd: "), (&["--cwd", "/nowhere"], "--cwd: ")]
    {
        let output = bundle.exec(flags, &["true"]).run();
        assert_eq!(output.code, 255, "{flags:?}");
        assert!(output.stderr.contains(text) && !output.stderr.contains("config.json"), "{flags:?} {output:?}");
    }
    let output = bundle.exec(&[], &["nothing"]).run().exec_fails_with("executable file not found in $PATH");
    assert!(!output.stderr.contains("config.json"), "{output:?}");
    let process = host.temp.join("process.json");
    fs::write(&process, format!("{{\"a\":\"{}\"}}", "x".repeat(16 << 20))).unwrap();
    bundle.exec(&["-p", process.to_str().unwrap()], &[]).run().exec_fails_with("longer than 16 MiB");
    bundle.delete_by_force();
}
