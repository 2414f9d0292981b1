//! Attacks on `exec`, and on a start in shared namespaces, from inside a running container.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Bundle, Host, Running, View, program, seconds, wait_until};
use crate::support::{Canary, give, namespace, user_namespace};

/// What the runtime's binary is: content, times, inode.
fn binary() -> (Vec<u8>, i64, u64) {
    let path = program("kelson");
    let data = fs::metadata(&path).unwrap();
    (fs::read(&path).unwrap(), data.mtime_nsec() ^ data.mtime(), data.ino())
}

/// A container whose first process is the spy, and what that says.
fn watched<'a>(host: &'a Host, change: impl Fn(&mut Bundle<'a>)) -> (Bundle<'a>, Running) {
    let mut bundle = host.bundle();
    fs::copy(program("spy"), bundle.rootfs.join("bin/spy")).unwrap();
    bundle.args(&["/bin/spy"]);
    change(&mut bundle);
    let running = bundle.making("run", &[]).spawn();
    wait_until("the spy looks", || running.stdout().contains("ready") && bundle.status() == "running");
    (bundle, running)
}

/// What the spy has found, after these many processes were added; and how often it saw one in the making.
fn findings(bundle: &Bundle<'_>, running: Running, count: usize) -> (Vec<String>, u64) {
    for _ in 0..count {
        bundle.exec(&[], &["true"]).run().ok();
    }
    running.signal(Signal::SIGTERM);
    let output = running.wait().ok();
    let lines: Vec<_> = output.stdout.lines().filter(|line| *line != "ready").map(str::to_owned).collect();
    let seen = lines.iter().find_map(|line| line.strip_prefix("seen ")?.parse().ok()).unwrap();
    (lines.into_iter().filter(|line| !line.starts_with("seen ")).collect(), seen)
}

fn nothing_is_found(count: usize) {
    let host = Host::new();
    let before = binary();
    for own_users in [false, true] {
        let (bundle, running) = watched(&host, |bundle| {
            if own_users {
                user_namespace(bundle, 100_000);
                give(bundle, &["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
            }
        });
        let (found, seen) = findings(&bundle, running, count);
        assert!(seen > 0, "it never saw one");
        // With its own users, all capabilities are worth nothing beyond them.
        let found: Vec<_> = found.into_iter().filter(|line| !own_users || line != "CAP_SYS_ADMIN").collect();
        assert!(found.is_empty(), "own users: {own_users}: {found:?}");
    }
    assert!(binary() == before, "the runtime's binary has changed");
}

/// With the host's CAP_SYS_PTRACE a container's process may look into every one that it sees: there must be nothing in
/// it then that is not the container's.
fn what_a_tracer_finds_is_the_containers(count: usize) {
    let host = Host::new();
    let before = binary();
    let (bundle, running) = watched(&host, |bundle| give(bundle, &["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]));
    let (found, seen) = findings(&bundle, running, count);
    assert!(seen > 0, "it never saw one");
    let harmless = ["exe", "mem", "root", "cwd"];
    let harm: Vec<_> = found.iter().filter(|line| !harmless.contains(&line.as_str())).collect();
    assert!(harm.is_empty(), "{harm:?}");
    assert!(binary() == before, "the runtime's binary has changed");
}

/// As containers of a pod do: one more is made in the user and pid namespace of one that is hostile.
#[test]
fn cve_2016_9962_nobody_in_a_shared_namespace_can_look_into_a_container_in_the_making() {
    let host = Host::new();
    let (bundle, running) = watched(&host, |bundle| {
        user_namespace(bundle, 100_000);
        give(bundle, &["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    });
    let mut other = host.bundle();
    for kind in ["user", "pid"] {
        namespace(&mut other, kind, Some(&format!("/proc/{}/ns/{kind}", bundle.pid())));
    }
    for _ in 0..40 {
        other.args(&["/bin/true"]).run().ok();
    }
    let (found, seen) = findings(&bundle, running, 0);
    assert!(seen > 0, "it never saw one");
    // All capabilities are worth nothing beyond the namespace; the arguments, which everybody may read, say nothing.
    let harmless = |line: &String| line == "CAP_SYS_ADMIN" || line.starts_with("cmdline: ");
    let found: Vec<_> = found.into_iter().filter(|line| !harmless(line)).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn cve_2016_9962_the_runtime_cannot_be_looked_into() {
    nothing_is_found(100);
}

#[test]
#[ignore = "a minute"]
fn cve_2016_9962_the_runtime_cannot_be_looked_into_a_thousand_times() {
    nothing_is_found(1000);
}

#[test]
fn cve_2016_9962_a_tracer_finds_nothing_of_the_hosts() {
    what_a_tracer_finds_is_the_containers(100);
}

#[test]
#[ignore = "a minute"]
fn cve_2016_9962_a_tracer_finds_nothing_of_the_hosts_a_thousand_times() {
    what_a_tracer_finds_is_the_containers(1000);
}

fn own_binary_as_program(count: usize) {
    let host = Host::new();
    let before = binary();
    let mut bundle = host.bundle();
    for (name, text) in [("self", "#!/proc/self/exe\n"), ("thread", "#!/proc/thread-self/exe --version\n")] {
        let path = bundle.rootfs.join("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    bundle.args(&["/bin/sleep", "1000"]).up();
    for _ in 0..count {
        for command in ["/bin/self", "/bin/thread", "/proc/self/exe", "/proc/thread-self/exe"] {
            let output = bundle.exec(&[], &[command, "--version"]).run();
            assert!(output.code != 0 || output.stdout.contains("kelson version"), "{command}: {output:?}");
        }
    }
    bundle.delete_by_force();
    assert!(binary() == before, "the runtime's binary has changed");
}

#[test]
fn cve_2019_5736_the_runtimes_binary_is_no_way_out() {
    own_binary_as_program(10);
}

#[test]
#[ignore = "a minute"]
fn cve_2019_5736_the_runtimes_binary_is_no_way_out_a_thousand_times() {
    own_binary_as_program(250);
}

fn no_directory_leads_out(rounds: usize) {
    let host = Host::new();
    let leaked: Vec<OwnedFd> =
        (0..50).map(|index| fs::File::open(["/", "/etc", "/proc"][index % 3]).unwrap().into()).collect();
    leaked.iter().for_each(|file| {
        nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    });
    let mut bundle = host.bundle();
    symlink("/proc/self/fd/7", bundle.rootfs.join("link")).unwrap();
    bundle.args(&["/bin/sleep", "1000"]).up();
    for _ in 0..rounds {
        let numbers = (3..64).map(|number| format!("/proc/self/fd/{number}"));
        let others = ["/proc/self/fd/7/../..", "/link", "/proc/1/cwd/..", "/proc/self/root/../..", "/proc/self/cwd"];
        for cwd in numbers.chain(others.map(str::to_owned)) {
            let output = bundle.exec(&["--cwd", &cwd], &["sh", "-c", "pwd -P; ls -l /proc/self/fd"]).run();
            assert_eq!(output.code, 255, "{cwd}: {output:?}");
            assert!(output.stderr.contains("cannot enter the working directory"), "{cwd}: {output:?}");
        }
    }
    let report = bundle.exec(&[], &["/bin/probe", "fds"]).run().ok().json();
    assert_eq!(report["fds"].as_object().unwrap().len(), 3, "{report}");
    bundle.delete_by_force();
}

#[test]
fn cve_2024_21626_no_working_directory_leads_out() {
    no_directory_leads_out(1);
}

#[test]
#[ignore = "a minute"]
fn cve_2024_21626_no_working_directory_leads_out_a_thousand_times() {
    no_directory_leads_out(16);
}

#[test]
fn cve_2016_3697_a_number_is_no_name_and_cve_2026_30892_what_is_no_number_is_not_root() {
    let host = Host::new();
    let mut bundle = host.bundle();
    fs::write(bundle.rootfs.join("etc/passwd"), "1000:x:0:0::/:/bin/sh\nroot:x:0:0::/root:/bin/sh\n").unwrap();
    bundle.config["process"]["user"] = json!({ "uid": 3, "gid": 4 });
    bundle.args(&["/bin/sleep", "1000"]).up();
    for (user, uid, gid) in [("1000", 1000, 4), ("1", 1, 4), ("1:2", 1, 2), ("0", 0, 4), ("0:0", 0, 0), ("01", 1, 4)] {
        let report = bundle.exec(&["--user", user], &["/bin/probe", "uid", "gid"]).run().ok().json();
        let all = |id: i32| json!({ "real": id, "effective": id, "saved": id, "fs": id });
        assert_eq!((&report["uid"], &report["gid"]), (&all(uid), &all(gid)), "{user}");
    }
    for user in ["", "1:", ":1", ":", "-1", "+1", " 1", "1 ", "1e3", "0x1", "root", "1:2:3", "4294967295", "4294967296"]
    {
        bundle.exec(&[&format!("--user={user}")], &["id"]).run().exec_fails_with("is not the number of a user");
        bundle.exec(&[&format!("-g={user}")], &["id"]).run().exec_fails_with("is not the number of a user");
    }
    bundle.delete_by_force();
}

#[test]
fn cve_2022_29162_no_capability_is_inheritable_and_cve_2016_8867_none_ambient() {
    let host = Host::new();
    let bundle = host.bundle();
    let mut bundle = bundle;
    bundle.args(&["/bin/sleep", "1000"]).up();
    for user in ["0", "1000"] {
        let flags = ["--cap", "CAP_NET_RAW", "--cap", "CAP_CHOWN", "-u", user];
        let caps = bundle.exec(&flags, &["/bin/probe", "caps"]).run().ok().json()["caps"].clone();
        assert_eq!((&caps["inheritable"], &caps["ambient"]), (&json!([]), &json!([])), "{user}");
        let has = |set: &str| caps[set].to_string().contains("CAP_NET_RAW");
        assert_eq!((has("bounding"), has("effective"), has("permitted")), (true, user == "0", user == "0"), "{caps}");
    }
    bundle.exec(&["--cap", "CAP_MOON"], &["true"]).run().exec_fails_with("there is no capability");
    bundle.delete_by_force();
}

#[test]
fn cve_2019_10144_an_added_process_is_confined_as_the_first_one() {
    const SECTIONS: [&str; 9] =
        ["uid", "groups", "caps", "noNewPrivs", "seccomp", "apparmor", "namespaces", "cgroup", "rlimits"];
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["reboot"], "action": "SCMP_ACT_ERRNO" }] });
    bundle.script(&format!("/bin/probe {}; exec sleep 1000", SECTIONS.join(" ")));
    let running = bundle.making("run", &[]).spawn();
    wait_until("the first process has looked", || running.stdout().ends_with('\n'));
    let first: serde_json::Value = serde_json::from_str(&running.stdout()).unwrap();
    let added = bundle.exec(&[], &[&["/bin/probe"], &SECTIONS[..]].concat()).run().ok().json();
    assert_eq!(added, first);
    assert!(first["seccomp"].to_string().contains('2'), "{first}");
    bundle.delete_by_force();
    running.wait();
}

#[test]
fn ghsa_5g49_no_cgroup_outside_is_joined() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "1000"]).up();
    let mut paths = ["..", "../..", "sub/../..", "/..", "./../x", "../../../../etc"].map(str::to_owned).to_vec();
    if !View::current().is_v2() {
        paths.extend(paths.clone().iter().map(|path| format!("pids:{path}")));
    }
    for path in &paths {
        bundle.exec(&["--cgroup", path], &["true"]).run().exec_fails_with("bad sub cgroup path");
    }
    bundle.delete_by_force();
}

#[test]
fn cve_2022_0811_output_that_nobody_reads_costs_no_memory() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "1000"]).up();
    for flags in [&[][..], &["-t"]] {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let call =
            bundle.exec(flags, &["sh", "-c", "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done"]);
        let number = std::os::fd::AsRawFd::as_raw_fd(&writer);
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let running = call.before(["bash", "-c", &format!("exec \"$@\" >&{number}"), "bash"]).spawn();
        std::thread::sleep(Duration::from_secs(1));
        let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kib: u32 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 4096, "{flags:?}: {kib} KiB");
        drop((reader, writer));
        running.signal(Signal::SIGKILL);
        running.wait();
    }
    bundle.delete_by_force();
}

#[test]
fn cve_2022_4318_a_hostile_passwd_neither_blocks_nor_grows_the_runtime() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let mut bundle = host.bundle();
    let passwd = bundle.rootfs.join("etc/passwd");
    bundle.args(&["/bin/sleep", "1000"]).up();
    let huge = |path: &Path| fs::File::create(path).unwrap().set_len(1 << 30).unwrap();
    let makers: [&dyn Fn(); 4] = [
        &|| nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        &|| symlink(canary.path.join("file"), &passwd).unwrap(),
        &|| huge(&passwd),
        &|| fs::write(&passwd, "a:x:0:0::/x\ny:/bin/sh\n").unwrap(),
    ];
    for make in makers {
        let _ = fs::remove_file(&passwd);
        make();
        let began = Instant::now();
        let output = bundle.exec(&[], &["sh", "-c", "echo $HOME"]).run().ok();
        assert!(began.elapsed() < seconds(1) && output.stdout.starts_with('/'), "{output:?}");
    }
    canary.is_untouched();
    bundle.delete_by_force();
}

#[test]
fn cve_2017_5226_nothing_can_be_typed_into_the_callers_terminal() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "1000"]).up();
    let report = bundle.exec(&[], &["/bin/probe", "sid", "pid"]).run().ok().json();
    assert_eq!(report["sid"], report["pid"], "a session of its own: {report}");
    bundle.exec(&[], &["sh", "-c", "echo x > /dev/tty && exit 1; exit 0"]).run().ok();
    bundle.delete_by_force();
}

#[test]
fn nothing_of_the_callers_reaches_the_process() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "1000"]).up();
    let script = "trap '' USR1 TERM PIPE; umask 0; exec setpriv --groups 77,78 \"$@\"";
    let call = bundle.exec(&[], &["/bin/probe", "env", "groups", "sigBlk", "sigIgn", "umask", "keyring"]);
    let call = call.env("LD_PRELOAD", "/evil.so").env("SECRET", "1").before(["bash", "-c", script, "bash"]);
    let report = call.run().ok().json();
    assert!(!report["env"].to_string().contains("SECRET") && !report.to_string().contains("_KELSON"), "{report}");
    assert_eq!((&report["groups"], &report["umask"]), (&json!([]), &json!("0022")), "{report}");
    assert_eq!((&report["sigBlk"], &report["sigIgn"]), (&json!("0000000000000000"), &json!("0000000000000000")));
    bundle.delete_by_force();
}

#[test]
fn a_terminal_is_not_taken_from_what_a_container_puts_over_devpts() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let mut bundle = host.bundle();
    give(&mut bundle, &["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    let script = "mount -t tmpfs none /dev/pts && ln -s /proc/1/mem /dev/pts/ptmx; sleep 1000";
    bundle.script(script).up();
    wait_until("devpts is covered", || bundle.exec(&[], &["ls", "/dev/pts/ptmx"]).run().code == 0);
    bundle.exec(&["-t"], &["true"]).run().exec_fails_with("not devpts");
    canary.is_untouched();
    bundle.delete_by_force();
}
