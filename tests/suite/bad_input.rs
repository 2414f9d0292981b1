//! Configurations and surroundings that are wrong: a clear error, exit code 1, and nothing left.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::harness::{Bundle, Host, Output};

/// Runs config.json as it is.
fn run_as_it_is(host: &Host, bundle: &Bundle, text: impl AsRef<[u8]>) -> Output {
    fs::write(bundle.path.join("config.json"), text).unwrap();
    host.kelson(["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id])
}

#[test]
fn what_is_no_json_is_refused() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.write_config();
    let whole = fs::read(bundle.path.join("config.json")).unwrap();
    let cases: [&[u8]; 9] =
        [b"", b"{", b"[]", b"null", b"nul", b"\xff\xfe{}", b"\xef\xbb\xbf{}", &whole[..whole.len() / 2], b"{}{}"];
    for text in cases {
        run_as_it_is(&host, &bundle, text).fails_with("");
        assert!(!host.root.exists(), "{:?}", String::from_utf8_lossy(text));
    }
    run_as_it_is(&host, &bundle, [whole.as_slice(), b" x"].concat()).fails_with("not a valid configuration");
    run_as_it_is(&host, &bundle, [b" \n\t".as_slice(), &whole, b"\n\n"].concat()).ok();
}

/// Sets the value at a JSON pointer, whose parent has to be there; null removes it.
fn set(config: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = config.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer} has no parent"));
    match (parent, value) {
        (Value::Object(map), Value::Null) => drop(map.remove(name)),
        (Value::Object(map), value) => drop(map.insert(name.to_owned(), value)),
        (Value::Array(list), value) => list[name.parse::<usize>().unwrap()] = value,
        _ => panic!("{pointer} is in no container"),
    }
}

#[test]
fn wrong_types_are_named_by_their_place() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let good = bundle.config.clone();
    for (place, value) in [
        ("/ociVersion", json!(1)),
        ("/process", json!([])),
        ("/process/args", json!("sh")),
        ("/process/args/0", json!(7)),
        ("/process/env", json!({"A": "b"})),
        ("/process/cwd", json!(false)),
        ("/process/terminal", json!("yes")),
        ("/process/user/uid", json!("root")),
        ("/process/user/uid", json!(-1)),
        ("/process/user/gid", json!(4_294_967_296_u64)),
        ("/process/user/additionalGids", json!(["wheel"])),
        ("/process/user", json!([7, 8])),
        ("/process/capabilities", json!([[]])),
        ("/root", json!(["rootfs", true])),
        ("/hooks", json!([])),
        ("/hooks", json!({"prestart": [["/bin/true"]]})),
        ("/linux/resources", json!([null])),
        ("/process/rlimits/0/soft", json!(-1)),
        ("/process/noNewPrivileges", json!(1)),
        ("/root", json!("rootfs")),
        ("/root/path", json!(1)),
        ("/mounts", json!({})),
        ("/mounts/0", json!("/proc")),
        ("/mounts/1/options", json!("ro")),
        ("/mounts/1/destination", json!(3)),
        ("/hostname", json!(["a"])),
        ("/annotations", json!({"a": 1})),
        ("/hooks", json!({"prestart": [{"args": ["a"]}]})),
        ("/linux/namespaces/0/type", json!("moon")),
        ("/linux/resources/devices/0/allow", json!("no")),
        ("/linux/maskedPaths", json!("/proc")),
        ("/linux/resources/memory", json!({"limit": "1G"})),
        ("/linux/resources/pids", json!({"limit": 1.5})),
        ("/linux/cgroupsPath", json!(1)),
        ("/linux/uidMappings", json!([{"containerID": 0}])),
    ] {
        bundle.config = good.clone();
        set(&mut bundle.config, place, value.clone());
        let output = bundle.run();
        assert_eq!(output.code, 1, "{place} {value} {output:?}");
        assert!(output.stderr.contains(place), "{place} = {value} is not named: {output:?}");
        assert!(!host.root.exists(), "{place}");
    }
}

#[test]
fn values_that_are_invalid_are_named_by_their_place() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let good = bundle.config.clone();
    for (place, value) in [
        ("/ociVersion", Value::Null),
        ("/ociVersion", json!("")),
        ("/ociVersion", json!("2.0.0")),
        ("/ociVersion", json!("one")),
        ("/process/args", json!([])),
        ("/process/args", Value::Null),
        ("/process/cwd", json!("relative")),
        ("/process/cwd", json!("")),
        ("/process/cwd", Value::Null),
        ("/process/args/0", json!("a\0b")),
        ("/process/env/0", json!("A=\0")),
        ("/process/rlimits/0/type", json!("RLIMIT_MOON")),
        ("/process/user/umask", json!(0o10000_u32)),
        ("/root", Value::Null),
        ("/root/path", json!("")),
        ("/root/path", json!("nowhere")),
        ("/root/path", json!("config.json")),
        ("/mounts/0/destination", json!("")),
        ("/mounts/0/destination", json!("/a\0b")),
        ("/mounts/2/type", json!("moonfs")),
        ("/hostname", json!("x".repeat(65))),
        ("/hostname", json!("a\0b")),
        ("/domainname", json!("x".repeat(65))),
        ("/annotations", json!({"": "x"})),
        ("/hooks", json!({"poststop": [{"path": "relative"}]})),
        ("/hooks", json!({"poststart": [{"path": "/bin/true", "timeout": 0}]})),
        ("/hooks", json!({"prestart": [{"path": "/bin/true", "timeout": -5}]})),
        ("/linux/maskedPaths", json!(["proc"])),
        ("/linux/readonlyPaths", json!([""])),
        ("/linux/rootfsPropagation", json!("sometimes")),
        ("/linux/sysctl", json!({"kernel.core_pattern": "|/x"})),
        ("/linux/cgroupsPath", json!("/../x")),
        ("/linux/cgroupsPath", json!("/")),
        ("/linux/namespaces/1/path", json!("/proc/self/ns/pid")),
        ("/linux/namespaces/1/path", json!("relative")),
        ("/linux/namespaces/1/path", json!("/nowhere")),
        ("/linux/namespaces/1/path", json!("/dev/null")),
        ("/linux/resources/hugepageLimits", json!([{"pageSize": "2MB/../x", "limit": 1}])),
        ("/linux/resources/devices/0/access", json!("rwx")),
        ("/linux/intelRdt", json!({"closID": "a/b"})),
        ("/linux/personality", json!({"domain": "MOON"})),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_MOON"})),
    ] {
        bundle.config = good.clone();
        set(&mut bundle.config, place, value.clone());
        let output = bundle.run();
        assert_eq!(output.code, 1, "{place} = {value}: {output:?}");
        // What the kernel finds out is named less exactly.
        let above = format!("(config.json {})", place.rsplit_once('/').unwrap().0);
        let is_named = output.stderr.contains(place) || output.stderr.contains(&above);
        assert!(is_named, "{place} = {value} is not named: {output:?}");
        assert!(!host.root.join(&bundle.id).exists(), "{place}");
        assert_eq!(host.differences(), Vec::<String>::new(), "{place}");
    }
}

#[test]
fn two_namespaces_of_one_type_are_refused() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "pid"}));
    bundle.run().fails_with("/linux/namespaces/6");
}

#[test]
fn properties_that_are_unknown_are_ignored() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for place in ["/moon", "/process/moon", "/root/moon", "/linux/moon", "/linux/resources/moon", "/mounts/0/moon"] {
        set(&mut bundle.config, place, json!({"a": [1, null]}));
    }
    bundle.config["windows"] = json!({"layerFolders": []});
    bundle.config["vm"] = json!({"kernel": {"path": "/x"}});
    bundle.run().ok();
}

#[test]
fn a_configuration_of_nulls_is_one_of_absent_things() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for place in ["/hooks", "/annotations", "/hostname", "/domainname", "/linux/sysctl", "/linux/devices"] {
        let (parent, name) = place.rsplit_once('/').unwrap();
        bundle.config.pointer_mut(parent).unwrap()[name] = Value::Null;
    }
    bundle.config["process"]["rlimits"] = Value::Null;
    bundle.config["process"]["env"] = Value::Null;
    bundle.config["linux"]["resources"] = json!({"devices": null, "memory": null, "cpu": {}, "unified": null});
    bundle.run().ok();
}

#[test]
fn json_bombs_are_bounded() {
    let host = Host::new();
    let bundle = host.bundle();
    let limited = ["/usr/bin/setpriv", "--", "/bin/sh", "-c", "ulimit -v 400000; exec \"$@\"", "sh"];
    let run = |text: &[u8]| {
        fs::write(bundle.path.join("config.json"), text).unwrap();
        host.call(["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]).before(limited).run()
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{{\"linux\":{{\"x\":{}1{}}}}}", open.repeat(100_000), close.repeat(100_000));
        run(deep.as_bytes()).fails_with("");
    }
    run(format!("{{\"a\":{}", "[".repeat(15 << 20)).as_bytes()).fails_with("not a valid configuration");
    run(format!("{{\"hostname\":\"{}\"}}", "x".repeat(15 << 20)).as_bytes()).fails_with("");
    run(format!("{{\"a\":\"{}\"}}", "x".repeat(17 << 20)).as_bytes()).fails_with("longer than 16 MiB");
    let file = fs::File::create(bundle.path.join("config.json")).unwrap();
    file.set_len(1 << 40).unwrap();
    host.kelson(["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]).fails_with("longer than 16 MiB");
    assert!(!host.root.exists());
}

#[test]
fn a_configuration_that_is_no_file_is_refused() {
    let host = Host::new();
    let bundle = host.bundle();
    let config = bundle.path.join("config.json");
    let run = || host.kelson(["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    run().fails_with("cannot open the bundle's configuration");
    fs::create_dir(&config).unwrap();
    run().fails_with("config.json");
    fs::remove_dir(&config).unwrap();
    symlink("/nowhere", &config).unwrap();
    run().fails_with("cannot open the bundle's configuration");
    fs::remove_file(&config).unwrap();
    symlink("/dev/zero", &config).unwrap();
    run().fails_with("config.json");
    fs::remove_file(&config).unwrap();
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
    run().fails_with("config.json");
    assert!(!host.root.exists());
}

#[test]
fn a_bundle_that_is_not_there_is_refused() {
    let host = Host::new();
    let bundle = host.bundle();
    for path in ["/nowhere", "/dev/null", "", "/proc/self/fd/9"] {
        host.kelson(["create", "--bundle", path, &bundle.id]).fails_with("");
    }
    assert!(!host.root.exists());
}

#[test]
fn a_rootfs_that_is_not_there_or_no_directory_is_refused() {
    let host = Host::new();
    let bundle = host.bundle();
    fs::remove_dir_all(&bundle.rootfs).unwrap();
    bundle.run().fails_with("/root/path");
    fs::write(&bundle.rootfs, "").unwrap();
    bundle.run().fails_with("/root/path");
    fs::remove_file(&bundle.rootfs).unwrap();
    symlink("/nowhere", &bundle.rootfs).unwrap();
    bundle.run().fails_with("/root/path");
    fs::remove_file(&bundle.rootfs).unwrap();
    fs::create_dir(&bundle.rootfs).unwrap();
    bundle.run().fails_with("");
    assert!(!host.root.join(&bundle.id).exists());
}

#[test]
fn a_rootfs_may_be_absolute_or_a_link() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let elsewhere = host.temp.join("elsewhere");
    fs::rename(&bundle.rootfs, &elsewhere).unwrap();
    bundle.config["root"]["path"] = json!(elsewhere);
    bundle.run().ok();
    symlink(&elsewhere, bundle.path.join("link")).unwrap();
    bundle.config["root"]["path"] = json!("link");
    bundle.run().ok();
}

#[test]
fn a_state_directory_that_cannot_be_made_is_an_error() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.write_config();
    fs::write(host.temp.join("file"), "").unwrap();
    let run =
        |root: &str| host.bare(["--root", root, "run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]).run();
    run("/proc/no/where").fails_with("cannot make the directory for the state");
    run("/sys/nowhere").fails_with("cannot make the directory for the state");
    run(host.temp.join("file").to_str().unwrap()).fails_with("cannot make the directory for the state");
}

#[test]
fn a_full_file_system_for_the_state_is_an_error_and_leaves_nothing() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.write_config();
    // In a mount namespace of its own: 4 pages, of which `pages` are used before.
    let run = |pages: u32| {
        let script = format!(
            "mkdir -p $0 && mount -t tmpfs -o size=16k,nr_inodes=64 none $0 && dd if=/dev/zero of=$0/full bs=4k count={pages} \
             2>/dev/null; \"$@\"; code=$?; ls $0 >&2; exit $code"
        );
        let root = host.temp.join("small");
        let words = ["/usr/bin/unshare", "-m", "--propagation", "private", "/bin/sh", "-c", &script];
        let call = host.bare(["--root", root.to_str().unwrap(), "run", "--bundle"]);
        let call = call.with([bundle.path.to_str().unwrap(), &bundle.id]);
        call.before([root.to_str().unwrap()]).before(words).run()
    };
    assert!(run(0).code == 0);
    for pages in [3, 4] {
        let output = run(pages);
        if output.code != 0 {
            assert!(output.stderr.contains("ENOSPC"), "{output:?}");
        }
        assert_eq!(output.stderr.lines().last(), Some("full"), "{output:?}");
    }
    assert_ne!(run(4).code, 0);
}

#[test]
fn a_closed_standard_stream_is_no_other_file() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/probe", "fds"]);
    for closed in ["<&-", "2>&-", "<&- 2>&-"] {
        let script = format!("exec \"$@\" {closed}");
        let fds = bundle.making("run", &[]).before(["/bin/sh", "-c", &script, "sh"]).run().ok().json();
        let fds = fds["fds"].as_object().unwrap();
        assert!(fds.len() <= 3, "{closed}: {fds:?}");
        let others =
            fds.iter().filter(|(number, _)| number.as_str() != "1").map(|(_, target)| target.as_str().unwrap());
        assert!(others.clone().all(|target| target == "/dev/null" || target.contains("call-")), "{closed}: {fds:?}");
    }
}
