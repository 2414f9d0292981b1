//! `update`: new limits for a running container; what is asked for and nothing else, and all of it or none.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::harness::{Bundle, Host, View, hierarchies, skip, wait_until};
use crate::support::give;

/// No limit, as v1 shows it.
const UNLIMITED: &str = "9223372036854771712";

/// Files with limits; which of them are there depends on the machine.
const LIMITS: &[&str] = &[
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.swappiness",
    "memory.kmem.tcp.limit_in_bytes",
    "cpu.shares",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpu.cfs_burst_us",
    "cpu.rt_period_us",
    "cpu.rt_runtime_us",
    "cpu.idle",
    "cpuset.cpus",
    "cpuset.mems",
    "pids.max",
    "blkio.bfq.weight",
    "blkio.throttle.read_bps_device",
    "devices.list",
    "memory.max",
    "memory.low",
    "memory.high",
    "memory.swap.max",
    "cpu.weight",
    "cpu.max",
    "cpu.max.burst",
    "io.max",
    "io.weight",
    "io.bfq.weight",
    "hugetlb.2MB.max",
    "hugetlb.2MB.rsvd.max",
    "hugetlb.1GB.max",
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "freezer.state",
    "cgroup.freeze",
];

/// All limits of a container, by hierarchy and file.
fn limits(bundle: &Bundle) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for directory in hierarchies().iter().map(|hierarchy| hierarchy.join(&bundle.id)) {
        for file in LIMITS {
            if let Ok(text) = fs::read_to_string(directory.join(file)) {
                found.insert((*file).to_owned(), text.trim().to_owned());
            }
        }
    }
    found
}

/// What of the limits differs, as it is later.
fn changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    after.iter().filter(|(file, text)| before.get(*file) != Some(text)).map(|(a, b)| (a.clone(), b.clone())).collect()
}

/// A running container with some limits on v1, and none on v2 but those that every machine has.
fn running(host: &Host) -> Bundle<'_> {
    let mut bundle = host.bundle();
    if !View::current().is_v2() {
        let resources = &mut bundle.config["linux"]["resources"];
        resources["memory"] = json!({"limit": 67_108_864, "reservation": 33_554_432});
        resources["cpu"] = json!({"shares": 100, "quota": 500_000, "period": 1_000_000});
        resources["pids"] = json!({"limit": 20});
    }
    bundle.args(&["/bin/sleep", "100"]);
    bundle.up();
    bundle
}

/// Updates, and compares all limits with what they were and what should be new.
#[track_caller]
fn changes_only(host: &Host, bundle: &Bundle, flags: &[&str], wanted: &[(&str, &str)]) {
    let before = limits(bundle);
    host.kelson([&["update", &bundle.id], flags].concat()).ok();
    let wanted: BTreeMap<_, _> = wanted.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let mut found = changes(&before, &limits(bundle));
    if found.get("cpu.idle").is_some_and(|idle| idle == "1") {
        // Each kernel shows another weight of an idle cgroup.
        found.retain(|file, _| !matches!(&**file, "cpu.shares" | "cpu.weight"));
    }
    assert_eq!(found, wanted, "{flags:?}");
}

#[test]
fn each_flag_changes_its_limit_and_no_other() {
    if View::current().is_v2() {
        return skip("the flags are those of controllers that only v1 has here; see `v2s_limits_change`");
    }
    let host = Host::new();
    let bundle = running(&host);
    for (flag, value, file, text) in [
        ("--memory", "50M", "memory.limit_in_bytes", "52428800"),
        ("--memory-swap", "100M", "memory.memsw.limit_in_bytes", "104857600"),
        ("--memory-reservation", "25165824", "memory.soft_limit_in_bytes", "25165824"),
        ("--kernel-memory-tcp", "1M", "memory.kmem.tcp.limit_in_bytes", "1048576"),
        ("--cpu-share", "200", "cpu.shares", "200"),
        ("--cpu-quota", "600000", "cpu.cfs_quota_us", "600000"),
        ("--cpu-period", "900000", "cpu.cfs_period_us", "900000"),
        ("--cpu-burst", "300000", "cpu.cfs_burst_us", "300000"),
        ("--cpu-burst", "0", "cpu.cfs_burst_us", "0"),
        ("--cpu-quota", "-1", "cpu.cfs_quota_us", "-1"),
        ("--cpu-rt-period", "900001", "cpu.rt_period_us", "900001"),
        ("--cpu-rt-runtime", "20000", "cpu.rt_runtime_us", "20000"),
        ("--cpuset-cpus", "0", "cpuset.cpus", "0"),
        ("--pids-limit", "10", "pids.max", "10"),
        ("--pids-limit", "-1", "pids.max", "max"),
        ("--pids-limit", "0", "pids.max", "1"),
        ("--blkio-weight", "200", "blkio.bfq.weight", "200"),
    ] {
        if flag.contains("-rt-") && !bundle.cgroup("cpu").join(file).exists() {
            continue;
        }
        changes_only(&host, &bundle, &[flag, value], &[(file, text)]);
    }
    changes_only(&host, &bundle, &["--cpu-idle", "1"], &[("cpu.idle", "1")]);
    changes_only(&host, &bundle, &["--cpu-idle", "0"], &[("cpu.idle", "0"), ("cpu.shares", "200")]);
    changes_only(&host, &bundle, &["--cpu-idle", "1"], &[("cpu.idle", "1")]);
    changes_only(
        &host,
        &bundle,
        &["--cpu-share", "300", "--cpu-idle", "0"],
        &[("cpu.idle", "0"), ("cpu.shares", "300")],
    );
    changes_only(&host, &bundle, &["--cpuset-mems", "0"], &[]);
    changes_only(&host, &bundle, &["--memory=0", "--cpu-period", "0", "--blkio-weight=0", "--cpuset-cpus", ""], &[]);
    bundle.delete_by_force();
}

#[test]
fn memory_and_swap_change_together_in_either_direction() {
    if View::current().is_v2() || !std::path::Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists() {
        return skip("the kernel does not account swap in a v1 hierarchy");
    }
    let host = Host::new();
    let bundle = running(&host);
    for (memory, swap, texts) in [
        ("30M", "50M", ("31457280", "52428800")),
        ("60M", "80M", ("62914560", "83886080")),
        ("-1", "-1", (UNLIMITED, UNLIMITED)),
    ] {
        let wanted = [("memory.limit_in_bytes", texts.0), ("memory.memsw.limit_in_bytes", texts.1)];
        changes_only(&host, &bundle, &["--memory", memory, "--memory-swap", swap], &wanted);
    }
    host.kelson(["update", "--memory", "30M", "--memory-swap", "50M", &bundle.id]).ok();
    // Without a limit on memory there is none on both.
    let wanted = [("memory.limit_in_bytes", UNLIMITED), ("memory.memsw.limit_in_bytes", UNLIMITED)];
    changes_only(&host, &bundle, &["--memory", "-1"], &wanted);
    bundle.delete_by_force();
}

#[test]
fn v2s_limits_change() {
    if !View::current().is_v2() {
        return;
    }
    let available = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let host = Host::new();
    let bundle = running(&host);
    let mut count = 0;
    for (controller, flags, wanted) in [
        ("memory", &["--memory", "50M"][..], &[("memory.max", "52428800")][..]),
        (
            "memory",
            &["--memory", "60M", "--memory-swap", "100M"],
            &[("memory.max", "62914560"), ("memory.swap.max", "41943040")],
        ),
        ("memory", &["--memory", "70M"], &[("memory.max", "73400320"), ("memory.swap.max", "31457280")]),
        ("memory", &["--memory-reservation", "25165824"], &[("memory.low", "25165824")]),
        ("memory", &["--memory", "-1"], &[("memory.max", "max"), ("memory.swap.max", "max")]),
        ("cpu", &["--cpu-quota", "30000"], &[("cpu.max", "30000 100000")]),
        ("cpu", &["--cpu-period", "50000"], &[("cpu.max", "30000 50000")]),
        ("cpu", &["--cpu-burst", "10000"], &[("cpu.max.burst", "10000")]),
        ("cpu", &["--cpu-burst", "0"], &[("cpu.max.burst", "0")]),
        ("cpu", &["--cpu-quota", "-1"], &[("cpu.max", "max 50000")]),
        ("cpu", &["--cpu-share", "2048"], &[("cpu.weight", "174")]),
        ("cpu", &["--cpu-idle", "1"], &[("cpu.idle", "1")]),
        ("cpu", &["--cpu-idle", "0", "--cpu-share", "1024"], &[("cpu.idle", "0"), ("cpu.weight", "100")]),
        ("cpuset", &["--cpuset-cpus", "0"], &[("cpuset.cpus", "0")]),
        ("pids", &["--pids-limit", "10"], &[("pids.max", "10")]),
        ("pids", &["--pids-limit", "0"], &[("pids.max", "1")]),
    ] {
        if !available.split_whitespace().any(|name| name == controller) {
            continue;
        }
        count += 1;
        if wanted.iter().all(|(file, _)| bundle.cgroup("").join(file).exists()) {
            changes_only(&host, &bundle, flags, wanted);
        }
    }
    if count == 0 {
        skip("cgroup v2 has none of these controllers here");
    }
    bundle.delete_by_force();
}

/// Updates by JSON on standard input.
fn update_by(host: &Host, bundle: &Bundle, json: &Value) -> crate::harness::Output {
    host.call(["update", "-r", "-", &bundle.id]).stdin(json.to_string()).run()
}

#[test]
fn a_file_and_standard_input_have_the_fields_of_config_json() {
    let host = Host::new();
    let bundle = running(&host);
    let (json, wanted) = if View::current().is_v2() {
        let json =
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}], "unified": {"cgroup.max.depth": "5"}});
        (json, vec![("hugetlb.2MB.max", "4194304"), ("hugetlb.2MB.rsvd.max", "4194304"), ("cgroup.max.depth", "5")])
    } else {
        let json =
            json!({"memory": {"limit": 33_554_432, "checkBeforeUpdate": true}, "pids": {"limit": 7}, "later": 1});
        (json, vec![("memory.limit_in_bytes", "33554432"), ("pids.max", "7")])
    };
    if View::current().is_v2() && !bundle.cgroup("").join("hugetlb.2MB.max").exists() {
        bundle.delete_by_force();
        return skip("there are no huge pages of 2 MB to limit");
    }
    let wanted: BTreeMap<_, _> = wanted.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    let before = limits(&bundle);
    // Other flags are ignored beside it, as runc does.
    host.call(["update", "--pids-limit", "3", "--resources=-", &bundle.id]).stdin(json.to_string()).run().ok();
    assert_eq!(changes(&before, &limits(&bundle)), wanted);
    let file = host.temp.join("resources.json");
    fs::write(&file, json.to_string()).unwrap();
    host.kelson(["update", "-r", file.to_str().unwrap(), &bundle.id]).ok();
    assert_eq!(changes(&before, &limits(&bundle)), wanted);
    for bad in ["", "[]", "{", "{\"pids\": {\"limit\": \"x\"}}"] {
        host.call(["update", "-r", "-", &bundle.id]).stdin(bad).run().fails_with("not a valid configuration");
    }
    host.kelson(["update", "-r", "/nowhere", &bundle.id]).fails_with("cannot open the new resources");
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(16 << 20));
    host.call(["update", "-r", "-", &bundle.id]).stdin(long).run().fails_with("longer than 16 MiB");
    let output = host.kelson(["update", "--cpu-share", "1", &bundle.id]).fails_with("--cpu-share: ");
    assert!(!output.stderr.contains("config.json"), "{output:?}");
    // The place is in what was given, not in config.json.
    let wrong = json!({"cpu": {"period": 1}, "memory": {"limit": "x"}}).to_string();
    host.call(["update", "-r", "-", &bundle.id]).stdin(wrong.clone()).run().fails_with("(- /memory/limit)");
    fs::write(&file, wrong).unwrap();
    let path = file.to_str().unwrap();
    host.kelson(["update", "-r", path, &bundle.id]).fails_with(&format!("({path} /memory/limit)"));
    fs::write(&file, json!({"unified": {"no.such": "1"}}).to_string()).unwrap();
    host.kelson(["update", "-r", path, &bundle.id]).fails_with(&format!("({path} /unified/no.such)"));
    assert_eq!(changes(&before, &limits(&bundle)), wanted);
    bundle.delete_by_force();
}

#[test]
fn an_update_that_fails_changes_nothing() {
    let host = Host::new();
    let bundle = running(&host);
    let (before, state) = (limits(&bundle), fs::read(bundle.state_path("state.json")).unwrap());
    let bad = if View::current().is_v2() {
        // Written in the order of the alphabet: the last is no file of any controller.
        vec![
            json!({"unified": {"cgroup.max.depth": "5", "cgroup.max.descendants": "7", "moon.max": "1"}}),
            json!({"unified": {"cgroup.max.depth": "5", "cgroup.max.descendants": "x"}}),
            json!({"unified": {"cgroup.max.depth": "5", "../x": "1"}}),
            json!({"memory": {"swappiness": 5}, "unified": {"cgroup.max.depth": "5"}}),
        ]
    } else {
        let throttle = json!([{"major": 4000, "minor": 1, "rate": 5}]);
        vec![
            json!({"memory": {"limit": 33_554_432, "swap": 67_108_864}, "cpu": {"shares": 7, "idle": 0, "cpus": "0"},
                "pids": {"limit": 3}, "blockIO": {"weight": 300, "throttleReadBpsDevice": throttle}}),
            json!({"memory": {"limit": 33_554_432}, "cpu": {"cpus": "4096"}}),
            // To be idle changes the weight, too.
            json!({"cpu": {"idle": 1, "burst": 1_000_000_000_000_u64}}),
            json!({"cpu": {"period": 50_000, "quota": 5}}),
            json!({"memory": {"limit": 4096}}),
            json!({"pids": {"limit": 3}, "unified": {"memory.high": "5"}}),
        ]
    };
    for json in bad {
        let output = update_by(&host, &bundle, &json);
        assert_eq!(output.code, 1, "{json}: {output:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
        assert_eq!(changes(&before, &limits(&bundle)), BTreeMap::new(), "{json}: {output:?}");
        assert_eq!(fs::read(bundle.state_path("state.json")).unwrap(), state);
    }
    assert_eq!(bundle.status(), "running");
    bundle.delete_by_force();
}

#[test]
fn what_was_set_is_in_the_state_and_survives_later_updates() {
    let host = Host::new();
    let bundle = running(&host);
    let resources = || {
        let state: Value = serde_json::from_slice(&fs::read(bundle.state_path("state.json")).unwrap()).unwrap();
        state["cgroup"]["resources"].clone()
    };
    assert_eq!(resources()["devices"], bundle.config["linux"]["resources"]["devices"]);
    let key = if View::current().is_v2() { "cgroup.max.depth" } else { "" };
    if key.is_empty() {
        host.kelson(["update", "--cpu-quota", "600000", &bundle.id]).ok();
        host.kelson(["update", "--pids-limit", "0", &bundle.id]).ok();
        let cpu = json!({"shares": 100, "quota": 600_000, "period": 1_000_000});
        assert_eq!((&resources()["cpu"], &resources()["pids"]), (&cpu, &json!({"limit": 0})));
    } else {
        update_by(&host, &bundle, &json!({"unified": {key: "5"}})).ok();
        update_by(&host, &bundle, &json!({"unified": {"cgroup.max.descendants": "9"}})).ok();
        assert_eq!(resources()["unified"], json!({key: "5", "cgroup.max.descendants": "9"}));
    }
    bundle.delete_by_force();
}

#[test]
fn a_created_and_a_frozen_container_can_be_updated_and_a_stopped_one_cannot() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/sleep", "100"]);
    bundle.create().ok();
    let json = if View::current().is_v2() {
        json!({"unified": {"cgroup.max.depth": "5"}})
    } else {
        json!({"pids": {"limit": 9}})
    };
    update_by(&host, &bundle, &json).ok();
    bundle.start().ok();
    let (file, frozen, thawed) = match View::current() {
        View::V2 => (bundle.cgroup("").join("cgroup.freeze"), "1", "0"),
        _ => (bundle.cgroup("freezer").join("freezer.state"), "FROZEN", "THAWED"),
    };
    fs::write(&file, frozen).unwrap();
    update_by(&host, &bundle, &json).ok();
    assert_eq!(bundle.status(), "paused");
    fs::write(&file, thawed).unwrap();
    bundle.kill("KILL").ok();
    host.reap_container(&bundle);
    update_by(&host, &bundle, &json).fails_with("container not running");
    bundle.delete_by_force();
    host.kelson(["update", "--pids-limit", "5", &bundle.id]).fails_with("does not exist");
}

#[test]
fn flags_that_are_no_values_are_named() {
    let host = Host::new();
    let bundle = running(&host);
    for (flag, value) in
        [("--memory", "5x"), ("--cpu-share", "-1"), ("--blkio-weight", "70000"), ("--pids-limit", "many")]
    {
        host.kelson(["update", flag, value, &bundle.id]).fails_with(&format!("{flag} cannot be"));
    }
    for flag in ["--l3-cache-schema", "--mem-bw-schema"] {
        host.kelson(["update", flag, "MB:0=50", &bundle.id]).fails_with("intelRdt");
    }
    bundle.delete_by_force();
}

#[test]
fn devices_are_replaced_and_what_stays_allowed_never_fails() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_MKNOD"));
    }
    // The one that is updated (TUN, or whatever has no driver here: then the open fails with another error than
    // EPERM), and one that is always allowed.
    let script = "/bin/probe mknod /dev/node c 10 200 >/dev/null; mkdir -p /tmp/x; while true; do
        /bin/probe open-write /dev/node; /bin/probe open-write /dev/full | sed s/^/full-/; done";
    let running = bundle.script(script).making("run", &[]).spawn();
    let says = |text: &str| {
        let length = running.stdout().len();
        wait_until(text, || {
            let lines = running.stdout()[length..].to_owned();
            let mut lines: Vec<_> = lines.lines().filter(|line| !line.starts_with("full")).map(str::to_owned).collect();
            // The first and last may be of before, or not whole.
            lines.pop();
            lines.iter().skip(2).any(|line| (line == "EPERM") == (text == "denied"))
        });
    };
    says("denied");
    let base = bundle.config["linux"]["resources"]["devices"].clone();
    let mut more = base.clone();
    more.as_array_mut().unwrap().push(json!({"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm"}));
    for _ in 0..3 {
        update_by(&host, &bundle, &json!({ "devices": more })).ok();
        says("allowed");
        // An update of something else leaves the devices alone.
        let other = if View::current().is_v2() {
            json!({"unified": {"cgroup.max.depth": "5"}})
        } else {
            json!({"pids": {"limit": 90}})
        };
        update_by(&host, &bundle, &other).ok();
        says("allowed");
        update_by(&host, &bundle, &json!({ "devices": base })).ok();
        says("denied");
    }
    update_by(&host, &bundle, &json!({"devices": [{"allow": true, "access": "rwm"}]})).ok();
    says("allowed");
    update_by(&host, &bundle, &json!({ "devices": base })).ok();
    says("denied");
    assert!(!running.stdout().contains("full-EPERM"), "a device that is always allowed was denied");
    bundle.kill("KILL").ok();
    running.wait();
}

#[test]
fn devices_that_others_have_allowed_stay_with_the_same_list() {
    if View::current().is_v2() {
        return;
    }
    let host = Host::new();
    let bundle = running(&host);
    let directory = bundle.cgroup("devices");
    fs::write(directory.join("devices.allow"), "c 10:229 rw").unwrap();
    let list = bundle.config["linux"]["resources"]["devices"].clone();
    update_by(&host, &bundle, &json!({"devices": list, "pids": {"limit": 9}})).ok();
    assert!(fs::read_to_string(directory.join("devices.list")).unwrap().contains("c 10:229 rw"));
    assert_eq!(limits(&bundle)["pids.max"], "9");
    bundle.delete_by_force();
}

#[test]
fn devices_stay_as_they_are_where_another_program_guards_them() {
    if !View::current().is_v2() {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    give(&mut bundle, &["CAP_MKNOD"]);
    bundle.args(&["/bin/sleep", "100"]).up();
    // As if there had been a program, and a tool had taken it away.
    let path = bundle.state_path("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let resources = &mut state["cgroup"]["resources"];
    resources["devices"] = json!([{"allow": false, "access": "rwm"}]);
    let before = resources["devices"].clone();
    fs::write(&path, state.to_string()).unwrap();
    assert_eq!(update_by(&host, &bundle, &json!({ "devices": before })).ok().stderr, "");
    let other = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "access": "r"}]);
    let output = update_by(&host, &bundle, &json!({ "devices": other })).ok();
    assert!(output.stderr.contains("not kelson's any more"), "{output:?}");
    let state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(state["cgroup"]["resources"]["devices"], before);
    let script = "/bin/probe mknod /dev/node c 11 237 >/dev/null && : < /dev/node";
    let opened = bundle.exec(&[], &["/bin/sh", "-c", script]).run().stderr;
    assert!(opened.contains("/dev/node") && !opened.contains("Operation not permitted"), "{opened}");
    bundle.delete_by_force();
}

#[test]
fn memory_in_use_is_checked_before_a_lower_limit() {
    if !View::current().is_v2() || !fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap().contains("memory")
    {
        return skip("only cgroup v2 kills what does not fit, and it lacks the memory controller here");
    }
    let host = Host::new();
    let bundle = running(&host);
    for (json, text) in [
        (json!({"limit": 1024, "checkBeforeUpdate": true}), "rejecting memory limit 1024"),
        (json!({"limit": 1024, "swap": 2048, "checkBeforeUpdate": true}), "rejecting memory+swap limit 2048"),
    ] {
        update_by(&host, &bundle, &json!({ "memory": json })).fails_with(text);
        assert_eq!(bundle.status(), "running");
    }
    bundle.delete_by_force();
}
