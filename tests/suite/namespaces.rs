//! config-linux.md: namespaces that are new, shared or joined, and what is set in them.

use serde_json::json;

use crate::harness::{Host, skip};
use crate::support::{Neighbour, STRACE, fails_at, has_strace, namespace};

/// Types as config.json has them, and their names in /proc/self/ns.
const TYPES: [(&str, &str); 7] = [
    ("pid", "pid"),
    ("network", "net"),
    ("mount", "mnt"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

fn own(name: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_string_lossy().into_owned()
}

#[test]
fn a_new_namespace_is_not_the_callers() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for (kind, _) in TYPES {
        namespace(&mut bundle, kind, None);
    }
    let report = bundle.probe(&["namespaces"]);
    for (kind, name) in TYPES {
        assert_ne!(report["namespaces"][name], own(name), "{kind}");
    }
    assert_eq!(report["namespaces"]["user"], own("user"));
}

#[test]
fn a_type_that_is_not_listed_is_the_callers() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["hostname"] = json!("");
    for (kind, _) in TYPES.iter().filter(|(kind, _)| *kind != "mount") {
        bundle.share(kind);
    }
    let report = bundle.probe(&["namespaces"]);
    for (kind, name) in TYPES.iter().filter(|(kind, _)| *kind != "mount") {
        assert_eq!(report["namespaces"][name], own(name), "{kind}");
    }
}

#[test]
fn a_namespace_is_joined_by_its_path() {
    let host = Host::new();
    let neighbour = Neighbour::new(&host, &["--net", "--ipc", "--uts", "--cgroup"]);
    let mut bundle = host.bundle();
    bundle.config["hostname"] = json!("");
    for (kind, name) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup")] {
        namespace(&mut bundle, kind, Some(&neighbour.path(name)));
    }
    let report = bundle.probe(&["namespaces"]);
    for name in ["net", "ipc", "uts", "cgroup"] {
        assert_eq!(report["namespaces"][name], neighbour.namespace(name), "{name}");
    }
}

#[test]
fn a_container_joins_the_pid_namespace_of_another() {
    let host = Host::new();
    let mut first = host.bundle();
    first.args(&["/bin/sleep", "60"]).up();
    let path = format!("/proc/{}/ns/pid", first.pid());
    let joined = std::fs::read_link(&path).unwrap();
    let mut second = host.bundle();
    namespace(&mut second, "pid", Some(&path));
    let report = second.probe(&["namespaces", "pid"]);
    assert_eq!(report["namespaces"]["pid"], joined.to_string_lossy().as_ref());
    assert_ne!(report["pid"], 1);
    // Its processes are not its namespace's: they end with the container.
    second.args(&["/bin/sleep", "60"]).up();
    second.delete_by_force();
    assert_eq!(first.status(), "running");
    first.delete_by_force();
}

#[test]
fn a_time_namespace_is_joined_and_new_ones_have_offsets() {
    let host = Host::new();
    let mut first = host.bundle();
    namespace(&mut first, "time", None);
    first.config["linux"]["timeOffsets"] =
        json!({ "monotonic": { "secs": 1000 }, "boottime": { "secs": -5, "nanosecs": 7 } });
    let offsets = json!({ "monotonic": { "secs": 1000, "nanosecs": 0 }, "boottime": { "secs": -5, "nanosecs": 7 } });
    assert_eq!(first.probe(&["timeOffsets"])["timeOffsets"]["offsets"], offsets);
    first.args(&["/bin/sleep", "60"]).up();
    let path = format!("/proc/{}/ns/time", first.pid());
    let mut second = host.bundle();
    namespace(&mut second, "time", Some(&path));
    let report = second.probe(&["namespaces"]);
    assert_eq!(report["namespaces"]["time"], std::fs::read_link(&path).unwrap().to_string_lossy().as_ref());
    first.delete_by_force();
}

/// What init said before the stage was heard was once taken for the stage's end.
#[test]
fn a_stage_that_is_slower_than_init_is_waited_for() {
    if !has_strace() {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    namespace(&mut bundle, "time", None);
    bundle.args(&["/bin/true"]);
    let slow = "inject=clone3:delay_exit=400000";
    bundle.making("run", &[]).before([STRACE, "-f", "-o", "/dev/null", "-e", "trace=clone3", "-e", slow]).run().ok();
}

#[test]
fn impossible_namespaces_are_refused_where_they_stand() {
    let host = Host::new();
    let neighbour = Neighbour::new(&host, &["--net"]);
    for (entry, pointer) in [
        (json!({ "type": "pid" }), "/linux/namespaces/1"),
        (json!({ "type": "moon" }), "/linux/namespaces/1/type"),
        (json!({ "type": "ipc", "path": "relative" }), "/linux/namespaces/1/path"),
        (json!({ "type": "ipc", "path": "/nowhere" }), "/linux/namespaces/1/path"),
        (json!({ "type": "ipc", "path": "/etc/passwd" }), "/linux/namespaces/1/path"),
        (json!({ "type": "ipc", "path": neighbour.path("net") }), "/linux/namespaces/1/path"),
        (json!({ "type": "user" }), "/linux/uidMappings"),
    ] {
        let mut bundle = host.bundle();
        bundle.config["linux"]["namespaces"] = json!([{ "type": "pid" }, entry, { "type": "mount" }]);
        bundle.config["hostname"] = json!("");
        fails_at(&bundle.run(), pointer);
    }
    let mut bundle = host.bundle();
    bundle.config["hostname"] = json!("");
    bundle.config["linux"]["namespaces"] = json!([]);
    fails_at(&bundle.run(), "/linux/namespaces");
}

#[test]
fn the_hosts_own_namespaces_stay_the_hosts_when_given_by_path() {
    let host = Host::new();
    for (kind, name, key, pointer) in [
        ("mount", "mnt", "", "/linux/namespaces"),
        ("uts", "uts", "", "/hostname"),
        ("network", "net", "net.ipv4.ip_forward", "/linux/sysctl/net.ipv4.ip_forward"),
        ("ipc", "ipc", "kernel.shmmax", "/linux/sysctl/kernel.shmmax"),
    ] {
        let mut bundle = host.bundle();
        bundle.config["hostname"] = json!("moon");
        namespace(&mut bundle, kind, Some(&format!("/proc/self/ns/{name}")));
        if !key.is_empty() {
            bundle.config["linux"]["sysctl"] = json!({ key: "1" });
        }
        fails_at(&bundle.run(), pointer);
    }
}

#[test]
fn host_and_domain_names_are_the_containers() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["hostname"] = json!("one");
    bundle.config["domainname"] = json!("two.example");
    let report = bundle.probe(&["hostname", "domainname"]);
    assert_eq!(report, json!({ "hostname": "one", "domainname": "two.example" }));
    bundle.config["hostname"] = json!("x".repeat(65));
    fails_at(&bundle.run(), "/hostname");
    bundle.config["hostname"] = json!("one");
    bundle.share("uts");
    fails_at(&bundle.run(), "/hostname");
    bundle.config["hostname"] = json!("");
    fails_at(&bundle.run(), "/domainname");
}

#[test]
fn kernel_parameters_are_set_in_the_containers_namespaces() {
    let host = Host::new();
    for (key, value, read) in [
        ("net.ipv4.ip_forward", "1", "1"),
        ("net/ipv4/ip_forward", "1", "1"),
        ("kernel.shmmax", "12345", "12345"),
        ("kernel.sem", "250 32000 100 128", "250\t32000\t100\t128"),
        ("fs.mqueue.msg_max", "20", "20"),
        ("kernel.domainname", "moon", "moon"),
    ] {
        let mut bundle = host.bundle();
        bundle.config["linux"]["sysctl"] = json!({ key: value });
        let file = format!("/proc/sys/{}", key.replace('.', "/"));
        assert_eq!(bundle.args(&["/bin/cat", &file]).run().ok().stdout.trim_end(), read, "{key}");
    }
    let mut bundle = host.bundle();
    bundle.config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "moon" });
    fails_at(&bundle.run(), "/linux/sysctl/net.ipv4.ip_forward");
}

#[test]
fn personality_and_memory_policy_are_set() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["personality"] = json!({ "domain": "LINUX32" });
    bundle.config["linux"]["memoryPolicy"] =
        json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] });
    let report = bundle.probe(&["personality", "mempolicy"]);
    assert_eq!(report["personality"], 8);
    let policy = json!({ "mode": "MPOL_BIND", "flags": ["MPOL_F_STATIC_NODES"], "nodes": [0] });
    assert_eq!(report["mempolicy"], policy);
    for (policy, pointer) in [
        (json!({ "mode": "MPOL_MOON" }), "/linux/memoryPolicy/mode"),
        (json!({ "mode": "MPOL_BIND" }), "/linux/memoryPolicy/nodes"),
        (json!({ "mode": "MPOL_BIND", "nodes": "x" }), "/linux/memoryPolicy/nodes"),
        (json!({ "mode": "MPOL_BIND", "nodes": "1023" }), "/linux/memoryPolicy"),
    ] {
        bundle.config["linux"]["memoryPolicy"] = policy;
        fails_at(&bundle.run(), pointer);
    }
}

#[test]
fn without_resctrl_resource_groups_are_an_error() {
    let host = Host::new();
    if std::path::Path::new("/sys/fs/resctrl/schemata").exists() {
        return skip("resctrl is mounted here");
    }
    let mut bundle = host.bundle();
    bundle.config["linux"]["intelRdt"] = json!({ "closID": "moon", "l3CacheSchema": "L3:0=f" });
    fails_at(&bundle.run(), "/linux/intelRdt");
}
