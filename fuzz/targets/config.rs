//! config.json to a plan: whatever the bytes are, there is a plan or an error, and nothing is touched.

#![no_main]

use std::path::Path;

use kelson::cgroup::Manager;
use kelson::plan::{Settings, plan};
use kelson::spec::{Spec, parse};
use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::Root;

fuzz_target!(|data: &[u8]| {
    kelson_fuzz::watch();
    let spec = parse::<Spec>(data);
    kelson_fuzz::show(&spec);
    let Ok(mut spec) = spec else { return };
    let settings = |manager| Settings { manager, ..Settings::default() };
    let bundle = Path::new("/tmp");
    kelson_fuzz::show(&plan(&spec, "fuzz", bundle, &settings(Manager::Cgroupfs)));
    // Hardly any rootfs that the input names is there: with one that is, for what comes after it.
    let mut root = Root::default();
    root.set_path("/".into()).set_readonly(spec.root.as_ref().and_then(Root::readonly));
    spec.root = Some(root);
    for manager in [Manager::Cgroupfs, Manager::Systemd] {
        kelson_fuzz::show(&plan(&spec, "fuzz", bundle, &settings(manager)));
    }
});
