//! User namespaces: mapped ids, and everything that works otherwise inside.

use serde_json::json;

use crate::harness::{Bundle, Host};
use crate::support::{Neighbour, fails_at, mount_at, namespace, stat, user_namespace};

fn map_of(bundle: &mut Bundle<'_>, file: &str) -> Vec<u32> {
    let output = bundle.args(&["/bin/cat", &format!("/proc/self/{file}")]).run().ok();
    output.stdout.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

#[test]
fn ids_are_mapped() {
    let host = Host::new();
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    bundle.config["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": 200_000, "size": 10 }, { "containerID": 10, "hostID": 300_000, "size": 5 }]);
    assert_eq!(map_of(&mut bundle, "uid_map"), [0, 100_000, 65536]);
    assert_eq!(map_of(&mut bundle, "gid_map"), [0, 200_000, 10, 10, 300_000, 5]);
}

#[test]
fn the_process_is_who_it_is_asked_to_be() {
    let host = Host::new();
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    for (uid, gid) in [(0, 0), (5, 6)] {
        bundle.config["process"]["user"] = json!({ "uid": uid, "gid": gid, "additionalGids": [7] });
        let report = bundle.probe(&["uid", "gid", "groups", "caps", "fds"]);
        assert_eq!((&report["uid"]["saved"], &report["gid"]["saved"]), (&json!(uid), &json!(gid)));
        assert_eq!(report["groups"], json!([7]));
        assert_eq!(report["caps"]["effective"].as_array().unwrap().is_empty(), uid != 0);
        assert_eq!(report["fds"].as_object().unwrap().len(), 3);
    }
}

#[test]
fn the_limits_the_score_the_names_and_the_clocks_are_set_inside() {
    let host = Host::new();
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    namespace(&mut bundle, "time", None);
    bundle.config["linux"]["timeOffsets"] = json!({ "monotonic": { "secs": 10 } });
    bundle.config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.shmmax": "777" });
    bundle.config["process"]["oomScoreAdj"] = json!(300);
    bundle.config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 99, "hard": 1000 }]);
    bundle.config["hostname"] = json!("inside");
    let report = bundle.probe(&["oomScoreAdj", "hostname", "rlimits", "timeOffsets"]);
    assert_eq!((&report["oomScoreAdj"], &report["hostname"]), (&json!(300), &json!("inside")));
    assert_eq!(report["rlimits"]["RLIMIT_NOFILE"], json!({ "soft": 99, "hard": 1000 }));
    assert_eq!(report["timeOffsets"]["offsets"]["monotonic"]["secs"], 10);
    let script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax";
    assert_eq!(bundle.script(script).run().ok().stdout, "1\n777\n");
}

#[test]
fn devices_are_the_hosts_own() {
    let host = Host::new();
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    bundle.config["linux"]["devices"] = json!([{ "path": "/dev/fifo", "type": "p", "fileMode": 0o600 }]);
    for (path, kind, rdev) in [("/dev/null", "char", "1:3"), ("/dev/tty", "char", "5:0"), ("/dev/fifo", "fifo", "0:0")]
    {
        let seen = stat(&mut bundle, path);
        assert_eq!((&seen["type"], &seen["rdev"]), (&json!(kind), &json!(rdev)), "{path}");
    }
    bundle.script("echo x > /dev/null && head -c 1 /dev/zero | wc -c").run().ok();
    bundle.config["linux"]["devices"] = json!([{ "path": "/dev/nowhere", "type": "c", "major": 1, "minor": 3 }]);
    fails_at(&bundle.run(), "/linux/devices/0");
}

#[test]
fn the_mounts_belong_to_the_container() {
    let host = Host::new();
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    let report = bundle.probe(&["mounts"]);
    for point in ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"] {
        assert!(mount_at(&report, point).is_some(), "{point}");
    }
    assert_eq!(stat(&mut bundle, "/dev/shm")["uid"], 0);
}

#[test]
fn impossible_mappings_are_refused() {
    let host = Host::new();
    let range =
        |inside: u32, outside: u32, size: u32| json!({ "containerID": inside, "hostID": outside, "size": size });
    for (uids, gids, pointer) in [
        (json!([range(0, 100_000, 10), range(5, 200_000, 10)]), json!([range(0, 0, 10)]), "/linux/uidMappings"),
        (json!([range(0, 100_000, 10)]), json!([range(0, 1, 10), range(20, 5, 10)]), "/linux/gidMappings"),
        (json!([range(0, 100_000, 0)]), json!([range(0, 0, 10)]), "/linux/uidMappings/0/size"),
        (json!([range(0, u32::MAX, 10)]), json!([range(0, 0, 10)]), "/linux/uidMappings/0/size"),
        (json!([]), json!([range(0, 0, 10)]), "/linux/uidMappings"),
        (json!([range(0, 0, 10)]), json!([]), "/linux/gidMappings"),
    ] {
        let mut bundle = host.bundle();
        namespace(&mut bundle, "user", None);
        bundle.config["linux"]["uidMappings"] = uids;
        bundle.config["linux"]["gidMappings"] = gids;
        fails_at(&bundle.run(), pointer);
    }
    let mut bundle = host.bundle();
    bundle.config["linux"]["uidMappings"] = json!([range(0, 100_000, 10)]);
    fails_at(&bundle.run(), "/linux/uidMappings");
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    bundle.config["process"]["user"]["uid"] = json!(70_000);
    fails_at(&bundle.run(), "/process/user/uid");
}

#[test]
fn a_user_namespace_is_joined_with_what_belongs_to_it() {
    let host = Host::new();
    let neighbour = Neighbour::in_user_namespace(&host, &["--net", "--uts", "--ipc"]);
    let mut bundle = host.bundle();
    bundle.config["hostname"] = json!("");
    namespace(&mut bundle, "user", Some(&neighbour.path("user")));
    let report = bundle.probe(&["namespaces", "uid"]);
    assert_eq!(report["namespaces"]["user"], neighbour.namespace("user"));
    assert_eq!(map_of(&mut bundle, "uid_map"), [0, 100_000, 65536]);
    for (kind, name) in [("network", "net"), ("uts", "uts"), ("ipc", "ipc")] {
        namespace(&mut bundle, kind, Some(&neighbour.path(name)));
    }
    let report = bundle.probe(&["namespaces", "uid"]);
    for name in ["user", "net", "uts", "ipc"] {
        assert_eq!(report["namespaces"][name], neighbour.namespace(name), "{name}");
    }
    assert_eq!(report["uid"]["effective"], 0);
}

#[test]
fn a_new_user_namespace_goes_with_joined_ones_of_the_host() {
    let host = Host::new();
    let neighbour = Neighbour::new(&host, &["--net", "--ipc"]);
    let mut bundle = host.bundle();
    user_namespace(&mut bundle, 100_000);
    // sysfs of a network namespace may be mounted only from the user namespace that it belongs to.
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/sys");
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    for (kind, name) in [("network", "net"), ("ipc", "ipc")] {
        namespace(&mut bundle, kind, Some(&neighbour.path(name)));
    }
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/mqueue");
    let report = bundle.probe(&["namespaces", "uid"]);
    for name in ["net", "ipc"] {
        assert_eq!(report["namespaces"][name], neighbour.namespace(name), "{name}");
    }
    assert_eq!(report["uid"]["effective"], 0);
}

#[test]
fn cve_2021_43784_a_thousand_mappings_are_an_error_and_not_an_overflow() {
    let host = Host::new();
    let mut bundle = host.bundle();
    namespace(&mut bundle, "user", None);
    let many: Vec<_> = (0..1000).map(|id| json!({ "containerID": id, "hostID": 100_000 + id, "size": 1 })).collect();
    bundle.config["linux"]["gidMappings"] = json!(many[..250]);
    bundle.config["linux"]["uidMappings"] = json!(many);
    fails_at(&bundle.run(), "/linux/uidMappings");
    // As many as fit into the page that the kernel takes are all there.
    bundle.config["linux"]["uidMappings"] = json!(many[..250]);
    assert_eq!(map_of(&mut bundle, "uid_map").len(), 250 * 3);
}
