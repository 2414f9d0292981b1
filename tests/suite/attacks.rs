//! Known attacks on container runtimes by way of what an image holds, each by its name: the runtime fails and leaves
//! nothing, or does what is asked inside the container. Their raced forms are in `races`.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde_json::json;

use crate::harness::{Bundle, Host, is_alive, program};
use crate::support::{Canary, fails_at, replace_by_link, set, stat};

/// Leaves only these mounts of the default ones.
fn keep_mounts(bundle: &mut Bundle<'_>, kept: &[&str]) {
    let list = bundle.config["mounts"].as_array_mut().unwrap();
    list.retain(|mount| kept.iter().any(|destination| mount["destination"] == *destination));
}

#[test]
fn cve_2015_3627_nothing_is_mounted_over_what_procfs_is_trusted_for() {
    let host = Host::new();
    for destination in [
        "/proc/self/attr/exec",
        "/proc/sys",
        "/proc/sys/kernel/core_pattern",
        "/proc/net/dev",
        "/proc/1/attr",
        "/proc/../proc/self",
        "proc/sysrq-trigger",
    ] {
        for (kind, source, option) in [("bind", "/dev/null", "bind"), ("tmpfs", "tmpfs", "ro")] {
            let mut bundle = host.bundle();
            bundle.mount(destination, kind, source, &[option]);
            fails_at(&bundle.run(), "/mounts/7/destination");
        }
    }
    let mut bundle = host.bundle();
    fs::write(bundle.path.join("file"), "covered").unwrap();
    for file in ["cpuinfo", "meminfo", "stat", "uptime", "loadavg", "swaps", "diskstats"] {
        bundle.mount(&format!("/proc/{file}"), "bind", "file", &["bind"]);
    }
    assert_eq!(bundle.args(&["/bin/cat", "/proc/meminfo", "/proc/stat"]).run().ok().stdout, "coveredcovered");
}

#[test]
fn cve_2019_18837_a_link_as_mount_point_stays_inside() {
    let host = Host::new();
    let canary = Canary::new(&host);
    for link in ["../../canary", "../../../../../../../../../../../..", canary.path.to_str().unwrap()] {
        let mut bundle = host.bundle();
        symlink(link, bundle.rootfs.join("link")).unwrap();
        bundle.mount("/link/sub", "tmpfs", "tmpfs", &[]).mount("/link/new/deep", "tmpfs", "tmpfs", &[]);
        bundle.config["linux"]["devices"] = json!([{ "path": "/link/device", "type": "c", "major": 1, "minor": 3 }]);
        bundle.run().ok();
        canary.is_untouched();
    }
}

#[test]
fn cve_2019_5736_the_hosts_binary_cannot_be_written_through_proc() {
    let host = Host::new();
    let binary = program("kelson");
    let before = fs::metadata(&binary).unwrap();
    let bundle = host.bundle();
    bundle.create().ok();
    let exe = format!("/proc/{}/exe", bundle.pid());
    let held = open(exe.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    let pid = bundle.pid();
    bundle.start().ok();
    host.reap(pid);
    let again = format!("/proc/self/fd/{}", held.as_raw_fd());
    for flags in [OFlag::O_WRONLY, OFlag::O_RDWR, OFlag::O_WRONLY | OFlag::O_TRUNC] {
        let refused = open(again.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty()).unwrap_err();
        assert!(matches!(refused, Errno::EROFS | Errno::ETXTBSY | Errno::EPERM | Errno::EACCES), "{refused}");
    }
    drop(held);
    bundle.delete_by_force();
    let after = fs::metadata(&binary).unwrap();
    assert_eq!((after.ino(), after.len(), after.mtime_nsec()), (before.ino(), before.len(), before.mtime_nsec()));
}

#[test]
fn cve_2019_5736_the_runtime_as_the_containers_program_is_a_copy() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let script = bundle.rootfs.join("bin/entry");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for entry in ["/proc/self/exe", "/bin/entry"] {
        let output = bundle.args(&[entry, "--version"]).run();
        assert!(output.code <= 3, "{output:?}");
    }
}

#[test]
fn cve_2019_16884_only_procfs_is_mounted_on_proc() {
    let host = Host::new();
    let fake = host.temp.join("fake");
    fs::create_dir_all(fake.join("self/attr")).unwrap();
    fs::write(fake.join("self/attr/exec"), "unwritten").unwrap();
    for (kind, source, option) in [("tmpfs", "tmpfs", "ro"), ("bind", fake.to_str().unwrap(), "bind")] {
        let mut bundle = host.bundle();
        keep_mounts(&mut bundle, &["/dev"]);
        bundle.mount("/proc", kind, source, &[option]);
        let output = bundle.run();
        assert!(output.code == 1 && output.stderr.contains("not procfs"), "{output:?}");
    }
    assert_eq!(fs::read_to_string(fake.join("self/attr/exec")).unwrap(), "unwritten");
}

#[test]
fn cve_2019_19921_a_link_for_proc_or_sys_is_not_followed() {
    let host = Host::new();
    let canary = Canary::new(&host);
    for name in ["proc", "sys"] {
        for target in [Path::new("/evil"), &canary.path, Path::new("evil")] {
            let bundle = host.bundle();
            fs::create_dir_all(bundle.rootfs.join("evil")).unwrap();
            replace_by_link(&bundle.rootfs.join(name), target);
            let output = bundle.run();
            assert!(output.code == 1 && output.stderr.contains("ELOOP"), "{name}: {output:?}");
            assert_eq!(fs::read_dir(bundle.rootfs.join("evil")).unwrap().count(), 0);
        }
    }
    canary.is_untouched();
}

#[test]
fn cve_2021_43784_an_overlong_namespace_path_is_an_error() {
    let host = Host::new();
    for length in [4096, 65_530, 65_536, 70_000] {
        let mut bundle = host.bundle();
        let path = format!("/proc/self/ns/{}ipc", "./".repeat(length / 2));
        crate::support::namespace(&mut bundle, "ipc", Some(&path));
        let output = bundle.run();
        assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{length}");
        assert!(output.stderr.contains("ENAMETOOLONG"), "{length}");
    }
}

#[test]
fn cve_2022_0492_the_default_container_cannot_change_its_cgroups() {
    let host = Host::new();
    let mut bundle = host.bundle();
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = json!(["CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER"]);
    }
    let script = "cd /sys/fs/cgroup; for file in $(ls -d */release_agent */notify_on_release */cgroup.procs \
        cgroup.procs cgroup.subtree_control 2>/dev/null); do echo 1 2>/dev/null > $file && echo $file; done; \
        mkdir new 2>/dev/null && echo new; true";
    assert_eq!(bundle.script(script).run().ok().stdout, "");
}

#[test]
fn cve_2022_0811_parameters_of_the_host_stay() {
    let host = Host::new();
    let read = || fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let before = read();
    for key in [
        "kernel.core_pattern",
        "kernel/core_pattern",
        "net/../kernel/core_pattern",
        "net.ipv4.ip_forward+kernel.core_pattern",
        "net.ipv4.x\nkernel.core_pattern",
        "/proc/sys/kernel/core_pattern",
        "fs.mqueue.../../kernel/core_pattern",
        "vm.swappiness",
        "kernel.hostname",
        "",
    ] {
        let mut bundle = host.bundle();
        bundle.config["linux"]["sysctl"] = json!({ key: "|/evil" });
        let output = bundle.run();
        assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{key:?}: {output:?}");
        assert!(output.stderr.contains("(config.json /linux/sysctl/"), "{output:?}");
    }
    let mut bundle = host.bundle();
    bundle.config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1\n|/evil" });
    fails_at(&bundle.run(), "/linux/sysctl/net.ipv4.ip_forward");
    bundle.config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    bundle.share("network");
    fails_at(&bundle.run(), "/linux/sysctl/net.ipv4.ip_forward");
    assert_eq!(read(), before);
}

/// A rootfs whose /dev is a volume, as an image or another container may have left it.
fn with_own_dev<'a>(host: &'a Host, prepare: &dyn Fn(&Path)) -> Bundle<'a> {
    let mut bundle = host.bundle();
    keep_mounts(&mut bundle, &["/proc", "/sys"]);
    bundle.writable();
    let dev = host.temp.join("dev-volume");
    let _ = fs::remove_dir_all(&dev);
    fs::create_dir(&dev).unwrap();
    prepare(&dev);
    bundle.mount("/dev", "tmpfs", "tmpfs", &["tmpcopyup", "mode=755"]);
    replace_by_link(&bundle.rootfs.join("unused"), Path::new("unused"));
    fs::remove_dir(bundle.rootfs.join("dev")).unwrap();
    fs::rename(&dev, bundle.rootfs.join("dev")).unwrap();
    bundle
}

#[test]
fn cve_2025_31133_masks_do_not_depend_on_the_containers_null_device() {
    let host = Host::new();
    let bundle = with_own_dev(&host, &|dev| symlink("/proc/sys/kernel/core_pattern", dev.join("null")).unwrap());
    let output = bundle.run();
    assert!(output.code == 1 && output.stderr.contains("another file is where a device belongs"), "{output:?}");
    let bundle = with_own_dev(&host, &|dev| fs::write(dev.join("null"), "").unwrap());
    bundle.run().fails_with("another file is where a device belongs");
    let mut bundle = with_own_dev(&host, &|_| {});
    fs::write(bundle.rootfs.join("etc/secret"), "secret").unwrap();
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret", "/proc/kcore", "/etc/directory"]);
    fs::create_dir(bundle.rootfs.join("etc/directory")).unwrap();
    for (path, kind) in [("/etc/secret", "file"), ("/etc/directory", "directory")] {
        let seen = stat(&mut bundle, path);
        assert_eq!((&seen["type"], &seen["fsMagic"]), (&json!(kind), &json!("0x1021994")), "{path}");
        assert!(seen["flags"].as_array().unwrap().contains(&json!("ro")));
    }
    let script = "cat /etc/secret; ls /etc/directory; echo x > /proc/sys/kernel/core_pattern";
    let output = bundle.script(script).run();
    assert_eq!((output.code, output.stdout.as_str()), (1, ""));
}

#[test]
fn cve_2026_41579_a_link_for_dev_is_not_followed() {
    let host = Host::new();
    let canary = Canary::new(&host);
    for target in [Path::new("/outside-dev"), &canary.path] {
        let mut bundle = host.bundle();
        let outside = bundle.rootfs.join("outside-dev");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("ptmx"), "marker").unwrap();
        replace_by_link(&bundle.rootfs.join("dev"), target);
        for kept in [&["/proc", "/dev", "/dev/pts"][..], &["/proc", "/dev/pts"], &["/proc"]] {
            keep_mounts(&mut bundle, kept);
            let output = bundle.run();
            assert!(output.code == 1 && output.stderr.contains("ELOOP"), "{kept:?}: {output:?}");
        }
        assert_eq!(fs::read_to_string(outside.join("ptmx")).unwrap(), "marker");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
    canary.is_untouched();
}

#[test]
fn cve_2026_47766_links_in_dev_are_not_followed() {
    let host = Host::new();
    let canary = Canary::new(&host);
    for name in ["pts", "shm", "mqueue"] {
        let mut bundle = host.bundle();
        let list = bundle.config["mounts"].as_array_mut().unwrap();
        list.retain(|mount| mount["destination"] != "/dev");
        bundle.writable();
        replace_by_link(&bundle.rootfs.join("dev").join(name), &canary.path);
        let output = bundle.run();
        assert!(output.code == 1 && output.stderr.contains("ELOOP"), "{name}: {output:?}");
        canary.is_untouched();
    }
    let mut bundle = host.bundle();
    keep_mounts(&mut bundle, &["/proc"]);
    bundle.writable();
    for name in ["fd", "stdin", "core", "ptmx", "console"] {
        canary.link_from(&bundle.rootfs.join("dev").join(name));
    }
    bundle.run().ok();
    canary.is_untouched();
}

#[test]
fn cve_2025_24965_the_runtime_writes_nothing_into_the_rootfs() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let bundle = host.bundle();
    for name in [".dockerenv", "run", "config.json", "etc/hostname", "etc/resolv.conf", "etc/mtab", "core", ".kelson"] {
        canary.link_from(&bundle.rootfs.join(name));
    }
    let files = |bundle: &Bundle<'_>| {
        let mut names: Vec<_> =
            fs::read_dir(&bundle.rootfs).unwrap().flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let before = files(&bundle);
    bundle.run().ok();
    assert_eq!(files(&bundle), before);
    for name in ["dev", "proc", "sys", "tmp", "var"] {
        assert_eq!(fs::read_dir(bundle.rootfs.join(name)).unwrap().count(), 0, "{name}");
    }
    canary.is_untouched();
}

#[test]
fn ghsa_5g49_names_that_become_cgroup_files_are_names() {
    let host = Host::new();
    for (place, value) in [
        ("/linux/resources/hugepageLimits", json!([{ "pageSize": "2MB/../../x", "limit": 1 }])),
        ("/linux/resources/unified", json!({ "../cgroup.kill": "1" })),
        ("/linux/resources/unified", json!({ "a/b": "1" })),
        ("/linux/cgroupsPath", json!("/../../x")),
        ("/linux/cgroupsPath", json!("../x")),
    ] {
        let mut bundle = host.bundle();
        set(&mut bundle.config, place, value.clone());
        let output = bundle.run();
        assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{value}: {output:?}");
        assert!(output.stderr.contains(&format!("(config.json {place}")), "{output:?}");
    }
}

#[test]
fn an_id_is_no_path() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let long = "x".repeat(5000);
    for id in ["", ".", "..", "a/b", "../../x", "a\n", "/etc", "a b", long.as_str()] {
        id.clone_into(&mut bundle.id);
        let output = bundle.run();
        assert_ne!(output.code, 0, "{id:?}");
        assert!(fs::read_dir(&host.root).map_or(true, |mut entries| entries.next().is_none()), "{id:?}");
    }
    host.bare(["--root", "/", "state", "etc"]).run().fails_with("another --root");
}

#[test]
fn cve_2020_15257_no_abstract_socket_is_there_to_connect_to() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.share("network");
    let abstract_sockets = || {
        let table = fs::read_to_string("/proc/net/unix").unwrap();
        table.lines().filter(|line| line.contains(" @")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = abstract_sockets();
    bundle.create().ok();
    assert_eq!(abstract_sockets(), before);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&host.root), mode(&host.root.join(&bundle.id))), (0o711, 0o700));
    assert_eq!(mode(&bundle.state_path("state.json")), 0o600);
    bundle.delete_by_force();
}

#[test]
fn a_stale_process_id_is_not_signalled() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.create().ok();
    let path = bundle.state_path("state.json");
    let kept = fs::read(&path).unwrap();
    // Start times are told apart by the tick of a hundredth of a second.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let mut other = host.command(["sleep", "60"]).spawn();
    let mut state: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    state["init"]["pid"] = json!(other.pid());
    fs::write(&path, state.to_string()).unwrap();
    assert_eq!(bundle.status(), "stopped");
    bundle.kill("KILL").fails_with("container not running");
    fs::write(&path, &kept).unwrap();
    bundle.delete_by_force();
    assert!(is_alive(other.pid()));
    other.signal(nix::sys::signal::Signal::SIGKILL);
    other = host.command(["true"]).spawn();
    other.wait();
}

#[test]
fn json_bombs_are_small_errors() {
    let host = Host::new();
    let bundle = host.bundle();
    bundle.write_config();
    let config = bundle.path.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let deep = format!("{{\"linux\":{}", "[".repeat(100_000));
    for bomb in
        [deep, text.replace("\"rootfs\"", "\"root\\u0000fs\""), "{\"hostname\":\"\u{fffd}".to_owned(), String::new()]
    {
        fs::write(&config, bomb).unwrap();
        let output = host.kelson(["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output:?}");
        assert!(output.stderr.len() < 1000, "{}", output.stderr.len());
    }
    File::create(&config).unwrap().set_len(1 << 32).unwrap();
    let call = host.call(["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    call.before(["prlimit", "--as=268435456"]).run().fails_with("longer than 16 MiB");
}
