//! Limits on what goes through a device: block devices, and those of RDMA.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Bundle, Host, View, skip};
use crate::limits::{has, read};

/// What has limits on block devices: the name differs.
fn io() -> &'static str {
    if View::current().is_v2() { "io" } else { "blkio" }
}

/// Block devices that have a disk, by their directories in /sys.
fn block_devices() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| number(path).is_some_and(|(major, _)| ![1, 7, 11].contains(&major)))
}

/// What cgroups call it: major and minor number.
fn number(device: &Path) -> Option<(u32, u32)> {
    let text = fs::read_to_string(device.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[test]
fn input_and_output_are_limited() {
    if !has(io()) {
        return;
    }
    let device = block_devices().next().and_then(|path| number(&path));
    let Some((major, minor)) = device else { return skip("there is no block device") };
    let entry = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["resources"]["blockIO"] = json!({
        "throttleReadBpsDevice": entry(1_048_576), "throttleWriteBpsDevice": entry(2_097_152),
        "throttleReadIOPSDevice": entry(30), "throttleWriteIOPSDevice": entry(40),
    });
    bundle.create().ok();
    let device = format!("{major}:{minor}");
    if View::current().is_v2() {
        assert_eq!(read(&bundle, "", "io.max"), format!("{device} rbps=1048576 wbps=2097152 riops=30 wiops=40"));
    } else {
        for (file, rate) in [("read_bps", 1_048_576), ("write_bps", 2_097_152), ("read_iops", 30), ("write_iops", 40)] {
            let text = read(&bundle, "blkio", &format!("blkio.throttle.{file}_device"));
            assert_eq!(text, format!("{device} {rate}"), "{file}");
        }
    }
    bundle.delete_by_force();
}

/// The file with the weight of the container's input and output, which depends on the schedulers that the kernel has.
fn weight_file(bundle: &Bundle<'_>) -> &'static str {
    let directory = bundle.cgroup(io());
    let files = ["blkio.weight", "blkio.bfq.weight", "io.bfq.weight", "io.weight"];
    files.into_iter().find(|file| directory.join(file).exists()).unwrap()
}

#[test]
fn input_and_output_have_a_weight() {
    if !has(io()) {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.config["linux"]["resources"]["blockIO"] = json!({"weight": 500});
    bundle.create().ok();
    let file = weight_file(&bundle);
    let weight = if file == "io.weight" { "4950" } else { "500" };
    let text = read(&bundle, io(), file);
    assert!([weight.to_owned(), format!("default {weight}")].contains(&text), "{file}: {text}");
    bundle.delete_by_force();
}

/// Whether a block device takes weights in such a file: it needs the scheduler BFQ, or a model of its costs.
fn takes_weights(device: &Path, file: &str) -> bool {
    let number = fs::read_to_string(device.join("dev")).unwrap_or_default();
    let models = fs::read_to_string("/sys/fs/cgroup/io.cost.qos").unwrap_or_default();
    match file {
        "io.weight" => models.lines().any(|line| line.starts_with(&format!("{} enable=1", number.trim()))),
        _ => scheduler(device) == "bfq",
    }
}

/// The one in use.
fn scheduler(device: &Path) -> String {
    let text = fs::read_to_string(device.join("queue/scheduler")).unwrap_or_default();
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(name, _)| name).to_owned()
}

/// A loop device that nobody uses, with the scheduler BFQ as long as this lives.
struct Borrowed {
    device: PathBuf,
    before: String,
}

impl Borrowed {
    fn find() -> Option<Self> {
        let entries = fs::read_dir("/sys/block").ok()?.flatten().map(|entry| entry.path());
        let is_idle = |path: &PathBuf| number(path).is_some_and(|(major, _)| major == 7) && !path.join("loop").exists();
        let mut found = entries.filter(is_idle).map(|device| Self { before: scheduler(&device), device });
        found.find(|found| fs::write(found.device.join("queue/scheduler"), "bfq").is_ok())
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let _ = fs::write(self.device.join("queue/scheduler"), &self.before);
    }
}

#[test]
fn a_single_device_has_a_weight() {
    if !has(io()) {
        return;
    }
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.create().ok();
    let file = weight_file(&bundle);
    bundle.delete_by_force();
    let of_devices = if View::current().is_v2() { file.to_owned() } else { format!("{file}_device") };
    let mut set = |device: &Path| {
        let (major, minor) = number(device).unwrap();
        bundle.config["linux"]["resources"]["blockIO"] =
            json!({"weight": 500, "weightDevice": [{"major": major, "minor": minor, "weight": 300}]});
        bundle.create()
    };
    if let Some(device) = block_devices().find(|path| !takes_weights(path, file)) {
        let output = set(&device);
        assert!(output.stderr.contains("/linux/resources/blockIO/weightDevice/0"), "{output:?}");
        output.fails_with(&format!("{of_devices}: EOPNOTSUPP"));
    }
    let own = block_devices().find(|path| takes_weights(path, file));
    let borrowed = if own.is_none() && file != "io.weight" { Borrowed::find() } else { None };
    let Some(device) = own.or(borrowed.as_ref().map(|borrowed| borrowed.device.clone())) else {
        return skip("no block device takes a weight");
    };
    set(&device).ok();
    let (major, minor) = number(&device).unwrap();
    let wanted = format!("{major}:{minor} {}", if file == "io.weight" { 2930 } else { 300 });
    let text = read(&bundle, io(), &of_devices);
    assert!(text.lines().any(|line| line == wanted), "{of_devices}: {text}");
    bundle.delete_by_force();
}

/// Gives the container limits on RDMA; what the kernel then has for `device`.
fn rdma(bundle: &mut Bundle<'_>, limits: &Value, device: &str) -> String {
    bundle.config["linux"]["resources"]["rdma"] = json!({ device: limits });
    bundle.create().ok();
    line_of(bundle, device)
}

fn line_of(bundle: &Bundle<'_>, device: &str) -> String {
    let text = read(bundle, "rdma", "rdma.max");
    text.lines().find(|line| line.starts_with(&format!("{device} "))).unwrap_or_default().to_owned()
}

#[test]
fn rdma_is_limited() {
    if !has("rdma") {
        return;
    }
    let devices = fs::read_dir("/sys/class/infiniband").into_iter().flatten().flatten();
    let Some(device) = devices.map(|entry| entry.file_name().into_string().unwrap()).next() else {
        return skip("there is no RDMA device: rdma link add rxe0 type rxe netdev eth0");
    };
    let host = Host::new();
    let mut bundle = host.bundle();
    for (limits, wanted) in [
        (json!({"hcaHandles": 3, "hcaObjects": 10_000}), "hca_handle=3 hca_object=10000"),
        (json!({"hcaObjects": 7}), "hca_handle=max hca_object=7"),
    ] {
        assert_eq!(rdma(&mut bundle, &limits, &device), format!("{device} {wanted}"));
        bundle.delete_by_force();
    }
    let before = rdma(&mut bundle, &json!({"hcaHandles": 3}), &device);
    let update = |asked: Value| host.call(["update", "-r", "-", &bundle.id]).stdin(asked.to_string()).run();
    update(json!({"rdma": {&device: {"hcaHandles": 4}, "nonesuch0": {"hcaHandles": 1}}})).fails_with("rdma/nonesuch0");
    assert_eq!(line_of(&bundle, &device), before, "all or nothing");
    update(json!({"rdma": {&device: {"hcaObjects": 4}}})).ok();
    assert_eq!(line_of(&bundle, &device), format!("{device} hca_handle=3 hca_object=4"));
    bundle.delete_by_force();
    bundle.config["linux"]["resources"]["rdma"] = json!({"nonesuch0": {"hcaHandles": 1}});
    let output = bundle.create();
    assert!(output.stderr.contains("(config.json /linux/resources/rdma/nonesuch0)"), "{output:?}");
    output.fails_with("there is no such RDMA device");
}
