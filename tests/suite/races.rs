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
