//! Who the process is: ids, groups, umask, capabilities; and what it must not have of its caller.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Instant;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use serde_json::json;

use crate::harness::{Host, seconds};

const SETS: [&str; 5] = ["bounding", "effective", "inheritable", "permitted", "ambient"];

#[test]
fn ids_groups_and_umask_are_set() {
    let host = Host::new();
    let mut bundle = host.bundle();
    assert_eq!(bundle.probe(&["groups", "umask"]), json!({ "groups": [], "umask": "0022" }));
    bundle.config["process"]["user"] = json!({ "uid": 5, "gid": 6, "additionalGids": [7, 8], "umask": 0o77 });
    let report = bundle.probe(&["uid", "gid", "groups", "umask"]);
    for (kind, id) in [("uid", 5), ("gid", 6)] {
        assert_eq!(report[kind], json!({ "real": id, "effective": id, "saved": id, "fs": id }));
    }
    assert_eq!((&report["groups"], &report["umask"]), (&json!([7, 8]), &json!("0077")));
}

#[test]
fn every_set_of_capabilities_is_as_asked() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let asked = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
        "effective": ["CAP_KILL"],
        "inheritable": ["CAP_CHOWN", "CAP_SETUID"],
        "ambient": ["CAP_SETUID"],
    });
    bundle.config["process"]["capabilities"] = asked.clone();
    bundle.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    // execve(2) of a user's program keeps the ambient ones and the bounding and inheritable sets.
    let caps = bundle.probe(&["caps"])["caps"].clone();
    for set in ["effective", "permitted", "ambient"] {
        assert_eq!(caps[set], json!(["CAP_SETUID"]), "{set}");
    }
    assert_eq!(caps["inheritable"], asked["inheritable"]);
    assert_eq!(caps["bounding"], json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"]));
    bundle.config["process"]["capabilities"] = json!(null);
    bundle.config["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    let caps = bundle.probe(&["caps"])["caps"].clone();
    for set in SETS {
        assert_eq!(caps[set], json!([]), "{set}");
    }
}

#[test]
fn an_unknown_capability_is_one_warning() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for set in SETS {
        bundle.config["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_MOON"]);
    }
    let output = bundle.args(&["/bin/probe", "caps"]).run().ok();
    assert_eq!(output.json()["caps"]["effective"], json!(["CAP_KILL"]));
    assert_eq!(output.stderr.matches("CAP_MOON").count(), 1, "{output:?}");
    assert!(output.stderr.contains("level=warning"));
}

#[test]
fn what_the_runtime_lacks_is_a_warning() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.wrapper = ["setpriv", "--bounding-set=-mknod"].map(Into::into).to_vec();
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_MKNOD"]);
    }
    // The devices cannot be made either: the host's are bound instead.
    let output = bundle.args(&["/bin/probe", "caps"]).run().ok();
    assert_eq!(output.json()["caps"]["effective"], json!(["CAP_KILL"]));
    assert!(output.stderr.contains("CAP_MKNOD"), "{output:?}");
}

#[test]
fn cve_2016_3697_a_number_is_no_name() {
    let host = Host::new();
    let mut bundle = host.bundle();
    fs::write(bundle.rootfs.join("etc/passwd"), "1000:x:0:0::/:/bin/sh\n").unwrap();
    bundle.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    assert_eq!(bundle.probe(&["uid"])["uid"]["effective"], 1000);
}

#[test]
fn cve_2016_8867_a_user_has_no_capabilities_of_root() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    let caps = bundle.probe(&["caps"])["caps"].clone();
    for set in ["effective", "permitted", "ambient", "inheritable"] {
        assert_eq!(caps[set], json!([]), "{set}");
    }
}

#[test]
fn cve_2022_29162_nothing_is_inheritable_by_default() {
    let host = Host::new();
    let mut bundle = host.bundle();
    assert_eq!(bundle.config["process"]["capabilities"].get("inheritable"), None);
    bundle.wrapper = ["setpriv", "--inh-caps=+net_raw,+kill"].map(Into::into).to_vec();
    let caps = bundle.probe(&["caps"])["caps"].clone();
    assert_eq!((&caps["inheritable"], &caps["ambient"]), (&json!([]), &json!([])));
}

#[test]
fn cve_2022_4318_a_hostile_passwd_is_not_read() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let passwd = bundle.rootfs.join("etc/passwd");
    let outside = host.temp.join("outside");
    fs::write(&outside, "root:x:0:0::/from-the-host:/bin/sh\n").unwrap();
    let kinds: [(&str, &dyn Fn()); 5] = [
        ("fifo", &|| mkfifo(&passwd, Mode::S_IRWXU).unwrap()),
        ("link to the host", &|| symlink(&outside, &passwd).unwrap()),
        ("giant", &|| fs::File::create(&passwd).unwrap().set_len(1 << 30).unwrap()),
        ("device", &|| mknod(&passwd, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)).unwrap()),
        ("directory", &|| fs::create_dir(&passwd).unwrap()),
    ];
    for (kind, make) in kinds {
        let _ = fs::remove_file(&passwd);
        make();
        let began = Instant::now();
        assert_eq!(bundle.probe(&["env"])["env"].as_array().unwrap().last().unwrap(), "HOME=/", "{kind}");
        assert!(began.elapsed() < seconds(1), "{kind}");
    }
}

#[test]
fn nothing_of_the_caller_is_inherited() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let script = "umask 0; trap '' INT QUIT USR1 RTMIN; ulimit -S -c 0; exec setpriv --groups 5,6 \"$@\"";
    bundle.wrapper = ["bash", "-c", script, "bash"].map(Into::into).to_vec();
    let report = bundle.probe(&["groups", "umask", "sigIgn", "sigBlk", "sigCgt", "dumpable"]);
    let none = "0000000000000000";
    let expected =
        json!({ "groups": [], "umask": "0022", "sigIgn": none, "sigBlk": none, "sigCgt": none, "dumpable": 1 });
    assert_eq!(report, expected);
}

#[test]
fn cve_2017_5226_the_callers_session_is_left() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let report = bundle.probe(&["sid", "pgid", "pid"]);
    assert_eq!((&report["sid"], &report["pgid"], &report["pid"]), (&json!(1), &json!(1), &json!(1)));
    bundle.share("pid");
    let report = bundle.probe(&["sid", "pgid", "pid"]);
    assert_eq!(report["sid"], report["pid"]);
}
