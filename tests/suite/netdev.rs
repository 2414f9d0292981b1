//! config-linux.md, "Network Devices".

use serde_json::{Value, json};

use crate::harness::{Host, skip};
use crate::support::{Neighbour, fails_at, namespace};

/// A pair of virtual devices on the host, gone when dropped.
struct Pair<'a> {
    host: &'a Host,
    name: String,
}

impl<'a> Pair<'a> {
    fn new(host: &'a Host) -> Option<Self> {
        let name = format!("kt{}", std::process::id());
        let peer = format!("{name}p");
        if host.command(["ip", "link", "add", &name, "type", "veth", "peer", "name", &peer]).run().code != 0 {
            skip("no veth devices here");
            return None;
        }
        let pair = Self { host, name };
        for words in [
            ["addr", "add", "10.99.8.7/24", "dev", &pair.name],
            ["addr", "add", "fd00:99::1/64", "dev", &pair.name],
            ["link", "set", "mtu", "1400", &pair.name],
            ["link", "set", &peer, "up", ""],
        ] {
            let words = words.iter().filter(|word| !word.is_empty());
            host.command(["ip"].iter().chain(words).copied().collect::<Vec<_>>()).run().ok();
        }
        Some(pair)
    }

    fn is_here(&self) -> bool {
        std::path::Path::new("/sys/class/net").join(&self.name).exists()
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        // The end that has not moved takes the other with it.
        self.host.command(["ip", "link", "del", &format!("{}p", self.name)]).run();
    }
}

/// Runs with the device in the container, and returns what `ip` shows there.
fn moved(host: &Host, pair: &Pair<'_>, device: &Value) -> String {
    let mut bundle = host.bundle();
    bundle.config["linux"]["netDevices"] = json!({ pair.name.clone(): device });
    std::os::unix::fs::symlink("busybox", bundle.rootfs.join("bin/ip")).unwrap();
    bundle.script("ip addr").run().ok().stdout
}

#[test]
fn a_device_arrives_with_its_addresses_and_is_up() {
    let host = Host::new();
    for (device, name) in [(json!({}), ""), (json!({ "name": "inner" }), "inner"), (json!({ "name": "eth%d" }), "eth0")]
    {
        let Some(pair) = Pair::new(&host) else { return };
        let shown = moved(&host, &pair, &device);
        let name = if name.is_empty() { pair.name.as_str() } else { name };
        for text in [&format!(": {name}@"), ",UP", "mtu 1400", "10.99.8.7/24", "fd00:99::1/64"] {
            assert!(shown.contains(text), "{text}: {shown}");
        }
        assert!(!pair.is_here());
    }
}

#[test]
fn a_device_goes_to_a_namespace_that_is_joined() {
    let host = Host::new();
    let Some(pair) = Pair::new(&host) else { return };
    let neighbour = Neighbour::new(&host, &["--net"]);
    let mut bundle = host.bundle();
    namespace(&mut bundle, "network", Some(&neighbour.path("net")));
    bundle.config["linux"]["netDevices"] = json!({ pair.name.clone(): { "name": "joined" } });
    bundle.script("grep -q joined /proc/net/dev").run().ok();
    assert!(!pair.is_here());
}

#[test]
fn a_device_that_cannot_be_moved_stays_where_it_is() {
    let host = Host::new();
    let Some(pair) = Pair::new(&host) else { return };
    let own = format!("/linux/netDevices/{}", pair.name);
    for (devices, pointer) in [
        (json!({ "nowhere0": {} }), "/linux/netDevices/nowhere0".to_owned()),
        (json!({ pair.name.clone(): {}, "nowhere0": {} }), "/linux/netDevices/nowhere0".to_owned()),
        (json!({ pair.name.clone(): { "name": "lo" } }), format!("{own}/name")),
        (json!({ pair.name.clone(): { "name": "a/b" } }), format!("{own}/name")),
        (json!({ pair.name.clone(): { "name": "" } }), format!("{own}/name")),
        (json!({ pair.name.clone(): { "name": "longer-than-fits" } }), format!("{own}/name")),
        (json!({ "lo": {} }), "/linux/netDevices/lo".to_owned()),
    ] {
        let mut bundle = host.bundle();
        bundle.config["linux"]["netDevices"] = devices;
        fails_at(&bundle.run(), &pointer);
        assert!(pair.is_here(), "{pointer}");
    }
    let mut bundle = host.bundle();
    bundle.share("network");
    bundle.config["linux"]["netDevices"] = json!({ pair.name.clone(): {} });
    fails_at(&bundle.run(), "/linux/netDevices");
    assert!(pair.is_here());
}
