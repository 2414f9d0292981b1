//! Files of `update --resources`, for a host of each kind.

#![no_main]

use kelson::cgroup::devices;
use kelson::cgroup::layout::{Hierarchy, Layout};
use kelson::cgroup::resources::merge::{merge, to_json};
use kelson::cgroup::resources::{plan, plan_update};
use kelson::spec::{Resources, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    kelson_fuzz::watch();
    let asked = parse::<Resources>(data);
    kelson_fuzz::show(&asked);
    let Ok(asked) = asked else { return };
    let merged = merge(&Resources::default(), &asked);
    kelson_fuzz::show(&merged);
    kelson_fuzz::show(&devices::plan(&asked.devices));
    for layout in layouts() {
        kelson_fuzz::show(&plan(&asked, &layout));
        if let Ok(merged) = &merged {
            kelson_fuzz::show(&plan_update(&asked, merged, &layout));
        }
    }
    let Ok(merged) = merged else { return };
    let again = merge(&merged, &asked).expect("what was merged once can be merged again");
    assert_eq!(to_json(&merged).ok(), to_json(&again).ok(), "the same once more changes nothing");
});

/// v1, hybrid and v2.
fn layouts() -> [Layout; 3] {
    let v1 =
        ["cpu", "cpuset", "memory", "devices", "pids", "blkio", "hugetlb", "net_cls", "net_prio", "rdma", "freezer"];
    let of = |name: &str| Hierarchy {
        mount_point: format!("/sys/fs/cgroup/{name}").into(),
        controllers: vec![name.to_owned()],
        rest: Vec::new(),
    };
    let unified = |at: &str| Hierarchy::unified(at.into());
    let all: Vec<_> = v1.map(of).into();
    let mut hybrid = all.clone();
    hybrid.retain(|hierarchy| hierarchy.name() != "hugetlb");
    hybrid.push(Hierarchy { rest: vec!["hugetlb".to_owned()], ..unified("/sys/fs/cgroup/unified") });
    [
        Layout { unified: false, hierarchies: all },
        Layout { unified: false, hierarchies: hybrid },
        Layout { unified: true, hierarchies: vec![unified("/sys/fs/cgroup")] },
    ]
}
