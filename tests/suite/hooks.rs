//! Hooks of all six kinds: when they run, what they see, and what becomes of the container when one fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Bundle, Host, is_alive, program, seconds, wait_until};
use crate::support::user_namespace;

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
/// Those that run while the container is created.
const CREATING: [&str; 3] = ["prestart", "createRuntime", "createContainer"];

/// A directory that the hooks on the host and those in the container can write to; and the hooks' programs in both.
struct Shared {
    directory: PathBuf,
}

impl Shared {
    fn new(host: &Host, bundle: &mut Bundle) -> Self {
        let directory = host.temp.join("shared");
        fs::create_dir_all(&directory).unwrap();
        bundle.mount("/shared", "bind", &directory, &["bind"]);
        for name in ["kelson-hook-record", "kelson-hook-trace", "kelson-hook-fail"] {
            fs::copy(program(name), bundle.rootfs.join("bin").join(name)).unwrap();
        }
        Self { directory }
    }

    /// A hook of `kind`, with paths as they are where it runs. FILE in the arguments is the shared file `file`.
    fn hook(&self, kind: &str, name: &str, arguments: &[&str]) -> Value {
        let inside = kind == "startContainer";
        let path = if inside { Path::new("/bin").join(name) } else { program(name) };
        let file = if inside { PathBuf::from("/shared/log") } else { self.directory.join("log") };
        let arguments: Vec<_> = arguments.iter().map(|word| word.replace("FILE", file.to_str().unwrap())).collect();
        let words = [&[name.to_owned()][..], &arguments].concat();
        json!({"path": path, "args": words})
    }

    /// The lines that the hooks have written.
    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The names of the hooks that have run.
    fn names(&self) -> Vec<String> {
        self.lines().iter().map(|line| line["hook"].as_str().unwrap().to_owned()).collect()
    }
}

/// Two tracing hooks of each kind.
fn trace_all(bundle: &mut Bundle, shared: &Shared) {
    for kind in KINDS {
        let hook = |name: &str| shared.hook(kind, "kelson-hook-trace", &["FILE", &format!("{kind}{name}")]);
        bundle.config["hooks"][kind] = json!([hook(""), hook("2")]);
    }
}

fn twice(kinds: &[&str]) -> Vec<String> {
    kinds.iter().flat_map(|kind| [(*kind).to_owned(), format!("{kind}2")]).collect()
}

#[test]
fn hooks_run_in_their_order_and_at_their_time() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    trace_all(&mut bundle, &shared);
    bundle.create().ok();
    assert_eq!(shared.names(), twice(&CREATING));
    bundle.start().ok();
    assert_eq!(shared.names(), twice(&KINDS[..5]));
    bundle.delete_by_force();
    assert_eq!(shared.names(), twice(&KINDS));
}

#[test]
fn run_runs_all_hooks() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    trace_all(&mut bundle, &shared);
    assert_eq!(bundle.script("exit 6").run().code, 6);
    assert_eq!(shared.names(), twice(&KINDS));
}

#[test]
fn start_container_hooks_run_before_the_program_and_poststart_hooks_after_its_start() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    trace_all(&mut bundle, &shared);
    bundle.script("/bin/kelson-hook-trace /shared/log program </dev/null; sleep 100").create().ok();
    bundle.config["hooks"]["poststart"] = json!([]);
    bundle.start().ok();
    wait_until("the program ran", || shared.names().contains(&"program".to_owned()));
    let names = shared.names();
    let place = |name: &str| names.iter().position(|other| other == name).unwrap();
    assert!(place("startContainer2") < place("program"), "{names:?}");
    assert!(place("startContainer2") < place("poststart"), "{names:?}");
    bundle.delete_by_force();
}

/// What a recording hook of each kind saw, in a container that is deleted afterwards; and init's process id.
fn record_all(host: &Host, bundle: &mut Bundle, shared: &Shared) -> (Vec<Value>, i32) {
    for kind in KINDS {
        let mut hook = shared.hook(kind, "kelson-hook-record", &["FILE", kind]);
        hook["env"] = json!(["A=b", format!("KIND={kind}"), "EMPTY=", "EQ==="]);
        bundle.config["hooks"][kind] = json!([hook]);
    }
    bundle.args(&["/bin/sleep", "100"]).making("create", &[]).env("SECRET", "of the caller").run().ok();
    bundle.start().ok();
    let pid = bundle.pid();
    let namespaces = json!({
        "mnt": fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap(),
        "pid": fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap(),
        "net": fs::read_link(format!("/proc/{pid}/ns/net")).unwrap(),
        "cgroup": fs::read_link(format!("/proc/{pid}/ns/cgroup")).unwrap(),
    });
    host.kelson(["delete", "--force", &bundle.id]).ok();
    let mut lines = shared.lines();
    assert_eq!(lines.len(), KINDS.len());
    lines.iter_mut().for_each(|line| line["container"] = namespaces.clone());
    (lines, pid)
}

#[test]
fn hooks_get_the_containers_state() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    bundle.config["annotations"] = json!({"a.b": "c", "d": ""});
    let (lines, pid) = record_all(&host, &mut bundle, &shared);
    // The validation suite and crun have "created" in the deprecated prestart.
    let statuses = ["created", "creating", "creating", "created", "running", "stopped"];
    for (line, status) in lines.iter().zip(statuses) {
        let state = &line["state"];
        assert_eq!(state["status"], status, "{line}");
        assert_eq!(state["ociVersion"], "1.3.0");
        assert_eq!(state["id"], bundle.id.as_str());
        assert_eq!(state["bundle"], bundle.path.to_str().unwrap());
        assert_eq!(state["annotations"], json!({"a.b": "c", "d": ""}));
        let expected = if status == "stopped" { 0 } else { pid };
        assert_eq!(state["pid"].as_i64().unwrap_or(0), i64::from(expected), "{line}");
    }
}

#[test]
fn hooks_get_their_arguments_and_environment_and_three_descriptors() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    let (lines, _) = record_all(&host, &mut bundle, &shared);
    for (line, kind) in lines.iter().zip(KINDS) {
        assert_eq!(line["env"], json!({"A": "b", "KIND": kind, "EMPTY": "", "EQ": "=="}), "{line}");
        assert_eq!(line["args"][0], "kelson-hook-record");
        let fds: Vec<_> = line["fds"].as_object().unwrap().keys().collect();
        assert_eq!(fds, ["0", "1", "2"], "{line}");
    }
}

#[test]
fn hooks_run_in_the_namespaces_that_the_specification_says() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    let (lines, _) = record_all(&host, &mut bundle, &shared);
    for (line, kind) in lines.iter().zip(KINDS) {
        for namespace in ["mnt", "net", "pid", "cgroup"] {
            let own = fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
            let containers = matches!(kind, "createContainer" | "startContainer");
            let expected = if containers { line["container"][namespace].clone() } else { json!(own) };
            assert_eq!(line["namespaces"][namespace], expected, "{kind} {namespace}");
        }
    }
}

#[test]
fn hooks_of_the_container_see_its_file_systems() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    // createContainer: mounted, but not pivoted; its paths are the host's.
    let script = format!(
        "test -e {0}/dev/null && test -e {0}/proc/self && echo ok > {1}/create",
        bundle.rootfs.display(),
        shared.directory.display()
    );
    bundle.config["hooks"] = json!({
        "createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}],
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "test -e /proc/1 && echo ok > /shared/start"]}],
    });
    for propagation in ["", "rslave", "shared", "rshared"] {
        bundle.config["linux"]["rootfsPropagation"] = json!(propagation);
        bundle.run().ok();
        for name in ["create", "start"] {
            fs::remove_file(shared.directory.join(name)).expect(propagation);
        }
    }
}

#[test]
fn what_is_mounted_in_a_shared_rootfs_is_not_seen_where_the_host_has_it() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    // A host as systemd sets it up: every mount has peers. The rootfs is a mount of its own, and below another.
    let script = format!("mount --make-rshared / && mount --bind {0} {0} && exec \"$@\"", bundle.rootfs.display());
    bundle.wrapper = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"].map(Into::into).to_vec();
    let mounted = format!(
        "mount -t tmpfs of-hook {0}/tmp && echo ok > {0}/tmp/file; grep -c of-hook /proc/self/mounts > {1}/inside",
        bundle.rootfs.display(),
        shared.directory.display()
    );
    let outside =
        format!("grep -c {} /proc/self/mounts > {}/outside; true", bundle.rootfs.display(), shared.directory.display());
    bundle.config["hooks"] = json!({
        "createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", mounted]}],
        "poststart": [{"path": "/bin/sh", "args": ["sh", "-c", outside]}],
    });
    for propagation in ["rslave", "rshared"] {
        bundle.config["linux"]["rootfsPropagation"] = json!(propagation);
        assert_eq!(bundle.script("cat /tmp/file").run().ok().stdout, "ok\n", "{propagation}");
        let count = |name: &str| fs::read_to_string(shared.directory.join(name)).unwrap();
        assert_eq!([count("inside"), count("outside")], ["1\n", "1\n"], "{propagation}");
    }
}

/// Asserts that `verb` fails for a hook of `kind`, that the container is gone, and that the poststop hooks ran.
#[track_caller]
fn fails(host: &Host, bundle: &mut Bundle, shared: &Shared, kind: &str) {
    let _ = fs::remove_file(shared.directory.join("log"));
    trace_all(bundle, shared);
    let failing = shared.hook(kind, "kelson-hook-fail", &["--status", "7", "--message", "because of me"]);
    bundle.config["hooks"][kind][1] = failing;
    let output = if CREATING.contains(&kind) {
        bundle.create()
    } else {
        bundle.create().ok();
        bundle.start()
    };
    let output = output.fails_with(&format!("/hooks/{kind}/1"));
    assert!(output.stderr.contains("exit status 7") && output.stderr.contains("because of me"), "{output:?}");
    assert!(!host.root.join(&bundle.id).exists(), "{kind}: the container is still there");
    let names = shared.names();
    assert!(!names.contains(&format!("{kind}2")), "{kind}: {names:?}");
    assert!(names.ends_with(&twice(&["poststop"])), "{kind}: {names:?}");
}

#[test]
fn a_hook_that_fails_ends_the_container() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    bundle.args(&["/bin/sleep", "100"]);
    for kind in &KINDS[..5] {
        fails(&host, &mut bundle, &shared, kind);
    }
}

#[test]
fn a_hook_that_fails_ends_run() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    bundle.args(&["/bin/sleep", "100"]);
    for kind in &KINDS[..5] {
        bundle.config["hooks"] = json!({});
        bundle.config["hooks"][*kind] = json!([shared.hook(kind, "kelson-hook-fail", &["--signal", "KILL"])]);
        bundle.run().fails_with("signal 9");
        assert!(!host.root.join(&bundle.id).exists(), "{kind}");
    }
}

#[test]
fn an_init_that_a_real_time_signal_has_ended_is_said_to_be() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.share("pid").args(&["/bin/sleep", "100"]);
    let script = "kill -35 $(grep -o '\"pid\":[0-9]*' | cut -d: -f2)";
    bundle.config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] });
    bundle.making("create", &[]).run().fails_with("was killed by signal 35");
}

#[test]
fn a_poststop_hook_that_fails_is_a_warning_and_the_others_run() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    trace_all(&mut bundle, &shared);
    let failing = shared.hook("poststop", "kelson-hook-fail", &[]);
    bundle.config["hooks"]["poststop"].as_array_mut().unwrap().insert(0, failing.clone());
    bundle.create().ok();
    let output = bundle.delete(false).ok();
    assert!(output.stderr.contains("level=warning") && output.stderr.contains("/hooks/poststop/0"), "{output:?}");
    assert!(shared.names().ends_with(&twice(&["poststop"])));
    assert!(!host.root.join(&bundle.id).exists());
    assert_eq!(bundle.script("exit 5").run().code, 5, "nor does it change what run returns");
}

#[test]
fn a_hook_that_is_not_there_is_named() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for kind in &KINDS[..4] {
        bundle.config["hooks"] = json!({});
        bundle.config["hooks"][*kind] = json!([{"path": "/nowhere/hook"}]);
        let output = bundle.run().fails_with("/nowhere/hook");
        assert!(output.stderr.contains(&format!("/hooks/{kind}/0")), "{output:?}");
    }
}

#[test]
fn a_hook_has_its_timeout_and_no_longer() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let hook = json!([{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]);
    for kind in ["createRuntime", "createContainer"] {
        bundle.config["hooks"] = json!({});
        bundle.config["hooks"][kind] = hook.clone();
        let began = Instant::now();
        bundle.create().fails_with("timeout of 1 s");
        assert!(began.elapsed() < seconds(5));
    }
    bundle.config["hooks"] = json!({"poststop": hook});
    bundle.create().ok();
    let began = Instant::now();
    let output = bundle.delete(true).ok();
    assert!(output.stderr.contains("timeout of 1 s") && began.elapsed() < seconds(5), "{output:?}");
}

#[test]
fn a_hook_need_not_read_its_state_and_may_leave_a_process() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["annotations"] = json!({"long": "x".repeat(300_000)});
    let script = "exec 0<&-; sleep 0.5 & exit 0";
    let hooks: Vec<_> =
        KINDS.iter().map(|kind| json!({*kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]})).collect();
    for hook in hooks {
        bundle.config["hooks"] = hook;
        bundle.run().ok();
    }
}

#[test]
fn what_a_hook_has_left_at_work_in_the_rootfs_does_not_keep_it_from_becoming_read_only() {
    let host = Host::new();
    let mut bundle = host.bundle();
    // Its root is the container's as soon as that has been entered: until then it writes nowhere.
    fs::create_dir(bundle.rootfs.join("inside")).unwrap();
    let script = "(i=0; while [ $i -lt 20000 ]; do echo >>/inside/file; i=$((i+1)); done) >/dev/null 2>&1 &";
    bundle.config["hooks"] = json!({"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    for _ in 0..10 {
        bundle.run().ok();
    }
}

#[test]
fn a_long_state_reaches_the_hooks() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    bundle.config["annotations"] = json!({"long": "x".repeat(100_000)});
    record_all(&host, &mut bundle, &shared);
    for line in shared.lines() {
        assert_eq!(line["state"]["annotations"]["long"].as_str().map(str::len), Some(100_000), "{}", line["hook"]);
    }
}

#[test]
fn a_hook_without_arguments_is_called_by_its_path() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let file = host.temp.join("args");
    let script = host.temp.join("hook");
    fs::write(&script, format!("#!/bin/sh\necho \"$0 $# $PATH\" > {}\n", file.display())).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    bundle.config["hooks"] = json!({"createRuntime": [{"path": script}]});
    bundle.run().ok();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with(&format!("{} 0 ", script.display())), "{text}");
}

#[test]
fn a_create_that_is_killed_in_a_hook_leaves_a_container_to_delete() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let shared = Shared::new(&host, &mut bundle);
    for kind in CREATING {
        let mark = host.temp.join(kind);
        let script = format!("touch {}; exec sleep 100", mark.display());
        let trace = shared.hook("poststop", "kelson-hook-trace", &["FILE", kind]);
        bundle.config["hooks"] = json!({"poststop": [trace]});
        bundle.config["hooks"][kind] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        let call = bundle.making("create", &[]).spawn();
        wait_until("the hook runs", || mark.exists());
        let pid = bundle.pid();
        call.signal(nix::sys::signal::Signal::SIGKILL);
        call.wait();
        wait_until("init ends with the runtime", || !is_alive(pid));
        bundle.delete_by_force();
        host.end_of_sleepers();
        assert_eq!(shared.names().last().map(String::as_str), Some(kind), "poststop hooks run");
    }
}

#[test]
fn hooks_hold_no_signals_back_and_begin_in_the_bundle() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let log = host.temp.join("log");
    let script = format!("pwd >> {0}; grep -h ^SigBlk /proc/self/status >> {0}", log.display());
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        bundle.config["hooks"][kind] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    }
    let expected = format!("{}\nSigBlk:\t0000000000000000\n", bundle.path.display()).repeat(5);
    bundle.args(&["/bin/true"]).run().ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), expected);
    fs::remove_file(&log).unwrap();
    bundle.create().ok();
    bundle.start().ok();
    host.reap_container(&bundle);
    bundle.delete(false).ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), expected);
}

#[test]
fn what_a_hook_says_does_not_reach_a_terminal_as_it_is() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let script = "printf '\\033]0;owned\\007\\r' >&2; exit 1";
    bundle.config["hooks"]["startContainer"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    for log in [&[][..], &["--log".into(), host.temp.join("log").display().to_string()]] {
        bundle.global_flags = log.to_vec();
        let output = bundle.run().fails_with("owned");
        assert!(!output.stderr.trim().contains(char::is_control), "{output:?}");
    }
}

#[test]
fn a_hook_runs_where_the_bundle_cannot_be_entered() {
    let host = Host::new();
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    let elsewhere = host.temp.join("elsewhere");
    fs::rename(&bundle.rootfs, &elsewhere).unwrap();
    bundle.config["root"]["path"] = json!(elsewhere);
    bundle.config["hooks"]["createContainer"] = json!([{"path": "/bin/true"}]);
    fs::set_permissions(&bundle.path, fs::Permissions::from_mode(0o700)).unwrap();
    bundle.run().ok();
    fs::rename(&elsewhere, &bundle.rootfs).unwrap();
}
