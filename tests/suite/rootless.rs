//! Operation without privileges: as uid 1000, in a user namespace of its own.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use serde_json::json;

use crate::harness::{Bundle, Host, Output, skip};
use crate::support::{STRACE, fails_at, has_strace, set};

const UID: u32 = 1000;
const DROP: [&str; 5] = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all"];

/// A bundle of the user's, with the config.json that `spec --rootless` writes for it.
pub fn bundle_of_user(host: &Host) -> Bundle<'_> {
    let mut bundle = host.bundle();
    bundle.wrapper = DROP.map(Into::into).to_vec();
    let directory = host.temp.join(format!("{}-spec", bundle.id));
    for path in [&directory, &host.root] {
        fs::create_dir_all(path).unwrap();
        chown(path, Some(UID), Some(UID)).unwrap();
    }
    host.bare(["spec", "--rootless"]).before(DROP).directory(&directory).run().ok();
    let text = fs::read(directory.join("config.json")).unwrap();
    bundle.config = serde_json::from_slice(&text).unwrap();
    bundle.config["process"]["terminal"] = json!(false);
    host.command(["chown", "-R", "1000:1000", bundle.path.to_str().unwrap()]).run().ok();
    bundle
}

/// Runs, or says why this machine does not let users have user namespaces.
fn run(bundle: &Bundle<'_>) -> Option<Output> {
    let output = bundle.run();
    if output.stderr.contains("user namespaces may be restricted here") {
        skip("users cannot make user namespaces here");
        return None;
    }
    Some(output)
}

#[test]
fn the_rootless_configuration_runs() {
    let host = Host::new();
    let mut bundle = bundle_of_user(&host);
    let script = "id -u; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; echo x > /dev/null && \
        head -c 1 /dev/zero | wc -c; probe fds caps groups cwd";
    bundle.script(script);
    let Some(output) = run(&bundle) else { return };
    let text = output.ok().stdout;
    let words: Vec<_> = text.split_whitespace().take(9).collect();
    assert_eq!(words, ["0", "0", "1000", "1", "0", "1000", "1", "deny", "1"], "{text}");
    let report: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(report["fds"].as_object().unwrap().len(), 3);
    assert_eq!(report["cwd"], "/");
}

#[test]
fn the_verbs_work_for_their_user() {
    let host = Host::new();
    let mut bundle = bundle_of_user(&host);
    bundle.args(&["/bin/true"]);
    if run(&bundle).is_none() {
        return;
    }
    let verb = |words: &[&str]| host.call(words).before(DROP).run();
    bundle.args(&["/bin/sleep", "60"]).create().ok();
    assert_eq!(verb(&["state", &bundle.id]).ok().json()["status"], "created");
    verb(&["start", &bundle.id]).ok();
    assert_eq!(verb(&["state", &bundle.id]).ok().json()["status"], "running");
    assert_eq!(verb(&["exec", &bundle.id, "/bin/sh", "-c", "id -u"]).ok().stdout, "0\n");
    assert_eq!(verb(&["exec", &bundle.id, "/bin/sh", "-c", "exit 7"]).code, 7);
    let pid = bundle.pid();
    verb(&["kill", &bundle.id, "KILL"]).ok();
    assert_eq!(host.reap(pid), -9);
    verb(&["delete", &bundle.id]).ok();
}

#[test]
fn what_takes_privileges_is_refused_with_its_place() {
    let host = Host::new();
    let probe = bundle_of_user(&host);
    if run(&probe).is_none() {
        return;
    }
    for (place, value, pointer) in [
        ("/process/user/additionalGids", json!([3]), "/process/user/additionalGids"),
        ("/process/user/uid", json!(5), "/process/user/uid"),
        ("/linux/uidMappings/0/hostID", json!(0), "/linux/uidMappings"),
        ("/linux/gidMappings/0/size", json!(2), "/linux/gidMappings"),
        ("/linux/sysctl", json!({ "kernel.core_pattern": "x" }), "/linux/sysctl/kernel.core_pattern"),
    ] {
        let mut bundle = bundle_of_user(&host);
        set(&mut bundle.config, place, value);
        fails_at(&bundle.run(), pointer);
    }
    let mut bundle = bundle_of_user(&host);
    bundle.share("user");
    bundle.config["linux"]["uidMappings"] = json!([]);
    bundle.config["linux"]["gidMappings"] = json!([]);
    fails_at(&bundle.run(), "/linux/namespaces");
}

#[test]
fn files_of_root_are_not_readable_through_the_runtime() {
    let host = Host::new();
    let secret = host.temp.join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "secret").unwrap();
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut bundle = bundle_of_user(&host);
    bundle.mount("/tmp", "bind", secret.join("file"), &["bind"]);
    let Some(output) = run(&bundle) else { return };
    output.fails_with("EACCES");
    let mut bundle = bundle_of_user(&host);
    bundle.mount("/tmp", "bind", &secret, &["bind"]).args(&["/bin/cat", "/tmp/file"]);
    run(&bundle).unwrap().fails_with("Permission denied");
}

/// Between its user ids and its group ids were mapped, it took itself for root, and became untraceable.
#[test]
fn ids_are_mapped_while_init_begins() {
    if !has_strace() {
        return;
    }
    let host = Host::new();
    let mut bundle = bundle_of_user(&host);
    let slow = ["inject=write:delay_exit=20000", "-e", "inject=prctl:delay_exit=30000"];
    let tracer = [STRACE, "-f", "-o", "/dev/null", "-e", "trace=prctl,write", "-e"].iter().chain(&slow);
    bundle.wrapper.splice(0..0, tracer.map(Into::into));
    let Some(output) = run(bundle.args(&["/bin/true"])) else { return };
    output.ok();
}

#[test]
fn cve_2023_25809_the_cgroups_are_read_only_without_a_cgroup_namespace() {
    let host = Host::new();
    for own in [true, false] {
        let mut bundle = bundle_of_user(&host);
        if !own {
            bundle.share("cgroup");
        }
        bundle.script(
            "cd /sys/fs/cgroup; find . -type d -maxdepth 2 2>/dev/null | while read d; do \
            mkdir $d/new 2>/dev/null && echo $d; done; for f in cgroup.procs */cgroup.procs; do \
            echo 0 2>/dev/null > $f && echo $f; done; true",
        );
        let find = bundle.rootfs.join("bin/find");
        std::os::unix::fs::symlink("busybox", find).unwrap();
        let Some(output) = run(&bundle) else { return };
        assert_eq!(output.ok().stdout, "", "own cgroup namespace: {own}");
    }
}

#[test]
fn more_ids_are_mapped_by_the_helpers_where_the_system_allows_it() {
    let host = Host::new();
    for file in ["/usr/bin/newuidmap", "/usr/bin/newgidmap", "/etc/subuid", "/etc/subgid"] {
        if !Path::new(file).exists() {
            return skip(&format!("there is no {file}"));
        }
    }
    let allowed = host.temp.join("allowed");
    fs::write(&allowed, "1000:100000:1000\n").unwrap();
    let range =
        json!([{ "containerID": 0, "hostID": UID, "size": 1 }, { "containerID": 1, "hostID": 100_000, "size": 1000 }]);
    let mut bundle = bundle_of_user(&host);
    // In front of the system's own lists, for the helpers called from here alone.
    let script = "mount --bind $0 /etc/subuid && mount --bind $0 /etc/subgid && exec \"$@\"";
    let private = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, allowed.to_str().unwrap()];
    bundle.wrapper = private.into_iter().chain(DROP).map(Into::into).collect();
    bundle.config["linux"]["uidMappings"] = range.clone();
    bundle.config["linux"]["gidMappings"] = range;
    bundle.config["process"]["user"] = json!({ "uid": 5, "gid": 6, "additionalGids": [7] });
    bundle.args(&["/bin/probe", "uid", "groups"]);
    let Some(output) = run(&bundle) else { return };
    let report = output.ok().json();
    assert_eq!((&report["uid"]["real"], &report["groups"]), (&json!(5), &json!([7])));
    bundle.config["linux"]["uidMappings"][1]["size"] = json!(1001);
    fails_at(&bundle.run(), "/linux/uidMappings");
}
