//! Entries of `mounts`: the first line is the destination, then type and source, and each further one an option.

#![no_main]

use std::path::Path;

use kelson::mount::idmap::IdMap;
use kelson::mount::{Surroundings, options, plan};
use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::Mount;

fuzz_target!(|data: &str| {
    kelson_fuzz::watch();
    let mut lines = data.lines().map(str::to_owned);
    let mut mount = Mount::default();
    mount.set_destination(lines.next().unwrap_or_default().into());
    mount.set_typ(lines.next().filter(|kind| !kind.is_empty()));
    mount.set_source(lines.next().filter(|source| !source.is_empty()).map(Into::into));
    let rest: Vec<_> = lines.collect();
    let parsed = options::parse(&rest);
    assert!(parsed.data.iter().all(|data| rest.contains(data)), "data comes from the options");
    mount.set_options(Some(rest));
    let map = IdMap::new(&[], &[]);
    for (mount_label, container_map, is_shared) in [("", None, false), ("system_u:object_r:x", Some(&map), true)] {
        let around = Surroundings { bundle: Path::new("/tmp"), mount_label, container_map, is_shared };
        kelson_fuzz::show(&plan(0, &mount, &around));
    }
});
