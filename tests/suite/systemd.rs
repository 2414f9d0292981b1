//! The systemd driver. What takes a systemd runs where there is one; what happens without one, or with
//! one that fails, is tested everywhere.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::chown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Bundle, Host, View, seconds, skip, wait_until};
use crate::rootless::bundle_of_user;
use crate::support::{namespace, user_namespace};

const UID: u32 = 1000;

fn has_systemd() -> bool {
    let has = Path::new("/run/systemd/private").exists() && View::current().is_v2();
    if !has {
        skip("no systemd with cgroup v2 here");
    }
    has
}

/// A bundle whose container is to be a scope in system.slice.
fn scope(host: &Host) -> Bundle<'_> {
    let mut bundle = host.bundle();
    bundle.config["linux"]["cgroupsPath"] = json!(format!(":kelson:{}", bundle.id));
    bundle.global_flags = vec!["--systemd-cgroup".into()];
    bundle
}

/// The same for user 1000.
fn scope_of_user(host: &Host) -> Bundle<'_> {
    let mut bundle = bundle_of_user(host);
    bundle.config["linux"]["cgroupsPath"] = json!(format!(":kelson:{}", bundle.id));
    bundle.global_flags = vec!["--systemd-cgroup".into()];
    bundle
}

fn unit(bundle: &Bundle<'_>) -> String {
    format!("kelson-{}.scope", bundle.id)
}

fn directory(bundle: &Bundle<'_>) -> PathBuf {
    Path::new("/sys/fs/cgroup/system.slice").join(unit(bundle))
}

fn file(bundle: &Bundle<'_>, name: &str) -> String {
    fs::read_to_string(directory(bundle).join(name)).unwrap().trim().to_owned()
}

/// What `systemctl show` has for these properties, one a line in systemd's order.
fn shown(host: &Host, unit: &str, properties: &str) -> String {
    host.command(["systemctl", "show", unit, "--property", properties]).run().ok().stdout
}

fn is_gone(host: &Host, unit: &str) -> bool {
    shown(host, unit, "LoadState").contains("LoadState=not-found")
}

#[test]
fn a_host_without_systemd_is_a_clear_error() {
    let host = Host::new();
    let mut bundle = scope(&host);
    if Path::new("/run/systemd/private").exists() {
        return skip("there is a systemd here");
    }
    bundle.run().fails_with("cannot reach systemd for the cgroups: /run/systemd/private: ENOENT; hint: this host does");
    bundle.global_flags = vec!["--cgroup-manager".into(), "systemd".into()];
    bundle.run().fails_with("cannot reach systemd");
    // After a shim's death the flag is missing, or there too much.
    bundle.global_flags.clear();
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.id));
    bundle.create().ok();
    host.kelson(["--systemd-cgroup", "delete", "--force", &bundle.id]).ok();
}

#[test]
fn a_path_that_names_no_scope_is_an_error() {
    let host = Host::new();
    let mut bundle = scope(&host);
    for (path, message) in [
        ("/plain", "slice:prefix:name"),
        ("a:b", "slice:prefix:name"),
        ("a-.slice:b:c", "no name of a slice"),
        ("a.slice:b:c.slice", "it is a scope"),
        ("a.slice:b:c/../d", "no name of a unit"),
    ] {
        bundle.config["linux"]["cgroupsPath"] = json!(path);
        let output = bundle.run();
        assert!(output.stderr.contains("(config.json /linux/cgroupsPath)"), "{path}: {output:?}");
        output.fails_with(message);
    }
}

#[test]
fn an_annotation_that_is_no_property_is_an_error() {
    let host = Host::new();
    let mut bundle = scope(&host);
    for (key, value) in [
        ("org.systemd.property.After", "crio.service"),
        ("org.systemd.property.PIDs", "[uint32 1]"),
        ("org.systemd.property.", "true"),
        ("org.systemd.property.TimeoutStopSec", "'soon'"),
        ("run.oci.systemd.subgroup", "../x"),
    ] {
        bundle.config["annotations"] = json!({ key: value });
        bundle.run().fails_with(&format!("(config.json /annotations/{key})"));
    }
}

/// A user's manager that says `answer` to every call, in the place where kelson looks for one. Returns what it was
/// sent.
fn with_manager(host: &Host, answer: impl Fn(u32) -> Vec<u8> + Send + 'static, wanted: &str) -> Vec<u8> {
    let run = host.temp.join("run");
    fs::create_dir_all(run.join("systemd")).unwrap();
    let listener = UnixListener::bind(run.join("systemd/private")).unwrap();
    for path in [&run, &run.join("systemd"), &run.join("systemd/private")] {
        chown(path, Some(UID), Some(UID)).unwrap();
    }
    let manager = std::thread::spawn(move || serve(&listener, answer));
    let output = scope_of_user(host).making("create", &[]).env("XDG_RUNTIME_DIR", &run).run();
    output.fails_with(wanted);
    // Ends the manager.
    drop(UnixStream::connect(run.join("systemd/private")));
    manager.join().unwrap()
}

fn serve(listener: &UnixListener, answer: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let mut all = Vec::new();
    for connection in listener.incoming() {
        let mut connection = connection.unwrap();
        connection.set_read_timeout(Some(seconds(10))).unwrap();
        let mut serial = 0;
        let mut bytes = [0; 16384];
        loop {
            match connection.read(&mut bytes) {
                Ok(0) | Err(_) if serial == 0 => return all,
                Ok(0) | Err(_) => break,
                Ok(count) => all.extend(&bytes[..count]),
            }
            if serial == 0 {
                connection.write_all(b"DATA\r\nOK 00\r\n").unwrap();
            }
            serial += 1;
            let answer = answer(serial);
            if answer.is_empty() || connection.write_all(&answer).is_err() {
                break;
            }
        }
    }
    all
}

/// An error as D-Bus has it, in answer to the call with this serial.
fn refusal(serial: u32, name: &str, text: &str) -> Vec<u8> {
    let number = |value: usize| (value as u32).to_le_bytes();
    let pad = |bytes: &mut Vec<u8>, to: usize| bytes.resize(bytes.len().next_multiple_of(to), 0);
    let mut fields = [&b"\x05\x01u\0"[..], &serial.to_le_bytes(), b"\x08\x01g\0\x01s\0\0", b"\x04\x01s\0"].concat();
    fields.extend(number(name.len()));
    fields.extend(name.bytes().chain([0]));
    let body = [&number(text.len())[..], text.as_bytes(), b"\0"].concat();
    let mut out = [b"l\x03\x01\x01", &number(body.len())[..], &number(1), &number(fields.len())].concat();
    out.extend(fields);
    pad(&mut out, 8);
    out.extend(body);
    out
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_manager_that_refuses_leaves_nothing() {
    let host = Host::new();
    let answer = |serial| refusal(serial, "org.freedesktop.DBus.Error.AccessDenied", "No.");
    let sent = with_manager(&host, answer, "cgroup: systemd refuses to start kelson-");
    assert!(contains(&sent, "StartTransientUnit") && !contains(&sent, "StopUnit"));
}

#[test]
fn a_manager_that_goes_away_leaves_nothing() {
    let host = Host::new();
    with_manager(&host, |_| Vec::new(), "cgroup: systemd closed the connection");
}

#[test]
fn a_manager_that_talks_nonsense_leaves_nothing() {
    let host = Host::new();
    with_manager(&host, |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "cgroup: systemd's answer cannot be read");
}

#[test]
fn a_unit_that_somebody_else_has_is_not_stopped() {
    let host = Host::new();
    // From the second on, a call comes with one before it that nobody waits for.
    let answer = |turn| refusal(2 * turn - 1, "org.freedesktop.systemd1.UnitExists", "It exists.");
    let sent = with_manager(&host, answer, "hint: see `systemctl status kelson-");
    assert!(contains(&sent, "ResetFailedUnit") && !contains(&sent, "StopUnit"));
}

#[test]
fn an_older_systemd_is_spared_what_it_does_not_know() {
    let host = Host::new();
    let answer = |serial| match serial {
        1 => refusal(1, "x.PropertyReadOnly", "Cannot set property CollectMode, or unknown property."),
        _ => refusal(serial, "x.PropertyReadOnly", "Cannot set property Slice, or unknown property."),
    };
    let sent = with_manager(&host, answer, "Cannot set property Slice");
    assert_eq!(String::from_utf8_lossy(&sent).matches("StartTransientUnit").count(), 2);
    assert_eq!(String::from_utf8_lossy(&sent).matches("CollectMode").count(), 1);
}

#[test]
fn the_container_is_a_scope_and_systemd_and_the_kernel_agree() {
    if !has_systemd() {
        return;
    }
    let host = Host::new();
    let mut bundle = scope(&host);
    bundle.config["linux"]["resources"] = json!({
        "memory": {"limit": 104_857_600, "swap": 104_857_600, "reservation": 10_485_760},
        "cpu": {"shares": 512, "quota": 20_000, "period": 50_000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 20},
        "unified": {"memory.high": "94371840"},
    });
    bundle.args(&["sleep", "60"]).up();
    assert_eq!(
        fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap().trim(),
        format!("0::/system.slice/{}", unit(&bundle))
    );
    let told = "MemoryMax,MemorySwapMax,MemoryLow,MemoryHigh,CPUWeight,CPUQuotaPerSecUSec,CPUQuotaPeriodUSec,\
        AllowedCPUs,AllowedMemoryNodes,TasksMax,Slice,Delegate,ActiveState,Description";
    let shown = shown(&host, &unit(&bundle), told);
    for wanted in [
        "MemoryMax=104857600",
        "MemorySwapMax=0",
        "MemoryLow=10485760",
        "MemoryHigh=94371840",
        "CPUWeight=59",
        "CPUQuotaPerSecUSec=400ms",
        "CPUQuotaPeriodUSec=50ms",
        "AllowedCPUs=0",
        "AllowedMemoryNodes=0",
        "TasksMax=20",
        "Slice=system.slice",
        "Delegate=yes",
        "ActiveState=active",
    ] {
        assert!(shown.lines().any(|line| line == wanted), "{wanted} is not in {shown}");
    }
    let check = || {
        for (name, wanted) in [
            ("memory.max", "104857600"),
            ("memory.swap.max", "0"),
            ("memory.low", "10485760"),
            ("memory.high", "94371840"),
            ("cpu.weight", "59"),
            ("cpu.max", "20000 50000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "20"),
        ] {
            assert_eq!(file(&bundle, name), wanted, "{name}");
        }
    };
    check();
    host.command(["systemctl", "daemon-reload"]).run().ok();
    check();
    // The driver is known from the state.
    bundle.kill("KILL").ok();
    host.reap_container(&bundle);
    bundle.delete(false).ok();
    assert!(is_gone(&host, &unit(&bundle)) && !directory(&bundle).exists());
}

#[test]
fn an_update_reaches_systemd_and_a_failed_one_neither() {
    if !has_systemd() {
        return;
    }
    let host = Host::new();
    let mut bundle = scope(&host);
    bundle.config["linux"]["resources"] = json!({"memory": {"limit": 104_857_600}, "pids": {"limit": 20}});
    bundle.args(&["sleep", "60"]).up();
    // Engines leave the flag out.
    host.kelson(["update", "--memory", "52428800", "--cpu-quota", "33000", "--cpu-period", "100000", &bundle.id]).ok();
    let values = || {
        let told = shown(&host, &unit(&bundle), "MemoryMax,TasksMax,CPUQuotaPerSecUSec");
        let files = ["memory.max", "pids.max", "cpu.max"].map(|name| file(&bundle, name));
        let wanted = ["MemoryMax=52428800", "TasksMax=20", "CPUQuotaPerSecUSec=330ms"];
        assert!(wanted.iter().all(|line| told.lines().any(|other| other == *line)), "{told}");
        assert_eq!(files, ["52428800", "20", "33000 100000"]);
    };
    values();
    let wrong = r#"{"memory": {"limit": 62914560}, "unified": {"memory.nonesuch": "1"}}"#;
    assert_eq!(host.call(["update", "-r", "-", &bundle.id]).stdin(wrong).run().code, 1);
    values();
    bundle.delete_by_force();
}

#[test]
fn limits_hold_in_a_scope() {
    if !has_systemd() {
        return;
    }
    let host = Host::new();
    let mut bundle = scope(&host);
    bundle.config["linux"]["resources"] = json!({
        "memory": {"limit": 33_554_432, "swap": 33_554_432}, "pids": {"limit": 5},
        "devices": [{"allow": false, "access": "rwm"}],
    });
    // Which process of several is killed is the kernel's choice.
    let output = bundle.args(&["/bin/probe", "memory", "64"]).run();
    assert!(output.code == 137 && output.stderr.contains("oom_kill 1"), "{output:?}");
    let forks = "i=0; while [ $i -lt 10 ]; do sleep 5 & i=$((i+1)); done; wait";
    let output = bundle.script(forks).run();
    assert!(output.code != 0 && output.stderr.contains("fork"), "{output:?}");
    bundle.config["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
    bundle.script("echo x >/dev/null && : </dev/kmsg");
    let output = bundle.run();
    assert!(output.code == 1 && output.stderr.contains("kmsg: Operation not permitted"), "{output:?}");
}

#[test]
fn devices_stay_as_they_are_when_systemd_reloads() {
    if !has_systemd() {
        return;
    }
    let host = Host::new();
    let mut bundle = scope(&host);
    bundle.config["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11},
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]);
    bundle.config["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]);
    let look = "while sleep 0.2; do (: </dev/fuse) && echo fuse; (: </dev/kmsg) && echo kmsg; done";
    bundle.script(look);
    let running = bundle.making("run", &[]).spawn();
    let count = || running.stdout().lines().filter(|line| *line == "fuse").count();
    wait_until("the container looks", || count() > 0);
    host.command(["systemctl", "daemon-reload"]).run().ok();
    let before = count();
    wait_until("the container has looked again", || count() > before + 2);
    assert!(!running.stdout().contains("kmsg"));
    bundle.delete_by_force();
    running.wait();
}

#[test]
fn annotations_set_properties_and_the_subgroup() {
    if !has_systemd() {
        return;
    }
    let host = Host::new();
    let mut bundle = scope(&host);
    bundle.config["annotations"] = json!({
        "org.systemd.property.TimeoutStopSec": "7",
        "org.systemd.property.After": "['dbus.service']",
        "org.systemd.property.CollectMode": "'inactive'",
        "org.systemd.property.DefaultDependencies": "true",
        "run.oci.systemd.subgroup": "container",
    });
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 104_857_600});
    bundle.config["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 2_097_152}]);
    bundle.args(&["sleep", "60"]).up();
    let shown = shown(&host, &unit(&bundle), "TimeoutStopUSec,After,CollectMode,DefaultDependencies,MemoryMax");
    for wanted in ["TimeoutStopUSec=7s", "CollectMode=inactive", "DefaultDependencies=yes", "MemoryMax=104857600"] {
        assert!(shown.lines().any(|line| line == wanted), "{wanted} is not in {shown}");
    }
    assert!(shown.contains("dbus.service"), "{shown}");
    assert_eq!(file(&bundle, "container/cgroup.procs"), bundle.pid().to_string());
    assert_eq!(file(&bundle, "container/memory.max"), "104857600");
    assert_eq!(file(&bundle, "container/hugetlb.2MB.max"), "2097152");
    bundle.delete_by_force();
    assert!(is_gone(&host, &unit(&bundle)) && !directory(&bundle).exists());
    bundle.config["annotations"] = json!({"org.systemd.property.Nonsense": "1"});
    bundle.run().fails_with("Cannot set property Nonsense, or unknown property");
}

#[test]
fn a_name_that_is_taken_is_refused_and_a_failed_unit_makes_way() {
    if !has_systemd() {
        return;
    }
    let host = Host::new();
    let mut bundle = scope(&host);
    let unit = unit(&bundle);
    let other = host.command(["systemd-run", "--scope", "--quiet", "--unit", &unit, "sleep", "60"]).spawn();
    wait_until("the other is there", || directory(&bundle).join("cgroup.procs").exists());
    // Seen by its cgroup that is in use.
    bundle.run().fails_with("not empty");
    assert!(shown(&host, &unit, "ActiveState").contains("=active"));
    host.command(["systemctl", "stop", &unit]).run().ok();
    other.wait();
    host.command(["systemctl", "reset-failed", &unit]).run();
    // Fails, and stays loaded.
    host.command(["systemd-run", "--scope", "--quiet", "--unit", &unit, "-p", "RuntimeMaxSec=1", "sleep", "60"]).run();
    wait_until("it has failed", || shown(&host, &unit, "ActiveState").contains("=failed"));
    bundle.args(&["echo", "hello"]);
    assert_eq!(bundle.run().ok().stdout, "hello\n");
    assert!(is_gone(&host, &unit));
}

#[test]
fn a_start_that_fails_leaves_no_scope() {
    if !has_systemd() {
        return;
    }
    let host = Host::new();
    let mut bundle = scope(&host);
    bundle.args(&["/nonesuch"]).run().fails_with("no such file or directory");
    assert!(is_gone(&host, &unit(&bundle)) && !directory(&bundle).exists());
    bundle.config["linux"]["resources"]["unified"] = json!({"memory.nonesuch": "1"});
    bundle.args(&["true"]).run().fails_with("memory.nonesuch");
    assert!(is_gone(&host, &unit(&bundle)) && !directory(&bundle).exists());
}

#[test]
fn a_runtime_that_is_killed_leaves_what_delete_removes_whole() {
    if !has_systemd() {
        return;
    }
    let host = Host::new();
    let mut bundle = scope(&host);
    bundle.args(&["sleep", "60"]);
    for delay in 0..12 {
        let running = bundle.making("create", &[]).spawn();
        std::thread::sleep(Duration::from_millis(40 * delay));
        running.signal(Signal::SIGKILL);
        running.wait();
        bundle.delete_by_force();
        wait_until("no scope is left", || is_gone(&host, &unit(&bundle)) && !directory(&bundle).exists());
    }
}

#[test]
fn a_scope_can_be_joined_by_containers_of_every_kind() {
    if !has_systemd() {
        return;
    }
    let host = Host::new();
    let with_users = || {
        let mut bundle = scope(&host);
        user_namespace(&mut bundle, 100_000);
        host.command(["chown", "-R", "100000:100000", bundle.path.to_str().unwrap()]).run().ok();
        bundle
    };
    let with_stage = || {
        let mut bundle = scope(&host);
        namespace(&mut bundle, "time", None);
        bundle
    };
    for mut bundle in [with_users(), with_stage()] {
        let wanted = format!("0::/system.slice/{}\n", unit(&bundle));
        bundle.args(&["sleep", "60"]).up();
        assert_eq!(fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap(), wanted);
        bundle.delete_by_force();
        assert!(is_gone(&host, &unit(&bundle)));
    }
}

#[test]
fn a_user_has_scopes_of_their_own_systemd() {
    if !has_systemd() {
        return;
    }
    if !Path::new("/run/user/1000/systemd/private").exists() {
        return skip("no systemd of user 1000 here");
    }
    let host = Host::new();
    let mut bundle = scope_of_user(&host);
    bundle.config["linux"]["resources"] = json!({"memory": {"limit": 104_857_600}, "pids": {"limit": 20}});
    bundle.args(&["sleep", "60"]).create().ok();
    let place = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    let wanted = format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/{}", unit(&bundle));
    assert_eq!(place.trim(), wanted);
    let directory = PathBuf::from(wanted.replace("0::", "/sys/fs/cgroup"));
    for (name, wanted) in [("memory.max", "104857600\n"), ("pids.max", "20\n")] {
        assert_eq!(fs::read_to_string(directory.join(name)).unwrap(), wanted);
    }
    host.call(["start", &bundle.id]).before(&bundle.wrapper).run().ok();
    // From a cgroup that is none of the user's there is no way into the scope.
    let exec = host.call(["exec", &bundle.id, "/bin/echo", "hello"]).before(&bundle.wrapper).run().ok();
    assert!(exec.stdout == "hello\n" && exec.stderr.contains("stays in the caller's cgroup"), "{exec:?}");
    host.call(["delete", "--force", &bundle.id]).before(&bundle.wrapper).run().ok();
    assert!(!directory.exists());
}
