//! What a container gets of its caller's descriptors and keys: what it is asked to, and nothing else.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::harness::{Bundle, Host, wait_until};
use crate::support::user_namespace;

/// Directories of the host, open and inherited by whatever is called.
fn leak(count: usize) -> Vec<OwnedFd> {
    let paths = ["/", "/etc", "/sys/fs/cgroup", "/proc"];
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    (0..count).map(|index| open(paths[index % paths.len()], flags, Mode::empty()).unwrap()).collect()
}

/// Runs with this descriptor as 3 in the caller.
fn with_descriptor_3(bundle: &mut Bundle<'_>, file: &OwnedFd, more: &str) {
    fcntl(file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let script = format!("exec 3<&{}; {more} exec \"$@\"", file.as_raw_fd());
    bundle.wrapper = ["bash", "-c", &script, "bash"].map(Into::into).to_vec();
}

fn numbers(report: &Value) -> Vec<&str> {
    report["fds"].as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_created_container_holds_nothing_of_the_hosts() {
    let host = Host::new();
    let leaked = leak(5);
    for file in &leaked {
        fcntl(file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    for own_users in [false, true] {
        let mut bundle = host.bundle();
        if own_users {
            user_namespace(&mut bundle, 100_000);
        }
        bundle.making("create", &[]).run().ok();
        let descriptors = fs::read_dir(format!("/proc/{}/fd", bundle.pid())).unwrap().flatten();
        let held = descriptors.filter(|entry| entry.file_name().to_string_lossy().parse::<i32>().unwrap() > 2);
        let held: Vec<_> = held.map(|entry| fs::read_link(entry.path()).unwrap().display().to_string()).collect();
        assert!(held.iter().all(|target| target.starts_with("socket:")), "{own_users}: {held:?}");
        let shown =
            |name: &str| fs::read_to_string(format!("/proc/{}/{name}", bundle.pid())).unwrap().replace('\0', " ");
        assert_eq!([shown("cmdline").trim(), shown("environ").trim()], ["kelson init", ""]);
        bundle.delete_by_force();
    }
}

#[test]
fn cve_2024_21626_no_program_is_found_through_a_descriptor() {
    let host = Host::new();
    let file = host.temp.join("tool");
    fs::copy(crate::harness::program("probe"), &file).unwrap();
    let leaked: OwnedFd = fs::File::open(&host.temp).unwrap().into();
    let mut bundle = host.bundle();
    with_descriptor_3(&mut bundle, &leaked, "");
    for number in 3..30 {
        let path = format!("/proc/self/fd/{number}");
        for program in [format!("{path}/tool"), format!("{path}/self/exe"), format!("{path}/1/root{}", file.display())]
        {
            let output = bundle.args(&[&program, "fds"]).run();
            assert_ne!(output.code, 0, "{program}: {output:?}");
        }
    }
}

#[test]
fn cve_2024_21626_fifty_directories_of_the_host_do_not_reach_the_program() {
    let host = Host::new();
    let leaked = leak(50);
    for own_users in [false, true] {
        let mut bundle = host.bundle();
        if own_users {
            user_namespace(&mut bundle, 100_000);
        }
        let report = bundle.probe(&["fds"]);
        assert_eq!(numbers(&report), ["0", "1", "2"], "{report}");
        bundle.args(&["/bin/probe", "fds"]).create().ok();
        let pid = bundle.pid();
        bundle.start().ok();
        host.reap(pid);
        bundle.delete_by_force();
    }
    drop(leaked);
}

#[test]
fn cve_2024_21626_no_working_directory_leads_out() {
    let host = Host::new();
    let leaked = leak(50);
    let mut bundle = host.bundle();
    std::os::unix::fs::symlink("/proc/self/fd/7", bundle.rootfs.join("link")).unwrap();
    let numbers = (3..64).map(|number| format!("/proc/self/fd/{number}"));
    let others = ["/proc/self/fd/7/../..", "/link", "/proc/1/cwd/..", "/proc/self/root/../.."].map(str::to_owned);
    for cwd in numbers.chain(others) {
        bundle.config["process"]["cwd"] = json!(cwd);
        bundle.script("pwd -P; ls /proc/self/cwd/bin/probe");
        let output = bundle.run();
        // What is still open and leads inside is the container's own.
        assert!(output.code == 1 || output.stdout.starts_with("/\n/proc/self/cwd/bin/probe\n"), "{cwd}: {output:?}");
    }
    drop(leaked);
}

#[test]
fn descriptors_are_preserved_when_asked_for() {
    let host = Host::new();
    let file = host.temp.join("file");
    fs::write(&file, "passed on").unwrap();
    let open_file = OwnedFd::from(fs::File::open(&file).unwrap());
    let mut bundle = host.bundle();
    with_descriptor_3(&mut bundle, &open_file, "");
    assert_eq!(numbers(&bundle.probe(&["fds"])), ["0", "1", "2"]);
    bundle.flags = ["--preserve-fds", "1"].map(Into::into).to_vec();
    assert_eq!(numbers(&bundle.probe(&["fds"])), ["0", "1", "2", "3"]);
    assert_eq!(bundle.args(&["/bin/probe", "echo-fd", "3"]).run().ok().stdout, "passed on");
    bundle.wrapper.clear();
    drop(open_file);
    bundle.run().fails_with("descriptor 3, which is to be passed on, is not open");
}

#[test]
fn sockets_of_an_activation_are_passed_on_to_whom_they_are_meant_for() {
    let host = Host::new();
    let file = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let mut bundle = host.bundle();
    with_descriptor_3(&mut bundle, &file, "export LISTEN_PID=$$ LISTEN_FDS=1;");
    let report = bundle.probe(&["fds", "env"]);
    assert_eq!(numbers(&report), ["0", "1", "2", "3"]);
    let env = report["env"].as_array().unwrap();
    assert!(env.contains(&json!("LISTEN_FDS=1")) && env.contains(&json!("LISTEN_PID=1")), "{report}");
    with_descriptor_3(&mut bundle, &file, "export LISTEN_PID=1 LISTEN_FDS=1;");
    let report = bundle.probe(&["fds", "env"]);
    assert_eq!(numbers(&report), ["0", "1", "2"]);
    assert!(!report["env"].to_string().contains("LISTEN"), "{report}");
}

#[test]
fn the_session_keyring_is_the_containers_own_unless_told_otherwise() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let name = format!("_ses.{}", bundle.id);
    let seen = bundle.probe(&["keyring"])["keyring"].as_str().unwrap_or_default().to_owned();
    assert!(seen.ends_with(&name), "{seen}");
    bundle.flags = vec!["--no-new-keyring".into()];
    let seen = bundle.probe(&["keyring"])["keyring"].to_string();
    assert!(!seen.contains(&name), "{seen}");
}

#[test]
fn a_pidfd_is_sent_when_asked_for() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let path = host.temp.join("pidfd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.flags = ["--pidfd-socket", path.to_str().unwrap()].map(Into::into).to_vec();
    bundle.args(&["/bin/sleep", "60"]).create().ok();
    let (connection, _) = listener.accept().unwrap();
    let pidfd = receive(&connection);
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).unwrap();
    nix::unistd::close(pidfd).unwrap();
    assert!(info.lines().any(|line| line == format!("Pid:\t{}", bundle.pid())), "{info}");
    bundle.delete_by_force();
    drop((connection, listener));
    fails(&host, &bundle);
}

fn fails(host: &Host, bundle: &Bundle<'_>) {
    bundle.create().fails_with("cannot connect to a socket");
    assert!(!host.root.join(&bundle.id).exists());
}

/// The one descriptor that is sent over this connection.
pub fn receive(connection: impl AsFd) -> RawFd {
    kelson::wire::receive_descriptor(connection).unwrap().expect("a descriptor")
}

#[test]
fn hooks_and_the_program_get_the_same_three_however_often() {
    let host = Host::new();
    let leaked = leak(10);
    let mut bundle = host.bundle();
    let record = host.temp.join("record");
    let script = format!("ls /proc/self/fd | wc -l >> {}", record.display());
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
    bundle.config["hooks"] = json!({ "createRuntime": hook, "prestart": hook, "poststart": hook, "poststop": hook });
    for _ in 0..10 {
        bundle.args(&["/bin/true"]).run().ok();
    }
    drop(leaked);
    wait_until("all hooks have written", || fs::read_to_string(&record).is_ok_and(|text| text.lines().count() == 40));
    // Those of `ls`: three, and the directory.
    let counts = fs::read_to_string(&record).unwrap();
    assert!(counts.lines().all(|count| count.trim() == "4"), "{counts}");
}

#[test]
fn the_hosts_null_device_becomes_the_containers() {
    let host = Host::new();
    let mut bundle = host.bundle();
    // The call's standard input is /dev/null, its standard output a file.
    bundle.args(&["/bin/busybox", "stat", "-L", "-c", "%d", "/proc/self/fd/0", "/dev/null", "/proc/self/fd/1"]);
    let output = bundle.run().ok();
    let devices: Vec<_> = output.stdout.lines().collect();
    assert!(devices[0] == devices[1] && devices[1] != devices[2], "{output:?}");
}
