//! config-linux.md, "Seccomp": each action as the container and its caller see it, other entries into the kernel, the
//! agent of SCMP_ACT_NOTIFY, and what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::{Bundle, Host, Running, skip, wait_until};
use crate::limits::has;
use crate::support::{agent, fails_at, set};

const POINTER: &str = "/linux/seccomp";

/// A profile with one rule for making directories, which `mkdir` in the container does.
fn profile(default: &str, action: &str) -> Value {
    json!({
        "defaultAction": default,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action}],
    })
}

fn use_profile(bundle: &mut Bundle<'_>, profile: Value) {
    set(&mut bundle.config, POINTER, profile);
}

/// Without noNewPrivileges a privilege is kept for the filter, and given up after it.
fn both_ways(bundle: &mut Bundle<'_>, mut test: impl FnMut(&mut Bundle<'_>, bool)) {
    for no_new_privileges in [true, false] {
        set(&mut bundle.config, "/process/noNewPrivileges", json!(no_new_privileges));
        test(bundle, no_new_privileges);
    }
}

#[test]
fn each_action_is_seen_from_outside() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.writable().args(&["/bin/mkdir", "/tmp/made"]);
    both_ways(&mut bundle, |bundle, _| {
        for (action, code, words) in [
            ("SCMP_ACT_ERRNO", 1, "Operation not permitted"),
            ("SCMP_ACT_TRACE", 1, "Function not implemented"),
            ("SCMP_ACT_KILL", 128 + 31, ""),
            ("SCMP_ACT_KILL_THREAD", 128 + 31, ""),
            ("SCMP_ACT_KILL_PROCESS", 128 + 31, ""),
            ("SCMP_ACT_TRAP", 128 + 31, ""),
            ("SCMP_ACT_LOG", 0, ""),
            ("SCMP_ACT_ALLOW", 0, ""),
        ] {
            use_profile(bundle, profile("SCMP_ACT_ALLOW", action));
            let output = bundle.run();
            assert_eq!(output.code, code, "{action}: {output:?}");
            assert!(output.stderr.contains(words), "{action}: {output:?}");
            assert_eq!(fs::remove_dir(bundle.rootfs.join("tmp/made")).is_ok(), code == 0, "{action}");
        }
    });
}

#[test]
fn an_errno_is_the_profiles() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/mkdir", "/tmp/made"]);
    use_profile(&mut bundle, profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"));
    set(&mut bundle.config, "/linux/seccomp/syscalls/0/errnoRet", json!(28));
    let output = bundle.run();
    assert!(output.code == 1 && output.stderr.contains("No space left on device"), "{output:?}");
}

#[test]
fn what_the_profile_does_not_name_gets_the_default() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let names: Vec<_> = allowed_names().into_iter().filter(|name| !name.starts_with("mkdir")).collect();
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 122,
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    });
    bundle.args(&["/bin/mkdir", "/tmp/made"]);
    both_ways(&mut bundle, |bundle, _| {
        use_profile(bundle, profile.clone());
        let output = bundle.run();
        assert!(output.code == 1 && output.stderr.contains("uota exceeded"), "{output:?}");
    });
}

/// What podman's default profile allows.
fn allowed_names() -> Vec<String> {
    let text = fs::read("/usr/share/containers/seccomp.json").unwrap_or_default();
    let profile: Value = serde_json::from_slice(&text).unwrap_or_default();
    let rules = profile["syscalls"].as_array().cloned().unwrap_or_default();
    let allowed = rules.iter().filter(|rule| rule["action"] == "SCMP_ACT_ALLOW");
    let names = allowed.flat_map(|rule| rule["names"].as_array().cloned().unwrap_or_default());
    let names: Vec<String> = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    if names.is_empty() {
        ["read", "write", "exit_group", "execve", "mmap", "brk"].map(str::to_owned).into()
    } else {
        names
    }
}

#[test]
fn arguments_decide() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.writable();
    // chmod(path, mode) and fchmodat(directory, path, mode).
    let rule = |name: &str, index: u32, operator: &str, value: u32, two: u32| {
        let args = json!([{"index": index, "value": value, "valueTwo": two, "op": operator}]);
        json!({"names": [name], "action": "SCMP_ACT_ERRNO", "args": args})
    };
    for (operator, value, two, refused, allowed) in [
        ("SCMP_CMP_EQ", 0o700, 0, "700", "701"),
        ("SCMP_CMP_NE", 0o700, 0, "701", "700"),
        ("SCMP_CMP_GT", 0o700, 0, "701", "700"),
        ("SCMP_CMP_GE", 0o700, 0, "700", "677"),
        ("SCMP_CMP_LT", 0o700, 0, "677", "700"),
        ("SCMP_CMP_LE", 0o700, 0, "700", "701"),
        ("SCMP_CMP_MASKED_EQ", 0o4000, 0o4000, "4755", "755"),
    ] {
        let rules = json!([rule("chmod", 1, operator, value, two), rule("fchmodat", 2, operator, value, two)]);
        use_profile(&mut bundle, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
        assert_eq!(bundle.args(&["/bin/chmod", refused, "/etc/passwd"]).run().code, 1, "{operator} {refused}");
        assert_eq!(bundle.args(&["/bin/chmod", allowed, "/etc/passwd"]).run().code, 0, "{operator} {allowed}");
    }
}

#[test]
fn the_filter_holds_and_is_one() {
    let host = Host::new();
    let mut bundle = host.bundle();
    both_ways(&mut bundle, |bundle, no_new_privileges| {
        use_profile(bundle, profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"));
        bundle.args(&["/bin/grep", "-E", "^(NoNewPrivs|Seccomp|Seccomp_filters):", "/proc/self/status"]);
        let expected = format!("NoNewPrivs:\t{}\nSeccomp:\t2\nSeccomp_filters:\t1\n", i32::from(no_new_privileges));
        assert_eq!(bundle.run().ok().stdout, expected);
        bundle.create().ok();
        bundle.delete_by_force();
        for id in ["0", "1000"] {
            set(&mut bundle.config, "/process/user", json!({"uid": id.parse::<u32>().unwrap(), "gid": 5}));
            assert_eq!(bundle.run().ok().stdout, expected, "as user {id}");
        }
        set(&mut bundle.config, "/process/user", json!({"uid": 0, "gid": 0}));
    });
}

const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Which returns 0.
const SCHED_YIELD: u32 = 24;

#[cfg(target_arch = "x86_64")]
#[test]
fn the_start_itself_is_not_filtered() {
    let host = Host::new();
    let mut bundle = host.bundle();
    write_program(&bundle, SCHED_YIELD, SYSCALL);
    let names = ["setresuid", "setresgid", "sendto", "recvfrom", "accept4", "umask", "stat", "fcntl", "chdir", "prctl"];
    both_ways(&mut bundle, |bundle, no_new_privileges| {
        // Privileges are given up after the filter is loaded.
        let names = if no_new_privileges { [&names[..], &["capset"]].concat() } else { names.to_vec() };
        let rule = json!({"names": names, "action": "SCMP_ACT_KILL_PROCESS"});
        use_profile(bundle, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
        bundle.args(&["/bin/call"]).run().ok();
        bundle.create().ok();
        let pid = bundle.pid();
        bundle.start().ok();
        assert_eq!(host.reap(pid), 0);
        bundle.delete_by_force();
    });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn what_an_exec_takes_where_the_profile_refuses_it_to_the_program() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let names = ["sendto", "recvfrom", "accept4", "stat", "fcntl", "exit_group"];
    let rule = json!({"names": names, "action": "SCMP_ACT_ERRNO"});
    use_profile(&mut bundle, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
    write_program(&bundle, SCHED_YIELD, SYSCALL);
    bundle.args(&["/bin/sleep", "1000"]);
    both_ways(&mut bundle, |bundle, _| {
        bundle.up();
        // The stage that ends must not take anybody with it, who is another process than its C library thinks.
        for flags in [&[][..], &["-d"]] {
            bundle.exec(flags, &["/bin/call"]).run().ok();
        }
        assert_eq!(bundle.status(), "running");
        bundle.delete_by_force();
    });
}

#[test]
fn start_hooks_and_what_they_leave_are_filtered() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.writable();
    let script = "grep -h ^Seccomp: /proc/self/status > /tmp/hook; sleep 1000 &";
    bundle.config["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    use_profile(&mut bundle, profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"));
    bundle.script("cat /tmp/hook; grep -h ^Seccomp: /proc/[0-9]*/status");
    both_ways(&mut bundle, |bundle, _| {
        let output = bundle.run().ok();
        assert_eq!(output.stdout, "Seccomp:\t2\n".repeat(3), "{output:?}");
    });
}

/// The standard library's way to start a program panicked.
#[test]
fn start_hooks_need_no_sockets() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["hooks"] = json!({"startContainer": [{"path": "/bin/true"}]});
    let mut sockets = profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO");
    sockets["syscalls"][0]["names"] = json!(["socketpair", "recvfrom", "recvmsg", "sendto", "sendmsg"]);
    use_profile(&mut bundle, sockets);
    bundle.args(&["/bin/true"]);
    both_ways(&mut bundle, |bundle, _| {
        bundle.run().ok();
        bundle.config["hooks"]["startContainer"][0]["path"] = json!("/bin/nothing");
        fails_at(&bundle.run(), "/hooks/startContainer/0");
        bundle.config["hooks"]["startContainer"][0]["path"] = json!("/bin/true");
    });
}

/// A static program of 64 bits that makes the call `number` by `entry` and ends with what it returned, negated.
#[cfg(target_arch = "x86_64")]
fn write_program(bundle: &Bundle<'_>, number: u32, entry: [u8; 2]) {
    const BASE: u64 = 0x40_0000;
    let [a, b, c, d] = number.to_le_bytes();
    let code = [
        &[0x31, 0xdb, 0x31, 0xc9, 0x31, 0xff, 0x31, 0xf6][..], // xor ebx, ebx; ecx; edi; esi
        &[0xb8, a, b, c, d][..],                               // mov eax, number
        &entry,                                                // syscall, or int 0x80
        &[0xf7, 0xd8, 0x89, 0xc7][..],                         // neg eax; mov edi, eax
        &[0xb8, 60, 0, 0, 0, 0x0f, 0x05][..],                  // mov eax, exit; syscall
    ]
    .concat();
    let words = |list: &[u64]| list.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let size = 120 + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend(words(&[BASE + 120, 64, 0]));
    file.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0");
    file.extend(words(&[0, BASE, BASE, size, size, 0x1000]));
    file.extend(code);
    let path = bundle.rootfs.join("bin/call");
    fs::write(&path, file).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn other_entries_into_the_kernel_are_filtered_too() {
    const INT_80: [u8; 2] = [0xcd, 0x80];
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/call"]);
    let of = |arches: &[&str]| {
        let rule = json!({"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77});
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": arches, "syscalls": [rule]})
    };
    write_program(&bundle, 64, INT_80);
    let has_i386 = bundle.run().code == 0;
    for (name, number, entry, arch) in [
        ("native", 110, SYSCALL, "SCMP_ARCH_X86_64"),
        ("x32", 0x4000_0000 + 110, SYSCALL, "SCMP_ARCH_X32"),
        ("i386", 64, INT_80, "SCMP_ARCH_X86"),
    ] {
        if name == "i386" && !has_i386 {
            return skip("this kernel has no 32-bit entry");
        }
        write_program(&bundle, number, entry);
        use_profile(&mut bundle, of(&["SCMP_ARCH_X86_64", arch]));
        assert_eq!(bundle.run().code, 77, "{name} is named");
        use_profile(&mut bundle, of(&["SCMP_ARCH_X86_64"]));
        assert_eq!(bundle.run().code, if name == "native" { 77 } else { 128 + 31 }, "{name} is not named");
    }
    // A call that is newer than the profile.
    use_profile(
        &mut bundle,
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["execve", "exit", "statx"], "action": "SCMP_ACT_ALLOW"}]}),
    );
    set(&mut bundle.config, "/process/noNewPrivileges", json!(true));
    for (number, errno) in [(400, libc_enosys()), (331, 1)] {
        write_program(&bundle, number, SYSCALL);
        assert_eq!(bundle.run().code, errno, "{number}");
    }
}

#[cfg(target_arch = "x86_64")]
fn libc_enosys() -> i32 {
    nix::errno::Errno::ENOSYS as i32
}

/// An agent at `agent` in the test's directory, and the profile that leaves making directories to it.
fn with_agent(host: &Host, bundle: &mut Bundle<'_>, answer: &str) -> Running {
    let path = host.temp.join("agent");
    let agent = agent(host, &path, answer);
    let mut notify = profile("SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY");
    notify["listenerPath"] = json!(path);
    notify["listenerMetadata"] = json!("some \"metadata\"");
    notify["flags"] = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
    use_profile(bundle, notify);
    agent
}

#[test]
fn an_agent_gets_the_state_and_decides() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.writable().config["annotations"] = json!({"a": "b"});
    both_ways(&mut bundle, |bundle, no_new_privileges| {
        let agent = with_agent(&host, bundle, "28");
        bundle.args(&["/bin/mkdir", "/tmp/made"]);
        let output = bundle.run();
        assert!(output.code == 1 && output.stderr.contains("No space left on device"), "{output:?}");
        let output = agent.wait().ok();
        let lines: Vec<_> = output.stdout.lines().collect();
        let message: Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(message["fds"], json!(["seccompFd"]));
        assert_eq!(message["metadata"], "some \"metadata\"");
        assert!(message["ociVersion"].is_string() && message["pid"].as_i64().unwrap() > 1);
        let state = &message["state"];
        assert_eq!(state["id"], json!(bundle.id));
        assert_eq!(state["pid"], message["pid"]);
        assert_eq!(state["bundle"], json!(bundle.path));
        assert_eq!(state["annotations"], json!({"a": "b"}));
        assert_eq!(state["status"], if no_new_privileges { "created" } else { "creating" });
        assert_eq!(lines.len(), 3, "one call: {lines:?}");
    });
}

#[test]
fn an_agent_may_let_calls_go_on_whether_started_at_once_or_later() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.writable().args(&["/bin/mkdir", "/tmp/made"]);
    both_ways(&mut bundle, |bundle, _| {
        let agent = with_agent(&host, bundle, "continue");
        bundle.run().ok();
        fs::remove_dir(bundle.rootfs.join("tmp/made")).unwrap();
        agent.wait().ok();

        let agent = with_agent(&host, bundle, "continue");
        bundle.create().ok();
        let pid = bundle.pid();
        bundle.start().ok();
        assert_eq!(host.reap(pid), 0);
        bundle.delete_by_force();
        fs::remove_dir(bundle.rootfs.join("tmp/made")).unwrap();
        agent.wait().ok();
    });
}

#[test]
fn an_agent_may_even_have_the_calls_that_would_reach_it() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let none = json!([]);
    // Calls newer than those that are named are the agent's, too.
    let some = json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]);
    for rules in [none, some] {
        both_ways(&mut bundle, |bundle, _| {
            let agent = with_agent(&host, bundle, "continue");
            set(&mut bundle.config, "/linux/seccomp/defaultAction", json!("SCMP_ACT_NOTIFY"));
            set(&mut bundle.config, "/linux/seccomp/syscalls", rules.clone());
            bundle.args(&["/bin/true"]).run().ok();
            assert!(agent.wait().ok().stdout.lines().count() > 5, "it was asked about everything");
        });
    }
}

#[test]
fn an_agent_is_told_though_the_process_has_real_time_priority_and_one_processor() {
    if !has("cpuset") {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    let agent = with_agent(&host, &mut bundle, "continue");
    set(&mut bundle.config, "/process/noNewPrivileges", json!(true));
    set(&mut bundle.config, "/process/scheduler", json!({"policy": "SCHED_FIFO", "priority": 1}));
    set(&mut bundle.config, "/linux/resources/cpu", json!({"cpus": "0"}));
    if std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
        let cpu = json!({"cpus": "0", "realtimeRuntime": 100_000, "realtimePeriod": 1_000_000});
        set(&mut bundle.config, "/linux/resources/cpu", cpu);
    }
    bundle.writable().args(&["/bin/mkdir", "/tmp/made"]).run().ok();
    agent.wait().ok();
}

#[test]
fn an_agent_hears_of_start_hooks_once_the_filter_is_loaded() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.writable().args(&["/bin/mkdir", "/tmp/made"]);
    bundle.config["hooks"] = json!({"startContainer": [{"path": "/bin/mkdir", "args": ["mkdir", "/tmp/hook"]}]});
    both_ways(&mut bundle, |bundle, _| {
        let agent = with_agent(&host, bundle, "continue");
        bundle.run().ok();
        for made in ["tmp/made", "tmp/hook"] {
            fs::remove_dir(bundle.rootfs.join(made)).unwrap();
        }
        // The state, and two calls.
        assert_eq!(agent.wait().ok().stdout.lines().count(), 4);
    });
}

#[test]
fn an_exec_tells_the_agent_before_it_asks_it() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let first = with_agent(&host, &mut bundle, "continue");
    set(&mut bundle.config, "/process/noNewPrivileges", json!(false));
    bundle.args(&["/bin/sleep", "1000"]).up();
    let second = agent(&host, &host.temp.join("agent"), "continue");
    let mut seccomp = bundle.config["linux"]["seccomp"].clone();
    seccomp["syscalls"][0]["names"] = json!(["fcntl", "write", "read", "prctl"]);
    // A container's own copy of its configuration decides.
    let copy = bundle.state_path("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&copy).unwrap()).unwrap();
    config["linux"]["seccomp"] = seccomp;
    fs::write(&copy, config.to_string()).unwrap();
    bundle.exec(&[], &["/bin/true"]).run().ok();
    bundle.delete_by_force();
    second.wait().ok();
    first.wait();
}

#[test]
fn without_an_agent_there_is_no_container() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let path = host.temp.join("nobody");
    let mut notify = profile("SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY");
    notify["listenerPath"] = json!(path);
    both_ways(&mut bundle, |bundle, _| {
        use_profile(bundle, notify.clone());
        for output in [bundle.run(), bundle.create()] {
            fails_at(&output, "/linux/seccomp/listenerPath");
            assert!(output.stderr.contains("agent") && output.stderr.contains("ENOENT"), "{output:?}");
        }
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        fails_at(&bundle.run(), "/linux/seccomp/listenerPath");
        fs::remove_file(&path).unwrap();
        assert!(!host.root.join(&bundle.id).exists());
        assert_eq!(host.differences(), Vec::<String>::new());
    });
    // A listener that nobody needs is none.
    set(&mut notify, "/syscalls/0/action", json!("SCMP_ACT_ALLOW"));
    use_profile(&mut bundle, notify);
    bundle.run().ok();
}

#[test]
fn an_agent_that_goes_before_the_start_makes_it_fail() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let agent = with_agent(&host, &mut bundle, "continue");
    set(&mut bundle.config, "/process/noNewPrivileges", json!(true));
    bundle.create().ok();
    drop(agent);
    bundle.start().fails_with("/linux/seccomp/listenerPath");
    bundle.delete_by_force();
    // Without noNewPrivileges it was told by the create.
    let agent = with_agent(&host, &mut bundle, "continue");
    set(&mut bundle.config, "/process/noNewPrivileges", json!(false));
    bundle.create().ok();
    wait_until("it has the descriptor", || agent.stdout().lines().count() > 1);
    drop(agent);
    bundle.start().ok();
    host.reap_container(&bundle);
    bundle.delete_by_force();
}

#[test]
fn what_a_profile_cannot_say_is_refused() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let argument = |index: i32, value: i64, op: &str| json!([{"index": index, "value": value, "op": op}]);
    let killing = json!({"names": ["mkdir"], "action": "SCMP_ACT_KILL", "errnoRet": 1});
    for (place, value, pointer) in [
        ("/defaultAction", json!("SCMP_ACT_MAYBE"), "/defaultAction"),
        ("/defaultAction", Value::Null, "/defaultAction"),
        ("/defaultErrnoRet", json!(1), "/defaultErrnoRet"),
        ("/architectures", json!(["SCMP_ARCH_Z80"]), "/architectures/0"),
        ("/flags", json!(["SECCOMP_FILTER_FLAG_NONE"]), "/flags/0"),
        ("/listenerMetadata", json!("nobody's"), "/listenerMetadata"),
        ("/syscalls/0/action", json!("SCMP_ACT_NOTIFY"), "/listenerPath"),
        ("/syscalls/0/action", json!("SCMP_ACT_MAYBE"), "/syscalls/0/action"),
        ("/syscalls/0/errnoRet", json!(4096), "/syscalls/0/errnoRet"),
        ("/syscalls/0", killing, "/syscalls/0/errnoRet"),
        ("/syscalls/0/names", json!([]), "/syscalls/0/names"),
        ("/syscalls/0/names", json!([""]), "/syscalls/0/names/0"),
        ("/syscalls/0/args", argument(6, 0, "SCMP_CMP_EQ"), "/syscalls/0/args/0/index"),
        ("/syscalls/0/args", argument(0, 0, "SCMP_CMP_IN"), "/syscalls/0/args/0/op"),
        ("/syscalls/0/args", argument(0, 0, ""), "/syscalls/0/args/0/op"),
        ("/syscalls/0/args", argument(0, -1, "SCMP_CMP_EQ"), "/syscalls/0/args/0/value"),
    ] {
        use_profile(&mut bundle, profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"));
        set(&mut bundle.config, &format!("{POINTER}{place}"), value);
        fails_at(&bundle.run(), &format!("{POINTER}{pointer}"));
        assert!(!host.root.join(&bundle.id).exists(), "{place}");
    }
}

#[test]
fn every_flag_is_taken() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let features = host.kelson(["features"]).ok().json();
    let known = features["linux"]["seccomp"]["knownFlags"].as_array().unwrap().clone();
    assert!(known.len() >= 4);
    for flag in known {
        use_profile(&mut bundle, profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"));
        set(&mut bundle.config, "/linux/seccomp/flags", json!([flag]));
        bundle.run().ok();
    }
}
