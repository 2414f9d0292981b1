//! The command line as engines and people write it: forms, exit codes, texts. (ENGINES: what each engine sends.)

use std::fs;

use serde_json::json;

use crate::harness::{Bundle, Host};

const VERBS: [&str; 9] = ["create", "delete", "features", "kill", "list", "run", "spec", "start", "state"];

/// Words separated by blanks; ROOT, BUNDLE, ID, TEMP stand for the test's.
fn words(host: &Host, bundle: &Bundle, line: &str) -> Vec<String> {
    let replace = |word: &str| {
        word.replace("ROOT", host.root.to_str().unwrap())
            .replace("BUNDLE", bundle.path.to_str().unwrap())
            .replace("TEMP", host.temp.to_str().unwrap())
            .replace("ID", &bundle.id)
    };
    line.split_whitespace().map(replace).collect()
}

#[test]
fn containers_are_made_by_every_form_that_engines_write() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]).write_config();
    for line in [
        // conmon, for podman and CRI-O
        "--root=ROOT create --bundle BUNDLE --pid-file TEMP/pid ID",
        "--root ROOT --log-format=json --log TEMP/log create --bundle BUNDLE --pid-file TEMP/pid --no-new-keyring ID",
        "--root ROOT --cgroup-manager cgroupfs create --bundle BUNDLE --pid-file TEMP/pid --no-pivot ID",
        // containerd's shim, docker
        "--root ROOT --log TEMP/log --log-format json create --bundle BUNDLE --pid-file TEMP/pid ID",
        "--root ROOT --debug --log TEMP/log --log-format json --rootless=false create --bundle BUNDLE ID",
        "--root ROOT --systemd-cgroup=false create --bundle BUNDLE --preserve-fds 0 ID",
        "--root ROOT run --bundle BUNDLE --detach --preserve-fds 0 --no-subreaper ID",
        // conmon-rs: everything twice
        "--root=ROOT --log-level=debug --root=ROOT --log-level=error create --bundle BUNDLE --pid-file=TEMP/pid ID",
        // Go's flags: one dash, and a switch with a value
        "-root ROOT create -bundle BUNDLE -no-pivot -no-new-keyring=true ID",
        "-root=ROOT -debug=false create -bundle=BUNDLE -pid-file=TEMP/pid ID",
        // flags after the id, and global flags after the verb
        "create ID --bundle BUNDLE --root ROOT",
        "create --root ROOT ID -b BUNDLE --log-format json --log TEMP/log",
        "create --root ROOT --bundle BUNDLE -- ID",
        "run -d --root ROOT -b BUNDLE ID",
        "create --root /nowhere --root ROOT --bundle /nowhere --bundle BUNDLE ID",
    ] {
        let output = host.bare(words(&host, &bundle, line)).run();
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{line}");
        assert!(matches!(bundle.status().as_str(), "created" | "running"), "{line}");
        bundle.delete_by_force();
    }
}

#[test]
fn the_bundle_is_the_callers_directory_if_not_named() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.write_config();
    host.call(["create", &bundle.id]).directory(&bundle.path).run().ok();
    assert_eq!(bundle.state()["bundle"], bundle.path.to_str().unwrap());
    bundle.delete_by_force();
    host.call(["create", "--bundle", bundle.path.file_name().unwrap().to_str().unwrap(), &bundle.id]).run().ok();
    assert_eq!(bundle.state()["bundle"], bundle.path.to_str().unwrap());
    bundle.delete_by_force();
}

#[test]
fn verbs_on_a_container_by_every_form_that_engines_write() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    let run = |line: &str| host.bare(words(&host, &bundle, line)).run().ok();
    bundle.create().ok();
    run("--root=ROOT --root=ROOT --systemd-cgroup=false start ID");
    for line in ["--root ROOT state ID", "state ID --root=ROOT", "--rootless=true --root ROOT --debug state ID"] {
        assert_eq!(run(line).json()["status"], "running", "{line}");
    }
    bundle.delete_by_force();
}

#[test]
fn kills_and_deletes_by_every_form_that_engines_write() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    for (kill, delete) in [
        ("kill ID 9", "delete ID"),
        ("kill --all ID 9", "delete --force ID"),
        ("kill -a ID 9", "delete -f ID"),
        ("kill ID SIGKILL", "-force=true delete ID --force"),
        ("kill ID KILL --all=false", "delete -force ID"),
        ("kill -all ID KILL", "delete ID --force --log TEMP/log"),
    ] {
        bundle.up();
        host.call(words(&host, &bundle, kill)).run().ok();
        assert_eq!(host.reap_container(&bundle), -9, "{kill}");
        host.call(words(&host, &bundle, delete)).run().ok();
        assert!(!host.root.join(&bundle.id).exists(), "{delete}");
    }
}

#[test]
fn the_version_has_the_lines_that_engines_read() {
    let host = Host::new();
    for line in [
        &["--version"][..],
        &["-v"],
        &["--root", "/proc/no", "--version"],
        &["--version", "--debug"],
        &["--version", "list"],
        &["-v", "fly"],
    ] {
        let output = host.bare(line).env("XDG_RUNTIME_DIR", "/proc/no").run().ok();
        let lines: Vec<_> = output.stdout.lines().collect();
        assert!(lines[0].starts_with("kelson version "), "{output:?}");
        assert!(lines[1].starts_with("commit: ") && lines[2] == "spec: 1.3.0", "{output:?}");
        assert_eq!(output.stderr, "");
    }
}

#[test]
fn help_is_on_standard_output_and_no_error() {
    let host = Host::new();
    for line in [&[][..], &["--help"], &["-h"], &["help"], &["-help"]] {
        let output = host.bare(line).run().ok();
        assert!(VERBS.iter().all(|verb| output.stdout.contains(verb)), "{line:?} {output:?}");
        assert_eq!(output.stderr, "", "{line:?}");
    }
    for verb in VERBS {
        for line in [[verb, "--help"], [verb, "-h"], [verb, "-help"], ["help", verb]] {
            let output = host.bare(line).run().ok();
            assert!(output.stdout.contains(&format!("Usage: kelson {verb}")), "{output:?}");
            assert_eq!(output.stderr, "");
        }
    }
}

#[test]
fn an_unknown_verb_is_exit_code_3() {
    let host = Host::new();
    for line in [["fly", "x"], ["Create", "x"], ["creat", "x"], ["--", "x"], ["create ", "x"], ["help", "fly"]] {
        let output = host.bare(line).run();
        assert_eq!((output.code, output.stdout.as_str()), (3, ""), "{line:?} {output:?}");
        assert!(output.stderr.contains("No help topic for"), "{output:?}");
    }
}

#[test]
fn an_unknown_flag_shows_the_help_and_the_error() {
    let host = Host::new();
    for line in [
        &["state", "--moon", "x"][..],
        &["--moon", "state", "x"],
        &["create", "-x", "y"],
        &["list", "--all"],
        &["--moon"],
        &["--root"],
        &["--moon", "fly"],
        &["--version", "--moon"],
    ] {
        let output = host.bare(line).run();
        assert_eq!(output.code, 1, "{line:?}");
        assert!(output.stdout.contains("Usage: kelson"), "{line:?} {output:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{line:?} {output:?}");
    }
}

#[test]
fn a_line_that_cannot_be_read_is_told_to_the_log_that_it_names() {
    let host = Host::new();
    let log = host.temp.join("log");
    for (line, code, text) in [
        ("--log LOG --log-format json state --moon x", 1, "unexpected argument '--moon'"),
        ("--moon --log-format=json --log=LOG state x", 1, "unexpected argument '--moon'"),
        ("state -log LOG -log-format json", 1, "\"state\" requires <ID>"),
        ("--log LOG --log-format json restore --lsm-mount-context", 1, "flag needs an argument: --lsm-mount-context"),
        ("--log LOG --log-format json fly", 3, "No help topic for 'fly'"),
        ("--log LOG --log-format json list --quiet=yes", 1, "true or false"),
        ("--log LOG --log-format json --moon", 1, "unexpected argument '--moon'"),
    ] {
        let line = line.replace("LOG", log.to_str().unwrap());
        let output = host.bare(line.split(' ')).run();
        assert_eq!(output.code, code, "{line} {output:?}");
        assert!(output.stderr.contains(text), "{line} {output:?}");
        let entry: serde_json::Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
        assert_eq!(entry["level"], "error", "{line}");
        assert!(entry["msg"].as_str().unwrap().contains(text), "{line} {entry}");
        fs::remove_file(&log).unwrap();
    }
    let output = host.bare(["--log", "/nowhere/log", "state"]).run();
    assert!(output.stderr.contains("requires <ID>"), "{output:?}");
}

#[test]
fn switches_have_the_values_of_go_and_the_last_one_counts() {
    let host = Host::new();
    fs::create_dir(&host.root).unwrap();
    for (line, is_quiet) in [
        ("list -q", true),
        ("list -q=true", true),
        ("list --quiet=T", true),
        ("list -quiet=1", true),
        ("list -q=false", false),
        ("list --quiet --quiet=false", false),
        ("list -q=F -q", true),
        ("--systemd-cgroup --systemd-cgroup=false --debug=FALSE --rootless=t list -q", true),
        ("--rootless= list -q", true),
        ("--criu /x list -q", true),
    ] {
        let output = host.kelson(line.split(' ')).ok();
        assert_eq!(output.stdout.is_empty(), is_quiet, "{line} {output:?}");
    }
    for line in ["list -q=yes", "list --quiet=", "--debug=on list", "--rootless=on list"] {
        assert_eq!(host.kelson(line.split(' ')).code, 1, "{line}");
    }
    let mut bundle = host.bundle();
    // It waits for the end, and does without systemd.
    bundle.script("exit 7");
    let call = bundle.making("run", &["--detach", "--detach=false", "--systemd-cgroup", "--systemd-cgroup=false"]);
    assert_eq!(call.run().code, 7);
    fs::remove_dir(&host.root).unwrap();
}

#[test]
fn an_empty_value_is_none_and_a_missing_one_an_error() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.script("exec /bin/sleep 100").write_config();
    let flags = ["--pid-file", "", "--console-socket", "", "--pidfd-socket", "", "--bundle", ""];
    let line = ["--log", "", "--root", "/nowhere", "--root", host.root.to_str().unwrap(), "create"];
    host.bare(line.iter().chain(&flags)).with([&bundle.id]).directory(&bundle.path).run().ok();
    host.kelson(["start", &bundle.id]).ok();
    let exec = |flags: &[&str]| host.kelson([&["exec"], flags, &[&bundle.id, "pwd"]].concat());
    let flags = ["--pid-file", "", "--console-socket=", "--pidfd-socket", "", "--process", "", "--cwd", ""];
    assert_eq!(exec(&flags).ok().stdout, "/\n");
    let pid = bundle.pid();
    host.kelson(["kill", &bundle.id, ""]).ok();
    bundle.kill("KILL").ok();
    host.reap(pid);
    bundle.delete(false).ok();
    for line in ["--root", "--log", "create --bundle", "create --pid-file", "exec --cwd", "kill --root"] {
        host.bare(line.split(' ')).run().fails_with("flag needs an argument");
    }
}

#[test]
fn wrong_numbers_of_arguments_are_errors() {
    let host = Host::new();
    for line in [
        &["state"][..],
        &["state", "a", "b"],
        &["start"],
        &["create"],
        &["create", "a", "b"],
        &["run"],
        &["kill"],
        &["kill", "a", "9", "b"],
        &["delete"],
        &["delete", "--force"],
        &["create", "--bundle"],
        &["create", "--preserve-fds", "-1", "a"],
        &["create", "--preserve-fds", "x", "a"],
        &["list", "--format"],
    ] {
        let output = host.call(line).run();
        assert_eq!(output.code, 1, "{line:?} {output:?}");
        assert!(!output.stderr.is_empty(), "{line:?}");
    }
    assert!(!host.root.exists());
}

#[test]
fn invalid_ids_make_nothing() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.write_config();
    let long = "x".repeat(5000);
    let before = fs::read_dir(&host.temp).unwrap().count();
    for id in ["", ".", "..", "a/b", "../x", "../../x", "/x", "a\n", "a b", "é", "a\u{1}", long.as_str()] {
        for verb in ["create", "run"] {
            host.kelson([verb, "--bundle", bundle.path.to_str().unwrap(), "--", id]).fails_with("invalid container ID");
        }
        for verb in ["state", "start", "delete", "kill"] {
            host.kelson([verb, "--", id]).fails_with("invalid container ID");
        }
        host.kelson(["delete", "--force", "--", id]).fails_with("invalid container ID");
    }
    assert!(!host.root.exists());
    let made = fs::read_dir(&host.temp).unwrap().map(|entry| entry.unwrap().file_name());
    let made: Vec<_> = made.filter(|name| !name.to_string_lossy().starts_with("call-")).collect();
    assert!(made.len() <= before, "{made:?}");
}

#[test]
fn the_root_of_the_file_system_is_refused_for_the_state() {
    let host = Host::new();
    for root in ["/", "//", "/.", "/../"] {
        host.bare(["--root", root, "list"]).run().fails_with("cannot hold the state");
        host.bare(["--root", root, "state", "tmp"]).run().fails_with("cannot hold the state");
    }
}

#[test]
fn unknown_values_of_global_flags_are_errors() {
    let host = Host::new();
    for (flag, value) in
        [("--log-format", "xml"), ("--log-level", "loud"), ("--rootless", "maybe"), ("--cgroup-manager", "me")]
    {
        let bundle = host.bundle();
        let output = host.call([flag, value, "create", "--bundle", bundle.path.to_str().unwrap(), "x"]).run();
        assert_eq!(output.code, 1, "{flag} {output:?}");
    }
    assert!(!host.root.exists());
}

#[test]
fn the_list_is_a_table_json_or_ids() {
    let host = Host::new();
    host.kelson(["list"]).fails_with("ENOENT");
    assert!(!host.root.exists(), "looking for containers makes no directory");
    fs::create_dir(&host.root).unwrap();
    let empty = host.kelson(["list"]).ok().stdout;
    assert_eq!(empty.split_whitespace().collect::<Vec<_>>(), ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert_eq!(host.kelson(["list", "--format", "json"]).ok().stdout, "null\n");
    assert_eq!(host.kelson(["list", "-q"]).ok().stdout, "");
    let bundles = [host.bundle(), host.bundle()];
    bundles.iter().for_each(|bundle| drop(bundle.create().ok()));
    let table = host.kelson(["list"]).ok().stdout;
    assert_eq!(table.lines().count(), 3);
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    let state = bundles[0].state();
    let pid = bundles[0].pid().to_string();
    let (bundle, created) = (bundles[0].path.to_str().unwrap(), state["created"].as_str().unwrap());
    assert_eq!(row, [&bundles[0].id, pid.as_str(), "created", bundle, created, "root"]);
    for line in [["list", "--format=json"], ["list", "-format=json"], ["list", "-fjson"]] {
        let listed = host.kelson(line).ok().json();
        assert_eq!(listed[1]["id"], bundles[1].id.as_str(), "{line:?}");
        assert_eq!(listed[1]["status"], "created");
        assert_eq!(listed[1]["owner"], "root");
    }
    let ids = bundles.iter().map(|bundle| format!("{}\n", bundle.id)).collect::<String>();
    assert_eq!(host.kelson(["list", "--quiet"]).ok().stdout, ids);
    host.kelson(["list", "--format", "xml"]).fails_with("unknown format");
    bundles.iter().for_each(Bundle::delete_by_force);
}

#[test]
fn a_broken_container_does_not_hide_the_others_from_the_list() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.create().ok();
    for (name, text) in [("a-broken", "{"), ("b-newer", r#"{"version":99}"#), ("c-empty", ""), ("c-none", "{}")] {
        fs::create_dir(host.root.join(name)).unwrap();
        fs::write(host.root.join(name).join("state.json"), text).unwrap();
    }
    fs::write(host.root.join("d-file"), "").unwrap();
    let output = host.kelson(["list", "-q"]).ok();
    assert_eq!(output.stdout, format!("{}\n", bundle.id));
    assert!(output.stderr.contains("a-broken") && output.stderr.contains("newer kelson"), "{output:?}");
    assert!(!output.stderr.contains("d-file"), "{output:?}");
    for id in ["a-broken", "c-empty", "c-none"] {
        host.kelson(["state", id]).fails_with("then remove its directory");
        host.kelson(["delete", "--force", id]).fails_with("then remove its directory");
    }
    host.kelson(["state", "b-newer"]).fails_with("newer kelson");
    bundle.delete_by_force();
    fs::remove_dir_all(&host.root).unwrap();
}

#[test]
fn a_container_that_is_just_being_made_is_no_matter_of_the_list() {
    let host = Host::new();
    let directory = host.root.join("early");
    fs::create_dir_all(&directory).unwrap();
    let lock = host.command(["flock", directory.to_str().unwrap(), "sleep", "100"]).spawn();
    let is_locked = || host.command(["flock", "--nonblock", directory.to_str().unwrap(), "true"]).run().code != 0;
    crate::harness::wait_until("it is locked", is_locked);
    let output = host.kelson(["list", "-q"]).ok();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    drop(lock);
    host.end_of_sleepers();
    crate::harness::wait_until("it is not locked", || !is_locked());
    assert!(host.kelson(["list", "-q"]).ok().stderr.contains("early is left out"));
    host.kelson(["delete", "--force", "early"]).ok();
}

#[test]
fn spec_takes_the_flags_of_every_verb() {
    let host = Host::new();
    let log = host.temp.join("log");
    fs::create_dir(host.temp.join("b")).unwrap();
    let flags = ["--root", "/r", "--systemd-cgroup", "--debug", "--log", log.to_str().unwrap(), "--log-format", "json"];
    let spec = |words: &[&str]| host.bare(flags.iter().chain(&["spec", "-b", "b"]).chain(words)).run();
    spec(&["--rootless"]).ok();
    let text = fs::read_to_string(host.temp.join("b/config.json")).unwrap();
    assert!(text.contains("uidMappings"), "{text}");
    spec(&[]).fails_with("exists already");
    let line: serde_json::Value = serde_json::from_str(&fs::read_to_string(log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    host.bare(["--log-level", "loud", "spec"]).run().fails_with("unknown log level");
}

#[test]
fn the_state_has_the_fields_of_the_specification() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.create().ok();
    let output = host.kelson(["state", &bundle.id]).ok();
    assert_eq!(output.stderr, "");
    let state = output.json();
    let keys: Vec<_> = state.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["bundle", "created", "id", "ociVersion", "owner", "pid", "rootfs", "status"]);
    let created = state["created"].as_str().unwrap();
    assert!(created.len() == "2026-01-01T00:00:00.000000000Z".len() && created.ends_with('Z'), "{created}");
    bundle.delete_by_force();
}

#[test]
fn spec_writes_a_configuration_once() {
    let host = Host::new();
    let directory = host.temp.join("new");
    fs::create_dir(&directory).unwrap();
    let path = directory.to_str().unwrap();
    host.kelson(["spec", "--bundle", path]).ok();
    let text = fs::read(directory.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(config["process"]["args"], json!(["sh"]));
    assert_eq!((&config["process"]["terminal"], &config["root"]["readonly"]), (&json!(true), &json!(true)));
    assert_eq!(config["ociVersion"], "1.3.0");
    host.kelson(["spec", "-b", path]).fails_with("exists already");
    assert_eq!(fs::read(directory.join("config.json")).unwrap(), text, "an existing file is not touched");
    host.bare(["spec"]).directory("/proc").run().fails_with("cannot make the configuration");
    host.kelson(["spec", "--bundle", "/nowhere"]).fails_with("cannot");
}

#[test]
fn spec_for_users_without_privileges() {
    let host = Host::new();
    host.bare(["spec", "--rootless"]).run().ok();
    let config: serde_json::Value = serde_json::from_slice(&fs::read(host.temp.join("config.json")).unwrap()).unwrap();
    let types: Vec<_> = config["linux"]["namespaces"].as_array().unwrap().iter().map(|it| &it["type"]).collect();
    assert!(types.contains(&&json!("user")) && !types.contains(&&json!("network")), "{types:?}");
    assert_eq!(config["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": 0, "size": 1}]));
    assert!(config["linux"].get("resources").is_none());
    assert!(!config.to_string().contains("gid=5"));
    assert!(config["mounts"].as_array().unwrap().iter().all(|mount| mount.get("options") != Some(&json!(null))));
}

#[test]
fn features_are_json_alone_and_follow_the_schema() {
    let host = Host::new();
    let output = host.bare(["features"]).run().ok();
    assert_eq!(output.stderr, "", "CRI-O reads both streams as one JSON text");
    let features = output.json();
    assert_eq!((&features["ociVersionMin"], &features["ociVersionMax"]), (&json!("1.0.0"), &json!("1.3.0")));
    let hooks = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    assert_eq!(features["hooks"], json!(hooks));
    assert_eq!(features["annotations"]["org.opencontainers.runc.checkpoint.enabled"], "true");
    let has = |list: &serde_json::Value, name: &str| list.as_array().unwrap().contains(&json!(name));
    for option in ["ro", "rro", "bind", "rbind", "idmap", "ridmap", "tmpcopyup", "nosymfollow"] {
        assert!(has(&features["mountOptions"], option), "{option}");
    }
    let linux = &features["linux"];
    for namespace in ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"] {
        assert!(has(&linux["namespaces"], namespace), "{namespace}");
    }
    assert!(has(&linux["capabilities"], "CAP_CHECKPOINT_RESTORE"));
    for path in ["/cgroup/v1", "/cgroup/v2", "/mountExtensions/idmap/enabled", "/intelRdt/enabled"] {
        assert_eq!(linux.pointer(path), Some(&json!(true)), "{path}");
    }
    for path in ["/cgroup/systemd", "/cgroup/systemdUser", "/cgroup/rdma", "/seccomp/enabled", "/apparmor/enabled"] {
        assert!(linux.pointer(path).unwrap().is_boolean(), "{path}");
    }
}

#[test]
fn preserved_descriptors_reach_the_program_and_no_others() {
    let host = Host::new();
    let mut bundle = host.bundle();
    fs::write(host.temp.join("file"), "text").unwrap();
    let script = format!("exec 3<{0} 4<{0} 5<{0}; exec \"$@\"", host.temp.join("file").display());
    let opened = ["/bin/sh", "-c", &script, "sh"];
    bundle.args(&["/bin/probe", "fds"]);
    for (count, last) in [("0", 2), ("1", 3), ("2", 4)] {
        let call = bundle.making("run", &["--preserve-fds", count]).before(opened);
        let fds = call.run().ok().json();
        let fds: Vec<_> = fds["fds"].as_object().unwrap().keys().cloned().collect();
        let expected: Vec<_> = (0..=last).map(|number| number.to_string()).collect();
        assert_eq!(fds, expected, "--preserve-fds {count}");
    }
    bundle.making("run", &["--preserve-fds", "1"]).run().fails_with("is not open");
    bundle.args(&["/bin/probe", "echo-fd", "3"]);
    let call = bundle.making("run", &["--preserve-fds", "1"]).before(opened);
    assert_eq!(call.run().ok().stdout, "text");
}

#[test]
fn sockets_of_socket_activation_reach_the_program() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/probe", "env", "fds"]);
    fs::write(host.temp.join("file"), "text").unwrap();
    let script = format!("exec 3<{}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"", host.temp.join("file").display());
    let seen = bundle.making("run", &[]).before(["/bin/sh", "-c", &script, "sh"]).run().ok().json();
    let env = seen["env"].to_string();
    assert!(env.contains("LISTEN_FDS=1") && env.contains("LISTEN_PID=1"), "{env}");
    assert!(seen["fds"].get("3").is_some());
    let closed = script.replace("LISTEN_FDS=1", "LISTEN_FDS=9");
    bundle.making("run", &[]).before(["/bin/sh", "-c", &closed, "sh"]).run().fails_with("LISTEN_FDS");
    // Meant for another process.
    let script = script.replace("LISTEN_PID=$$", "LISTEN_PID=1");
    let seen = bundle.making("run", &[]).before(["/bin/sh", "-c", &script, "sh"]).run().ok().json();
    assert!(!seen["env"].to_string().contains("LISTEN_") && seen["fds"].get("3").is_none(), "{seen}");
}
