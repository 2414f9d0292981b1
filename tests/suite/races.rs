//! The attacks that need a race: another container swaps parts of a volume that both have while the runtime works on
//! it. Each is run for a bounded number of rounds; what has to hold holds in every one.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Bundle, Host};
use crate::support::{Canary, race, replace_by_link};

/// How often each attack is tried: `KELSON_RACE_ROUNDS` for more.
fn rounds() -> usize {
    std::env::var("KELSON_RACE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// The mounts of the host's file system at whose places the host's own files would show: all but those of the test.
fn strangers(host: &Host, report: &Value) -> Vec<String> {
    let mounts = report["mounts"].as_array().unwrap();
    let device = &mounts.iter().find(|mount| mount["mountPoint"] == "/").unwrap()["device"];
    let roots = mounts.iter().filter(|mount| mount["device"] == *device).map(|mount| mount["root"].as_str().unwrap());
    roots.filter(|root| !root.contains(&host.name)).map(str::to_owned).collect()
}

/// A bundle with a volume in which the mount points `sub0`, `sub1`, … are to be made.
fn with_volume<'a>(host: &'a Host, count: usize, deep: &str) -> (Bundle<'a>, PathBuf) {
    let volume = host.temp.join("volume");
    fs::create_dir_all(&volume).unwrap();
    let mut bundle = host.bundle();
    fs::create_dir(bundle.rootfs.join("volume")).unwrap();
    bundle.mount("/volume", "bind", &volume, &["rbind"]);
    for number in 0..count {
        bundle.mount(&format!("/volume/{deep}sub{number}"), "tmpfs", "tmpfs", &[]);
    }
    (bundle, volume)
}

#[test]
fn cve_2021_30465_mount_points_that_are_swapped_with_links() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let (mut bundle, volume) = with_volume(&host, 4, "swapped/");
    let (directory, link) = (volume.join("swapped"), volume.join("link"));
    fs::create_dir(&directory).unwrap();
    for number in 0..4 {
        fs::create_dir(directory.join(format!("sub{number}"))).unwrap();
    }
    replace_by_link(&link, &canary.path);
    bundle.args(&["/bin/probe", "mounts"]);
    let racer = race(&host, &directory, &link);
    let mut worked = 0;
    for _ in 0..rounds() {
        let output = bundle.run();
        if output.code == 0 {
            worked += 1;
            assert_eq!(strangers(&host, &output.json()), [""; 0]);
        }
    }
    drop(racer);
    assert!(worked > 0, "no container was made at all");
    canary.is_untouched();
}

#[test]
fn cve_2021_30465_mount_points_that_are_swapped_with_a_link_to_the_root() {
    let host = Host::new();
    let (mut bundle, volume) = with_volume(&host, 3, "");
    let (directory, link) = (volume.join("sub0"), volume.join("link"));
    fs::create_dir(&directory).unwrap();
    replace_by_link(&link, Path::new("/../../../../../../.."));
    bundle.args(&["/bin/probe", "mounts"]);
    let racer = race(&host, &directory, &link);
    for _ in 0..rounds() {
        let output = bundle.run();
        if output.code == 0 {
            assert_eq!(strangers(&host, &output.json()), [""; 0]);
        }
    }
    drop(racer);
}

#[test]
fn cve_2024_45310_missing_mount_points_are_not_made_on_the_host() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let (mut bundle, volume) = with_volume(&host, 1, "swapped/a/b/");
    bundle.mount("/volume/swapped/file", "bind", "/etc/hostname", &["bind"]);
    let (directory, link) = (volume.join("swapped"), volume.join("link"));
    replace_by_link(&link, &canary.path);
    fs::create_dir(&directory).unwrap();
    let racer = race(&host, &directory, &link);
    for _ in 0..rounds() {
        bundle.run();
        for place in [&directory, &link] {
            let _ = fs::remove_dir_all(place.join("a"));
        }
    }
    drop(racer);
    canary.is_untouched();
}

#[test]
fn cve_2023_27561_proc_that_is_swapped_with_a_link() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let (proc, evil) = (bundle.rootfs.join("proc"), bundle.rootfs.join("evil"));
    let link = bundle.rootfs.join("link");
    fs::create_dir(&evil).unwrap();
    replace_by_link(&link, Path::new("evil"));
    bundle.args(&["/bin/probe", "mounts"]);
    let racer = race(&host, &proc, &link);
    for _ in 0..rounds() {
        let output = bundle.run();
        // The probe itself reads /proc, and fails where a swap came after the mount.
        let Ok(report) = serde_json::from_str::<Value>(&output.stdout) else { continue };
        let Some(mounts) = report["mounts"].as_array() else { continue };
        let on_evil = mounts.iter().filter(|mount| mount["mountPoint"].as_str().unwrap().starts_with("/evil"));
        assert_eq!(on_evil.count(), 0, "{report}");
        let masked =
            mounts.iter().filter(|mount| mount["mountPoint"] == "/proc/kcore" || mount["mountPoint"] == "/link/kcore");
        assert!(masked.count() > 0 || !Path::new("/proc/kcore").exists(), "{report}");
    }
    drop(racer);
}

#[test]
fn cve_2025_31133_a_null_device_that_is_swapped() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let volume = host.temp.join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(bundle.rootfs.join("etc/secret"), "secret").unwrap();
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    bundle.mount("/dev", "bind", &volume, &["rbind"]);
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret", "/proc/kcore"]);
    let (null, link) = (volume.join("null"), volume.join("link"));
    nix::sys::stat::mknod(
        &null,
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
        nix::sys::stat::makedev(1, 3),
    )
    .unwrap();
    replace_by_link(&link, Path::new("/proc/sys/kernel/core_pattern"));
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    bundle.script("cat /etc/secret; echo x > /etc/secret");
    let racer = race(&host, &null, &link);
    for _ in 0..rounds() {
        let output = bundle.run();
        assert!(output.stdout.is_empty() && output.code == 1, "{output:?}");
    }
    drop(racer);
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
}

#[test]
fn cve_2026_41579_dev_that_is_swapped_with_a_link() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let mut bundle = host.bundle();
    bundle.writable();
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] == "/proc");
    let (dev, link) = (bundle.rootfs.join("dev"), bundle.rootfs.join("link"));
    replace_by_link(&link, &canary.path);
    let outside = bundle.rootfs.join("outside");
    fs::create_dir(&outside).unwrap();
    let racer = race(&host, &dev, &link);
    for _ in 0..rounds() {
        bundle.run();
    }
    drop(racer);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    canary.is_untouched();
}

#[test]
fn cve_2024_21626_a_working_directory_that_is_swapped_stays_inside() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.writable();
    let (directory, link) = (bundle.rootfs.join("work"), bundle.rootfs.join("link"));
    fs::create_dir(&directory).unwrap();
    replace_by_link(&link, Path::new("/proc/self/fd/7"));
    bundle.config["process"]["cwd"] = json!("/work");
    bundle.script("pwd -P");
    let racer = race(&host, &directory, &link);
    for _ in 0..rounds() {
        let output = bundle.run();
        assert!(output.code == 1 || ["/work\n", "/link\n", "/\n"].contains(&output.stdout.as_str()), "{output:?}");
    }
    drop(racer);
}

/// A directory that looks like a procfs as far as the runtime writes to one.
fn fake_procfs(bundle: &Bundle<'_>) -> PathBuf {
    let fake = bundle.rootfs.join("fake");
    for file in FAKED {
        let path = fake.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "untouched\n").unwrap();
    }
    replace_by_link(&fake.join("self"), Path::new("1"));
    replace_by_link(&fake.join("thread-self"), Path::new("1"));
    fake
}

const FAKED: [&str; 6] =
    ["sys/net/ipv4/ping_group_range", "1/attr/exec", "1/attr/current", "1/oom_score_adj", "1/uid_map", "1/setgroups"];
const RANGE: &str = "/proc/sys/net/ipv4/ping_group_range";

/// Runs a container that sets a sysctl, while its procfs is raced; what was meant for procfs has to come there, and
/// nowhere else.
fn sysctl_reaches_procfs_only(bundle: &mut Bundle<'_>, fakes: &[PathBuf]) {
    let before = fs::read_to_string(RANGE).unwrap();
    bundle.config["linux"]["sysctl"] = json!({ "net.ipv4.ping_group_range": "5 7" });
    bundle.config["process"]["oomScoreAdj"] = json!(500);
    bundle.script(&format!("cat {RANGE} {} 2>/dev/null; exit 0", RANGE.replace("/proc/", "/fake/")));
    let mut worked = 0;
    for _ in 0..rounds() {
        let output = bundle.run();
        assert!(output.stdout.lines().all(|line| line == "5\t7" || line == "untouched"), "{output:?}");
        worked += i32::from(output.code == 0);
        for path in fakes.iter().flat_map(|fake| FAKED.map(|file| fake.join(file))) {
            let text = fs::read_to_string(&path);
            assert!(text.is_err() || text.is_ok_and(|text| text == "untouched\n"), "{}", path.display());
        }
        assert_eq!(fs::read_to_string(RANGE).unwrap(), before);
    }
    assert!(worked > 0, "no container was made at all");
}

#[test]
fn cve_2025_52881_a_procfs_that_is_swapped_gets_what_is_meant_for_it() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let fake = fake_procfs(&bundle);
    let proc = bundle.rootfs.join("proc");
    let racer = race(&host, &proc, &fake);
    sysctl_reaches_procfs_only(&mut bundle, &[proc, fake]);
    drop(racer);
}

/// Mounts of the host's that a test makes: gone when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        while nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).is_ok() {}
    }
}

#[test]
fn cve_2025_52881_a_mount_that_comes_over_procfs_meanwhile_gets_nothing() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let fake = fake_procfs(&bundle);
    let (rootfs, proc) = (bundle.rootfs.clone(), bundle.rootfs.join("proc"));
    // What is mounted here shows in the container while it is made: it is a slave.
    let script = format!(
        "mount --bind {0} {0} && mount --make-shared {0} && echo made && \
         while :; do mount --bind {0}/fake {0}/proc; mount --bind {0}/fake/sys {0}/proc/sys; umount -l {0}/proc; done",
        rootfs.display()
    );
    bundle.config["linux"]["rootfsPropagation"] = json!("slave");
    let mounted = Mounted(rootfs);
    let racer = host.command(["bash", "-c", &script]).spawn();
    crate::harness::wait_until("the rootfs is shared", || racer.stdout().contains("made"));
    sysctl_reaches_procfs_only(&mut bundle, &[fake]);
    drop(racer);
    // Its last mount(8) may still be at work.
    std::thread::sleep(std::time::Duration::from_millis(100));
    drop(Mounted(proc));
    drop(mounted);
}
