use serde_json::json;

use super::convert::{io_weight, weight};
use super::merge::{merge, to_json};
use super::*;
use crate::cgroup::layout::Hierarchy;

fn v1() -> Layout {
    let controllers = ["memory", "cpu", "cpuset", "pids", "blkio", "hugetlb", "rdma", "net_cls", "net_prio"];
    let hierarchy = |name: &str| Hierarchy {
        mount_point: format!("/sys/fs/cgroup/{name}").into(),
        controllers: vec![name.to_owned()],
        rest: vec![],
    };
    Layout { unified: false, hierarchies: controllers.map(hierarchy).to_vec() }
}

fn v2() -> Layout {
    Layout { unified: true, hierarchies: vec![Hierarchy::unified("/sys/fs/cgroup".into())] }
}

/// v1 but for huge pages.
fn hybrid() -> Layout {
    let mut layout = v1();
    layout.hierarchies.retain(|hierarchy| hierarchy.controllers != ["hugetlb"]);
    let unified = Hierarchy::unified("/sys/fs/cgroup/unified".into());
    layout.hierarchies.push(Hierarchy { rest: vec!["hugetlb".to_owned()], ..unified });
    layout
}

fn resources(json: &str) -> Resources {
    serde_json::from_str(json).unwrap()
}

/// The writes as `FILE=VALUE`.
fn written(json: &str, layout: &Layout) -> Vec<String> {
    show(&plan(&resources(json), layout).unwrap_or_else(|error| panic!("{json}: {error}")))
}

fn show(writes: &[Write]) -> Vec<String> {
    let line = |(file, value): (&String, &String)| format!("{file}={value}");
    writes
        .iter()
        .map(|write| {
            let instead = write.instead.as_ref().map(|(file, value)| format!(" or {}", line((file, value))));
            line((&write.file, &write.value)) + &instead.unwrap_or_default()
        })
        .collect()
}

#[test]
fn every_field_has_its_file_on_each_version() {
    #[rustfmt::skip]
    let table: &[(&str, &[&str], &[&str])] = &[
        (r#"{"memory":{"limit":1048576}}"#, &["memory.limit_in_bytes=1048576"], &["memory.max=1048576"]),
        (r#"{"memory":{"reservation":4096}}"#, &["memory.soft_limit_in_bytes=4096"], &["memory.low=4096"]),
        (r#"{"memory":{"reservation":-1}}"#, &["memory.soft_limit_in_bytes=-1"], &["memory.low=max"]),
        (r#"{"memory":{"useHierarchy":true}}"#, &["memory.use_hierarchy=1"], &[]),
        (r#"{"memory":{"disableOOMKiller":false}}"#, &["memory.oom_control=0"], &[]),
        (r#"{"memory":{"limit":0,"swap":0,"reservation":0,"checkBeforeUpdate":true}}"#, &[], &[]),
        (r#"{"cpu":{"shares":1024}}"#, &["cpu.shares=1024"], &["cpu.weight=100"]),
        (r#"{"cpu":{"quota":5000,"period":10000}}"#,
            &["cpu.cfs_period_us=10000", "cpu.cfs_quota_us=5000"], &["cpu.max=5000 10000"]),
        (r#"{"cpu":{"period":10000}}"#, &["cpu.cfs_period_us=10000"], &["cpu.max=max 10000"]),
        (r#"{"cpu":{"quota":-1}}"#, &["cpu.cfs_quota_us=-1"], &["cpu.max=max"]),
        (r#"{"cpu":{"quota":0,"period":0,"shares":0,"cpus":"","mems":""}}"#, &[], &[]),
        (r#"{"cpu":{"burst":0}}"#, &["cpu.cfs_burst_us=0"], &["cpu.max.burst=0"]),
        (r#"{"cpu":{"idle":1}}"#, &["cpu.idle=1"], &["cpu.idle=1"]),
        (r#"{"cpu":{"cpus":"0-1","mems":"0"}}"#,
            &["cpuset.cpus=0-1", "cpuset.mems=0"], &["cpuset.cpus=0-1", "cpuset.mems=0"]),
        (r#"{"pids":{"limit":0}}"#, &["pids.max=1"], &["pids.max=1"]),
        (r#"{"pids":{"limit":-1}}"#, &["pids.max=max"], &["pids.max=max"]),
        (r#"{"pids":{"limit":20}}"#, &["pids.max=20"], &["pids.max=20"]),
        (r#"{"pids":{}}"#, &[], &[]),
        (r#"{"blockIO":{"weight":500}}"#,
            &["blkio.weight=500 or blkio.bfq.weight=500"], &["io.bfq.weight=500 or io.weight=4950"]),
        (r#"{"blockIO":{"weight":0,"weightDevice":null,"throttleReadBpsDevice":[]}}"#, &[], &[]),
        (r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":10}]}}"#,
            &["blkio.weight_device=8:0 10 or blkio.bfq.weight_device=8:0 10"],
            &["io.bfq.weight=8:0 10 or io.weight=8:0 1"]),
        (r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":7}],
            "throttleWriteBpsDevice":[{"major":8,"minor":1,"rate":0}],
            "throttleReadIOPSDevice":[{"major":8,"minor":2,"rate":9},{"major":8,"minor":3,"rate":10}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":4,"rate":11}]}}"#,
            &["blkio.throttle.read_bps_device=8:0 7", "blkio.throttle.write_bps_device=8:1 0",
                "blkio.throttle.read_iops_device=8:2 9", "blkio.throttle.read_iops_device=8:3 10",
                "blkio.throttle.write_iops_device=8:4 11"],
            &["io.max=8:0 rbps=7", "io.max=8:1 wbps=max", "io.max=8:2 riops=9", "io.max=8:3 riops=10",
                "io.max=8:4 wiops=11"]),
        (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":18446744073709551615}]}"#,
            &["hugetlb.2MB.rsvd.limit_in_bytes=18446744073709551615", "hugetlb.2MB.limit_in_bytes=18446744073709551615"],
            &["hugetlb.2MB.rsvd.max=18446744073709551615", "hugetlb.2MB.max=18446744073709551615"]),
        (r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},"mlx4_0":{"hcaObjects":5}}}"#,
            &["rdma.max=mlx4_0 hca_object=5", "rdma.max=mlx5_1 hca_handle=3 hca_object=10000"],
            &["rdma.max=mlx4_0 hca_object=5", "rdma.max=mlx5_1 hca_handle=3 hca_object=10000"]),
        (r#"{"network":{"classID":0,"priorities":[]}}"#, &[], &[]),
    ];
    for (json, on_v1, on_v2) in table {
        assert_eq!(written(json, &v1()), *on_v1, "{json}");
        assert_eq!(written(json, &v2()), *on_v2, "{json}");
    }
}

#[test]
fn what_only_one_version_has_is_an_error_on_the_other() {
    #[rustfmt::skip]
    let only_v1 = [
        (r#"{"memory":{"swappiness":0}}"#, "memory/swappiness", &["memory.swappiness=0"][..]),
        (r#"{"memory":{"kernel":4096}}"#, "memory/kernel", &["memory.kmem.limit_in_bytes=4096"]),
        (r#"{"memory":{"kernelTCP":4096}}"#, "memory/kernelTCP", &["memory.kmem.tcp.limit_in_bytes=4096"]),
        (r#"{"memory":{"disableOOMKiller":true}}"#, "memory/disableOOMKiller", &["memory.oom_control=1"]),
        (r#"{"memory":{"useHierarchy":false}}"#, "memory/useHierarchy", &["memory.use_hierarchy=0"]),
        (r#"{"cpu":{"realtimePeriod":9}}"#, "cpu/realtimePeriod", &["cpu.rt_period_us=9"]),
        (r#"{"cpu":{"realtimeRuntime":9}}"#, "cpu/realtimeRuntime", &["cpu.rt_runtime_us=9"]),
        (r#"{"blockIO":{"leafWeight":10}}"#, "blockIO/leafWeight", &["blkio.leaf_weight=10"]),
        (r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":10}]}}"#,
            "blockIO/weightDevice/0/leafWeight", &["blkio.leaf_weight_device=8:0 10"]),
        (r#"{"network":{"classID":1048577}}"#, "network/classID", &["net_cls.classid=1048577"]),
        (r#"{"network":{"priorities":[{"name":"eth0","priority":500},{"name":"eth1","priority":1000}]}}"#,
            "network/priorities/0", &["net_prio.ifpriomap=eth0 500", "net_prio.ifpriomap=eth1 1000"]),
    ];
    for (json, pointer, on_v1) in only_v1 {
        assert_eq!(written(json, &v1()), on_v1, "{json}");
        refused(json, &v2(), pointer);
    }
    assert_eq!(
        written(r#"{"unified":{"memory.high":"1","io.max":"8:0 rbps=1\n8:1 rbps=2\n"}}"#, &v2()),
        ["io.max=8:0 rbps=1", "io.max=8:1 rbps=2", "memory.high=1"]
    );
    refused(r#"{"unified":{"memory.high":"1"}}"#, &v1(), "unified/memory.high");
}

#[track_caller]
fn refused(json: &str, layout: &Layout, pointer: &str) {
    let error = plan(&resources(json), layout).unwrap_err();
    let found = error.details().iter().find(|(name, _)| *name == "pointer").map(|(_, value)| value.clone());
    assert_eq!(found, Some(format!("/linux/resources/{pointer}")), "{json}: {error}");
}

#[test]
fn on_a_hybrid_host_each_controller_is_where_it_is() {
    let layout = hybrid();
    let json = r#"{"memory":{"limit":4096},"hugepageLimits":[{"pageSize":"2MB","limit":1}],
        "unified":{"hugetlb.1GB.max":"2","cgroup.max.depth":"3"}}"#;
    let writes = plan(&resources(json), &layout).unwrap();
    let places: Vec<_> = writes.iter().map(|write| layout.hierarchies[write.hierarchy].is_unified()).collect();
    assert_eq!(places, [false, true, true, true, true]);
    assert_eq!(writes[1].file, "hugetlb.2MB.rsvd.max");
    refused(r#"{"unified":{"memory.high":"1"}}"#, &layout, "unified/memory.high");
}

#[test]
fn a_controller_that_the_host_lacks_is_named() {
    let layout = Layout { unified: false, hierarchies: vec![v1().hierarchies[0].clone()] };
    refused(r#"{"pids":{"limit":1}}"#, &layout, "pids/limit");
    refused(r#"{"network":{"classID":1}}"#, &layout, "network/classID");
    let error = plan(&resources(r#"{"pids":{"limit":1}}"#), &layout).unwrap_err();
    assert!(error.to_string().contains("`pids` is not available"), "{error}");
}

#[test]
fn values_that_are_none_are_errors() {
    for (json, pointer) in [
        (r#"{"memory":{"limit":-2}}"#, "memory/limit"),
        (r#"{"blockIO":{"weight":9}}"#, "blockIO/weight"),
        (r#"{"blockIO":{"weight":1001}}"#, "blockIO/weight"),
        (r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":5}]}}"#, "blockIO/weightDevice"),
        (r#"{"rdma":{"mlx4_0":{}}}"#, "rdma/mlx4_0"),
        (r#"{"rdma":{"a b":{"hcaHandles":1}}}"#, "rdma/a b"),
        (r#"{"hugepageLimits":[{"pageSize":"2mb","limit":1}]}"#, "hugepageLimits/0/pageSize"),
        (
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":1},{"pageSize":"02MB","limit":1}]}"#,
            "hugepageLimits/1/pageSize",
        ),
    ] {
        refused(json, &v1(), pointer);
        refused(json, &v2(), pointer);
    }
    // Where v1 would silently take another value. v2's scale ends there.
    refused(r#"{"cpu":{"shares":1}}"#, &v1(), "cpu/shares");
    refused(r#"{"cpu":{"shares":262145}}"#, &v1(), "cpu/shares");
    assert_eq!(written(r#"{"cpu":{"shares":1}}"#, &v2()), ["cpu.weight=1"]);
}

#[test]
fn ghsa_5g49_rx9x_qfc6_no_path_in_a_file_name() {
    for json in [
        r#"{"hugepageLimits":[{"pageSize":"2MB/../../x","limit":1}]}"#,
        r#"{"hugepageLimits":[{"pageSize":"","limit":1}]}"#,
        r#"{"unified":{"../cgroup.kill":"1"}}"#,
        r#"{"unified":{"a/b.c":"1"}}"#,
        r#"{"unified":{"nodot":"1"}}"#,
        r#"{"unified":{".":"1"}}"#,
    ] {
        for layout in [v1(), v2(), hybrid()] {
            assert!(plan(&resources(json), &layout).is_err(), "{json}");
        }
    }
}

#[test]
fn shares_become_weights() {
    let table =
        [(2, 1), (3, 2), (10, 4), (100, 17), (512, 59), (1024, 100), (2048, 174), (10_000, 627), (262_143, 10_000)];
    for (shares, wanted) in table {
        assert_eq!(weight(shares), wanted, "{shares}");
    }
    assert_eq!((weight(0), weight(1), weight(262_144), weight(u64::MAX)), (1, 1, 10_000, 10_000));
}

#[test]
fn block_weights_become_io_weights() {
    for (block, wanted) in [(10, 1), (11, 11), (100, 910), (500, 4950), (999, 9989), (1000, 10_000)] {
        assert_eq!(io_weight(block), wanted, "{block}");
    }
}

#[test]
fn swap_is_memory_and_swap_together_in_config_json() {
    #[rustfmt::skip]
    let table = [
        (r#"{"limit":10}"#, None, None),
        (r#"{"limit":-1}"#, Some("-1"), Some("max")),
        (r#"{"limit":10,"swap":0}"#, None, None),
        (r#"{"limit":10,"swap":-1}"#, Some("-1"), Some("max")),
        (r#"{"swap":-1}"#, Some("-1"), Some("max")),
        (r#"{"limit":10,"swap":10}"#, Some("10"), Some("0")),
        (r#"{"limit":10,"swap":25}"#, Some("25"), Some("15")),
        (r#"{"limit":-1,"swap":25}"#, Some("25"), Some("25")),
    ];
    for (memory, on_v1, on_v2) in table {
        let json = format!(r#"{{"memory":{memory}}}"#);
        for (layout, file, wanted) in [(v1(), "memory.memsw.limit_in_bytes=", on_v1), (v2(), "memory.swap.max=", on_v2)]
        {
            let writes = written(&json, &layout);
            assert_eq!(writes.iter().find_map(|line| line.strip_prefix(file)), wanted, "{json} {file}");
        }
    }
    for memory in [r#"{"swap":10}"#, r#"{"limit":10,"swap":9}"#] {
        refused(&format!(r#"{{"memory":{memory}}}"#), &v2(), "memory/swap");
    }
}

/// The writes of an update.
fn updated(old: &str, asked: &str, layout: &Layout) -> Vec<String> {
    let merged = merge(&resources(old), &resources(asked)).unwrap();
    show(&plan_update(&resources(asked), &merged, layout).unwrap())
}

#[test]
fn an_update_writes_what_is_asked_and_nothing_else() {
    let old = r#"{"memory":{"limit":100,"swap":150,"reservation":50},"cpu":{"shares":100,"quota":5,"period":10},
        "pids":{"limit":20},"unified":{"memory.high":"90"},
        "blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":7}]}}"#;
    #[rustfmt::skip]
    let table: &[(&str, &[&str], &[&str])] = &[
        ("{}", &[], &[]),
        (r#"{"memory":{"limit":0},"cpu":{"shares":0,"quota":0,"cpus":""},"blockIO":{"weight":0}}"#, &[], &[]),
        (r#"{"pids":{"limit":0}}"#, &["pids.max=1"], &["pids.max=1"]),
        (r#"{"memory":{"reservation":60}}"#, &["memory.soft_limit_in_bytes=60"], &["memory.low=60"]),
        // The sum of memory and swap stays.
        (r#"{"memory":{"limit":120}}"#,
            &["memory.limit_in_bytes=120", "memory.memsw.limit_in_bytes=150"], &["memory.max=120", "memory.swap.max=30"]),
        (r#"{"memory":{"swap":160}}"#, &["memory.memsw.limit_in_bytes=160"], &["memory.swap.max=60"]),
        (r#"{"memory":{"limit":-1}}"#,
            &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"], &["memory.max=max", "memory.swap.max=max"]),
        (r#"{"cpu":{"quota":6}}"#, &["cpu.cfs_quota_us=6"], &["cpu.max=6 10"]),
        (r#"{"cpu":{"period":11}}"#, &["cpu.cfs_period_us=11", "cpu.cfs_quota_us=5"], &["cpu.max=5 11"]),
        // What was idle has lost its weight; what is takes none.
        (r#"{"cpu":{"idle":0}}"#, &["cpu.idle=0", "cpu.shares=100"], &["cpu.idle=0", "cpu.weight=17"]),
        (r#"{"cpu":{"idle":1,"shares":200}}"#, &["cpu.idle=1"], &["cpu.idle=1"]),
        (r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":16,"rate":9}]}}"#,
            &["blkio.throttle.read_bps_device=8:16 9"], &["io.max=8:16 rbps=9"]),
    ];
    for (asked, on_v1, on_v2) in table {
        // v1 has no unified files, and so no container there has asked for one.
        assert_eq!(updated(old, asked, &v1()), *on_v1, "{asked}");
        assert_eq!(updated(old, asked, &v2()), *on_v2, "{asked}");
    }
}

#[test]
fn what_is_not_asked_for_is_kept() {
    let old = r#"{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":100,"swap":150},"cpu":{"cpus":"0"},
        "hugepageLimits":[{"pageSize":"2MB","limit":1}],"rdma":{"a":{"hcaHandles":1}},"unified":{"x.y":"1"},
        "blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":7}]}}"#;
    let merged = |asked: &str| to_json(&merge(&resources(old), &resources(asked)).unwrap()).unwrap();
    assert_eq!(merged("{}"), to_json(&resources(old)).unwrap());
    let asked = r#"{"devices":[{"allow":true,"access":"r"}],"memory":{"limit":-1},"cpu":{"cpus":"","idle":1},
        "hugepageLimits":[{"pageSize":"1GB","limit":3},{"pageSize":"2MB","limit":2}],"rdma":{"a":{"hcaObjects":2}},
        "unified":{"x.z":"2"},"pids":{"limit":0},
        "blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":8},{"major":8,"minor":1,"rate":9}]}}"#;
    let wanted = r#"{"devices":[{"allow":true,"access":"r"}],"memory":{"limit":-1},"cpu":{"cpus":"0","idle":1},
        "hugepageLimits":[{"pageSize":"2MB","limit":2},{"pageSize":"1GB","limit":3}],
        "rdma":{"a":{"hcaHandles":1,"hcaObjects":2}},"unified":{"x.y":"1","x.z":"2"},"pids":{"limit":0},
        "blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":8},{"major":8,"minor":1,"rate":9}]}}"#;
    assert_eq!(merged(asked), to_json(&resources(wanted)).unwrap());
}

#[test]
fn what_is_named_twice_changes_as_one() {
    let list = |rates: &[u64]| {
        let entries: Vec<_> = rates.iter().map(|rate| json!({"major": 8, "minor": 0, "rate": rate})).collect();
        json!({"blockIO": {"throttleReadBpsDevice": entries}})
    };
    let merged = |old: &[u64], asked: &[u64]| {
        let [old, asked] = [old, asked].map(|rates| resources(&list(rates).to_string()));
        to_json(&merge(&old, &asked).unwrap()).unwrap()
    };
    // The last one counts, as it is written last.
    assert_eq!(merged(&[5, 7], &[]), list(&[7]));
    assert_eq!(merged(&[5, 7], &[9]), list(&[9]));
    assert_eq!(merged(&[], &[5, 7]), list(&[7]));
}
