//! Limits: written before the process exists, to the right files, or refused.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Bundle, Host, View, skip};
use crate::support::{give, namespace};

/// A file of the container's cgroup.
#[track_caller]
pub fn read(bundle: &Bundle, controller: &str, file: &str) -> String {
    let path = bundle.cgroup(controller).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

/// Whether limits of `controller` can be set here; if not, says so.
pub fn has(controller: &str) -> bool {
    let v2 = || fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let found = match View::current() {
        View::V2 => v2().split_whitespace().any(|name| name == controller),
        _ => std::path::Path::new("/sys/fs/cgroup").join(controller).join("cgroup.procs").exists(),
    };
    if !found {
        skip(&format!("this view of the cgroups has no controller `{controller}`"));
    }
    found
}

/// Creates a container with `resources` beside the default devices, compares files of its cgroup with what they
/// should hold, and deletes it: (controller, v1's file, value, v2's file, value).
#[track_caller]
fn written(resources: &Value, files: &[(&str, &str, &str, &str, &str)]) {
    let host = Host::new();
    let mut bundle = host.bundle();
    for (name, value) in resources.as_object().unwrap() {
        bundle.config["linux"]["resources"][name] = value.clone();
    }
    bundle.create().ok();
    for (controller, v1, value, v2, unified_value) in files {
        let (file, value) = if View::current().is_v2() { (v2, unified_value) } else { (v1, value) };
        assert_eq!(read(&bundle, controller, file), *value, "{file}");
    }
    bundle.start().ok();
    bundle.delete_by_force();
}

#[test]
fn memory_is_limited() {
    if has("memory") {
        written(
            &json!({"memory": {"limit": 67_108_864, "reservation": 33_554_432}}),
            &[
                ("memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"),
                ("memory", "memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432"),
            ],
        );
    }
}

#[test]
fn swap_is_limited() {
    if has("memory") {
        let file = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes";
        if !View::current().is_v2() && !std::path::Path::new(file).exists() {
            return skip("the kernel does not account swap");
        }
        written(
            &json!({"memory": {"limit": 67_108_864, "swap": 134_217_728}}),
            &[("memory", "memory.memsw.limit_in_bytes", "134217728", "memory.swap.max", "67108864")],
        );
    }
}

#[test]
fn processor_time_is_limited() {
    if has("cpu") {
        written(
            &json!({"cpu": {"shares": 512, "quota": 20_000, "period": 50_000}}),
            &[
                ("cpu", "cpu.shares", "512", "cpu.weight", "59"),
                ("cpu", "cpu.cfs_quota_us", "20000", "cpu.max", "20000 50000"),
                ("cpu", "cpu.cfs_period_us", "50000", "cpu.max", "20000 50000"),
            ],
        );
    }
}

#[test]
fn processor_bursts_and_idleness_are_set() {
    if has("cpu") {
        written(
            &json!({"cpu": {"quota": 20_000, "burst": 10_000}}),
            &[("cpu", "cpu.cfs_burst_us", "10000", "cpu.max.burst", "10000")],
        );
        written(&json!({"cpu": {"idle": 1}}), &[("cpu", "cpu.idle", "1", "cpu.idle", "1")]);
    }
}

#[test]
fn processes_are_limited() {
    if has("pids") {
        written(&json!({"pids": {"limit": 12}}), &[("pids", "pids.max", "12", "pids.max", "12")]);
        written(&json!({"pids": {"limit": -1}}), &[("pids", "pids.max", "max", "pids.max", "max")]);
    }
}

#[test]
fn limits_that_depend_on_each_other_are_set_in_any_order() {
    if has("cpu") {
        // Shares of an idle cgroup are fixed, and a burst is below its quota.
        written(
            &json!({"cpu": {"shares": 2048, "idle": 1, "quota": 300_000, "period": 900_000, "burst": 250_000}}),
            &[
                ("cpu", "cpu.idle", "1", "cpu.idle", "1"),
                ("cpu", "cpu.cfs_quota_us", "300000", "cpu.max", "300000 900000"),
                ("cpu", "cpu.cfs_burst_us", "250000", "cpu.max.burst", "250000"),
            ],
        );
        written(&json!({"cpu": {"period": 30_000}}), &[("cpu", "cpu.cfs_period_us", "30000", "cpu.max", "max 30000")]);
    }
}

#[test]
fn real_time_is_limited_on_v1() {
    if View::current().is_v2() || !has("cpu") {
        return;
    }
    if !std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
        return skip("the kernel has no real-time groups");
    }
    written(
        &json!({"cpu": {"realtimePeriod": 800_000, "realtimeRuntime": 20_000}}),
        &[("cpu", "cpu.rt_period_us", "800000", "", ""), ("cpu", "cpu.rt_runtime_us", "20000", "", "")],
    );
}

#[test]
fn memory_fields_that_only_v1_has_are_set() {
    if View::current().is_v2() || !has("memory") {
        return;
    }
    let memory = json!({"limit": 67_108_864, "swappiness": 7, "kernelTCP": 4_194_304, "useHierarchy": true});
    written(
        &json!({ "memory": memory }),
        &[
            ("memory", "memory.swappiness", "7", "", ""),
            ("memory", "memory.kmem.tcp.limit_in_bytes", "4194304", "", ""),
            ("memory", "memory.use_hierarchy", "1", "", ""),
        ],
    );
    let host = Host::new();
    let mut bundle = host.bundle();
    for (on, text) in [(true, "oom_kill_disable 1"), (false, "oom_kill_disable 0")] {
        bundle.config["linux"]["resources"]["memory"] = json!({ "disableOOMKiller": on });
        bundle.create().ok();
        assert_eq!(read(&bundle, "memory", "memory.oom_control").lines().next(), Some(text));
        bundle.delete_by_force();
    }
}

#[test]
fn v2_is_always_as_some_switches_of_v1_say() {
    if View::current().is_v2() {
        written(&json!({"memory": {"disableOOMKiller": false, "useHierarchy": true}}), &[]);
    }
}

#[test]
fn processors_are_chosen() {
    if has("cpuset") {
        written(
            &json!({"cpu": {"cpus": "0", "mems": "0"}}),
            &[("cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"), ("cpuset", "cpuset.mems", "0", "cpuset.mems", "0")],
        );
    }
}

#[test]
fn huge_pages_are_limited() {
    // On a hybrid host they are where v1 left them: in the unified hierarchy.
    let in_unified = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    let hybrid = View::current() == View::Hybrid && in_unified.contains("hugetlb");
    if !hybrid && !has("hugetlb") {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 4_194_304}]);
    bundle.create().ok();
    for file in ["hugetlb.2MB.rsvd", "hugetlb.2MB"] {
        let is_v2 = hybrid || View::current().is_v2();
        let file = format!("{file}.{}", if is_v2 { "max" } else { "limit_in_bytes" });
        assert_eq!(read(&bundle, if hybrid { "unified" } else { "hugetlb" }, &file), "4194304", "{file}");
    }
    bundle.delete_by_force();
}

#[test]
fn packets_have_a_class_and_priorities() {
    if View::current().is_v2() || !has("net_cls") || !has("net_prio") {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    let priorities = json!([{"name": "lo", "priority": 500}]);
    bundle.config["linux"]["resources"]["network"] = json!({"classID": 1_048_577, "priorities": priorities});
    bundle.create().ok();
    assert_eq!(read(&bundle, "net_cls", "net_cls.classid"), "1048577");
    let map = read(&bundle, "net_prio", "net_prio.ifpriomap");
    assert!(map.lines().any(|line| line == "lo 500"), "{map}");
    bundle.delete_by_force();
}

#[test]
fn a_program_that_takes_too_much_memory_is_killed() {
    if !has("memory") {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/probe", "memory", "8"]);
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432, "swap": 33_554_432});
    assert_eq!(bundle.run().ok().stdout, "ok\n");
    bundle.args(&["/bin/probe", "memory", "64"]);
    assert_eq!(bundle.run().code, 128 + 9);
}

#[test]
fn a_program_cannot_have_more_processes_than_allowed() {
    if !has("pids") {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.args(&["/bin/probe", "fork", "20"]);
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 8});
    assert_eq!(bundle.run().ok().stdout, "7\n");
}

#[test]
fn a_program_runs_on_its_processors() {
    if !has("cpuset") {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["resources"]["cpu"] = json!({"cpus": "1"});
    assert_eq!(bundle.probe(&["affinity"])["affinity"], json!([1]));
}

#[test]
fn a_limit_that_cannot_be_set_is_an_error() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let good = bundle.config.clone();
    let v1 = [
        ("pids", json!({"limit": 10}), "pids"),
        ("cpu", json!({"cpus": "4096"}), "cpuset.cpus"),
        ("cpu", json!({"mems": "1000"}), "cpuset.mems"),
        ("cpu", json!({"shares": 100, "quota": 5}), "cpu.cfs_quota_us"),
        ("hugepageLimits", json!([{"pageSize": "3MB", "limit": 1}]), "hugepageLimits/0"),
        ("unified", json!({"memory.high": "1000000"}), "cgroup v2"),
        ("blockIO", json!({"weight": 5}), "10 to 1000"),
        ("blockIO", json!({"throttleReadBpsDevice": [{"major": 4000, "minor": 1, "rate": 5}]}), "no such block device"),
        ("rdma", json!({"mlx5_1": {"hcaHandles": 3}}), "rdma"),
        ("network", json!({"classID": 5}), "network/classID"),
        ("network", json!({"priorities": [{"name": "lo", "priority": 5}]}), "network/priorities/0"),
        ("memory", json!({"kernel": 4_096_000}), "memory/kernel"),
        ("memory", json!({"limit": -5}), "memory/limit"),
        ("cpu", json!({"shares": 1}), "2 to 262144"),
    ];
    let v2 = [
        ("memory", json!({"limit": 1_000_000}), "memory"),
        ("memory", json!({"swappiness": 10}), "cgroup v2 has nothing for memory/swappiness"),
        ("memory", json!({"swap": 1_000_000}), "needs a limit on memory"),
        ("cpu", json!({"realtimeRuntime": 10}), "cgroup v2 has nothing for cpu/realtimeRuntime"),
        ("pids", json!({"limit": 10}), "pids"),
        ("hugepageLimits", json!([{"pageSize": "3MB", "limit": 1}]), "hugetlb.3MB"),
        ("unified", json!({"moon.max": "1"}), "moon"),
        ("unified", json!({"../cgroup.kill": "1"}), "no file of a cgroup"),
        ("unified", json!({"cgroup.procs/x": "1"}), "no file of a cgroup"),
        ("blockIO", json!({"leafWeight": 10}), "blockIO/leafWeight"),
        ("memory", json!({"disableOOMKiller": true}), "memory/disableOOMKiller"),
        ("memory", json!({"kernel": 4_096_000}), "memory/kernel"),
        ("network", json!({"classID": 5}), "cgroup v2 has nothing for network/classID"),
    ];
    let is_v2 = View::current().is_v2();
    for (name, value, text) in if is_v2 { v2.to_vec() } else { v1[1..].to_vec() } {
        let controller = if is_v2 { name } else { "" };
        // Where these can be set there is no error.
        if has_silently(controller) && (value == json!({"limit": 10}) || value == json!({"limit": 1_000_000})) {
            continue;
        }
        bundle.config = good.clone();
        bundle.config["linux"]["resources"][name] = value;
        let output = bundle.run().fails_with(text);
        assert!(output.stderr.contains(&format!("/linux/resources/{name}")), "{output:?}");
        assert!(!host.root.join(&bundle.id).exists());
        assert!(!bundle.cgroup("pids").exists(), "{name}");
    }
}

fn has_silently(controller: &str) -> bool {
    let text = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    text.split_whitespace().any(|name| name == controller)
}

#[test]
fn unified_files_are_written_as_they_are() {
    if !View::current().is_v2() {
        return skip("only cgroup v2 has unified files");
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["resources"]["unified"] = json!({"cgroup.max.depth": "7", "cgroup.max.descendants": "3"});
    bundle.create().ok();
    assert_eq!(read(&bundle, "", "cgroup.max.depth"), "7");
    assert_eq!(read(&bundle, "", "cgroup.max.descendants"), "3");
    bundle.delete_by_force();
}

#[test]
fn a_limit_of_no_processes_leaves_the_first_alone() {
    if !has("pids") {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    for limit in [0, 1] {
        bundle.config["linux"]["resources"]["pids"] = json!({ "limit": limit });
        assert_eq!(bundle.args(&["/bin/probe", "fork", "3"]).run().ok().stdout, "0\n", "{limit}");
        assert_eq!(bundle.args(&["/bin/true"]).run().ok().stderr, "");
        // A process between the runtime and init does not count, though it is there before the limit.
        let before = bundle.config.clone();
        namespace(&mut bundle, "pid", Some("/proc/self/ns/pid"));
        assert_eq!(bundle.args(&["/bin/probe", "fork", "3"]).run().ok().stdout, "0\n", "{limit}");
        bundle.config = before;
    }
}

/// Whether a device's node can be opened for writing in the container: "ok" or an error's name.
pub fn open_device(bundle: &mut Bundle, kind: &str, major: u32, minor: u32) -> String {
    let script = format!("/bin/probe mknod /dev/node {kind} {major} {minor} && /bin/probe open-write /dev/node");
    for set in ["bounding", "effective", "permitted"] {
        let list = bundle.config["process"]["capabilities"][set].as_array_mut().unwrap();
        if !list.contains(&json!("CAP_MKNOD")) {
            list.push(json!("CAP_MKNOD"));
        }
    }
    let output = bundle.script(&script).run().ok();
    assert!(output.stdout.starts_with("ok\n"), "nodes can be made: {output:?}");
    output.stdout.lines().nth(1).unwrap_or_default().to_owned()
}

#[test]
fn devices_are_denied_unless_allowed() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for minor in [3, 5, 7, 8, 9] {
        assert_eq!(open_device(&mut bundle, "c", 1, minor), "ok", "1:{minor}");
    }
    for (kind, major, minor) in [("c", 10, 200), ("b", 8, 0), ("b", 7, 0), ("c", 1, 1), ("c", 4, 0)] {
        assert_eq!(open_device(&mut bundle, kind, major, minor), "EPERM", "{kind} {major}:{minor}");
    }
    let rule = json!({"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm"});
    bundle.config["linux"]["resources"]["devices"].as_array_mut().unwrap().push(rule);
    assert_ne!(open_device(&mut bundle, "c", 10, 200), "EPERM");
    assert_eq!(open_device(&mut bundle, "c", 10, 201), "EPERM");
    let rule = json!({"allow": true, "type": "b", "major": 8, "access": "r"});
    bundle.config["linux"]["resources"]["devices"].as_array_mut().unwrap().push(rule);
    assert_eq!(open_device(&mut bundle, "b", 8, 0), "EPERM", "reading is allowed, writing is not");
}

#[test]
fn ghsa_g54h_m393_cpwq_without_a_list_only_the_default_devices_are_allowed() {
    let host = Host::new();
    let rules = [json!([]), json!([{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}])];
    for rules in rules.iter().map(Some).chain([None]) {
        let mut bundle = host.bundle();
        match rules {
            Some(rules) => bundle.config["linux"]["resources"] = json!({ "devices": rules }),
            None => drop(bundle.config["linux"].as_object_mut().unwrap().remove("resources")),
        }
        assert_eq!(open_device(&mut bundle, "c", 10, 237), "EPERM", "{rules:?}");
        assert_eq!(open_device(&mut bundle, "c", 1, 7), "ok", "{rules:?}");
    }
}

#[test]
fn a_later_rule_takes_a_device_away_again() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["resources"]["devices"] = json!([
        {"allow": true, "access": "rwm"},
        {"allow": false, "type": "c", "major": 10, "minor": 200, "access": "rw"},
    ]);
    assert_eq!(open_device(&mut bundle, "c", 10, 200), "EPERM");
    assert_ne!(open_device(&mut bundle, "c", 10, 237), "EPERM");
}

/// Whether the device 10:229 may be read and written in the container with such a list.
fn may_read_and_write(host: &Host, list: Value) -> (bool, bool) {
    let mut bundle = host.bundle();
    bundle.config["linux"]["resources"]["devices"] = list;
    give(&mut bundle, &["CAP_MKNOD"]);
    let script = "/bin/probe mknod /dev/node c 10 229 >/dev/null && (: < /dev/node); (: >> /dev/node)";
    let output = bundle.script(script).run();
    // Whatever else it may be without a driver.
    let refused =
        |how: &str| output.stderr.lines().any(|line| line.contains(how) && line.contains("Operation not permitted"));
    (!refused("can't open"), !refused("can't create"))
}

#[test]
fn a_rule_that_is_repeated_does_not_get_past_one_that_denies() {
    let host = Host::new();
    let deny_all = json!({"allow": false, "access": "rwm"});
    let one =
        |allow: bool, access: &str| json!({"allow": allow, "type": "c", "major": 10, "minor": 229, "access": access});
    let list = json!([deny_all, {"allow": true, "type": "c", "access": "rw"}, one(false, "rwm")]);
    if View::current().is_v2() {
        assert_eq!(may_read_and_write(&host, list), (false, false));
    } else {
        let mut bundle = host.bundle();
        bundle.config["linux"]["resources"]["devices"] = list;
        bundle.run().fails_with("cgroup v1 cannot take");
    }
    let list = json!([deny_all, one(true, "r"), one(false, "r"), one(true, "w")]);
    assert_eq!(may_read_and_write(&host, list), (false, true));
    let allow_all = json!({"allow": true, "access": "rwm"});
    let list = json!([allow_all, one(false, "r"), one(true, "r"), one(false, "w")]);
    assert_eq!(may_read_and_write(&host, list), (true, false));
    assert_eq!(may_read_and_write(&host, json!([deny_all, one(true, "r"), one(true, "w")])), (true, true));
}

#[test]
fn devices_that_are_listed_are_made_but_still_have_to_be_allowed() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["devices"] = json!([
        {"path": "/dev/loop-like", "type": "b", "major": 7, "minor": 0, "fileMode": 0o660},
        {"path": "/dev/again-full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o666},
    ]);
    let script = "/bin/probe open-write /dev/loop-like; /bin/probe open-write /dev/again-full";
    assert_eq!(bundle.script(script).run().ok().stdout, "EPERM\nok\n");
}

#[test]
fn the_unknown_device_rule_is_named() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for rule in [json!({"allow": true, "type": "p"}), json!({"allow": true, "major": 4_294_967_296_u64})] {
        bundle.config["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}, rule]);
        bundle.run().fails_with("/linux/resources/devices/1");
    }
}
