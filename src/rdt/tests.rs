use super::*;

fn rdt(json: &str) -> LinuxIntelRdt {
    serde_json::from_str(json).unwrap()
}

fn planned(json: &str) -> RdtPlan {
    plan(Some(&rdt(json)), "c1").unwrap().unwrap()
}

fn pointer_of(error: &Error) -> String {
    error.details().into_iter().find(|(key, _)| *key == "pointer").unwrap().1
}

/// A directory laid out as the kernel lays resctrl out, with the group `class`. It lacks the kernel's part: the
/// files of a group that is made stay missing.
struct Layout(PathBuf);

impl Layout {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("kelson-rdt-{}-{name}", std::process::id()));
        fs::create_dir_all(root.join("info/MB")).unwrap();
        fs::write(root.join("info/MB/bandwidth_gran"), "10\n").unwrap();
        fs::write(root.join("info/last_cmd_status"), "ok\n").unwrap();
        for group in [root.clone(), root.join("class")] {
            fs::create_dir_all(group.join("mon_groups")).unwrap();
            fs::write(group.join("schemata"), "    MB:0= 30;1=100\n    L3:0=00f;1=7ff\n").unwrap();
            fs::write(group.join("tasks"), "").unwrap();
        }
        Self(root)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap()
    }

    fn apply(&self, json: &str) -> Result<RdtState> {
        let plan = planned(json);
        let state = prepare_below(&self.0, &plan)?;
        apply(&plan, &state, 42).map(|()| state)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn schemata_are_written_in_the_specifications_order() {
    let plan = planned(r#"{"schemata":["L2:0=f","MB:0=20"],"memBwSchema":"MB:0=50","l3CacheSchema":"L3:0=f"}"#);
    let lines: Vec<_> = plan.schemata.iter().map(|schema| schema.lines.as_str()).collect();
    assert_eq!(lines, ["L3:0=f\n", "MB:0=50\n", "L2:0=f\nMB:0=20\n"]);
    assert_eq!(
        planned(r#"{"l3CacheSchema":"L3CODE:0=f\nL3DATA:0=f0\n"}"#).schemata[0].lines,
        "L3CODE:0=f\nL3DATA:0=f0\n"
    );
    assert_eq!(planned(r#"{"closID":"class","schemata":[]}"#).schemata, []);
}

#[test]
fn groups_are_named_by_the_class_or_the_container() {
    assert_eq!(plan(None, "c1").unwrap(), None);
    let names = |plan: RdtPlan| (plan.group, plan.shared, plan.monitoring_group);
    assert_eq!(names(planned("{}")), ("c1".to_owned(), false, None));
    assert_eq!(names(planned(r#"{"closID":"class"}"#)), ("class".to_owned(), true, None));
    let monitored = planned(r#"{"closID":"/","enableMonitoring":true}"#);
    assert_eq!(names(monitored), (String::new(), true, Some("c1".to_owned())));
}

#[test]
fn what_cannot_be_is_refused_where_it_stands() {
    for (json, member) in [
        (r#"{"closID":""}"#, "closID"),
        (r#"{"closID":".."}"#, "closID"),
        (r#"{"closID":"//"}"#, "closID"),
        (r#"{"closID":"/a"}"#, "closID"),
        (r#"{"closID":"a/b"}"#, "closID"),
        (r#"{"closID":"a\nb"}"#, "closID"),
        (r#"{"l3CacheSchema":""}"#, "l3CacheSchema"),
        (r#"{"l3CacheSchema":"\n"}"#, "l3CacheSchema"),
        (r#"{"memBwSchema":"L3:0=f"}"#, "memBwSchema"),
        (r#"{"memBwSchema":"MB:0=20\nL3:0=f"}"#, "memBwSchema"),
        (r#"{"schemata":["L3:0=f",""]}"#, "schemata/1"),
        (r#"{"schemata":["L3:0=f\n"]}"#, "schemata/0"),
    ] {
        assert_eq!(pointer_of(&plan(Some(&rdt(json)), "c1").unwrap_err()), pointer(member), "{json}");
    }
    assert!(plan(Some(&rdt("{}")), "..").is_err());
    assert!(plan(Some(&rdt(r#"{"closID":"a","enableMonitoring":true}"#)), "a/b").is_err());
}

#[test]
fn the_mount_is_found() {
    let table = b"22 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw\n\
        30 22 0:25 /class /mnt/part rw - resctrl resctrl rw\n\
        31 22 0:25 / /mnt/re\\040s\\134ctrl rw,relatime shared:9 master:1 - resctrl resctrl rw,cdp\n";
    assert_eq!(find_mount(table), Some("/mnt/re s\\ctrl".into()));
    assert_eq!(find_mount(&table[..52]), None);
    assert_eq!(find_mount(b"1 2\n\n3 4 - -\n"), None);
}

#[test]
fn schemata_agree_by_value() {
    let existing = "    MB:0= 30;1=100\nL3CODE:0=uninitialized\n    L3:0=00f;1=7ff\n";
    for wanted in ["L3:0=f", "L3:1=7FF;0=0x00f", "L3:0=f;1=7ff\n", "MB:0=30", "MB:0=21;1=100", "MB: 1 = 100"] {
        assert!(agrees(wanted, existing, 10), "{wanted}");
    }
    for wanted in
        ["L3:0=e", "L3:2=f", "L2:0=f", "MB:0=31", "MB:0=20", "L3:", "L3", "L3:0", "L3:0=f;", "L3:0=x", "MB:0=f"]
    {
        assert!(!agrees(wanted, existing, 10), "{wanted}");
    }
    assert!(agrees("MB:0=30", existing, 0) && !agrees("MB:0=21", existing, 0));
}

#[test]
fn an_existing_class_is_joined_and_left() {
    let layout = Layout::new("join");
    let state = layout.apply(r#"{"closID":"class"}"#).unwrap();
    let expected = RdtState { group: layout.0.join("class"), ..RdtState::default() };
    assert_eq!(state, expected);
    assert_eq!(layout.read("class/tasks"), "42");
    assert!(layout.read("class/schemata").starts_with("    MB"), "nothing is written");
    remove(&state).unwrap();
    assert!(layout.0.join("class").is_dir());
    assert_eq!(layout.apply(r#"{"closID":"/"}"#).unwrap().directory, None);
    assert_eq!(layout.read("tasks"), "42");
}

#[test]
fn what_will_be_made_for_the_container_alone_is_known_before() {
    let layout = Layout::new("prepare");
    let prepared = |json: &str| prepare_below(&layout.0, &planned(json)).unwrap();
    assert_eq!(prepared("{}").directory, Some(layout.0.join("c1")));
    assert_eq!(prepared(r#"{"closID":"new","schemata":["L3:0=f"]}"#).directory, None, "others' too");
    let monitored = prepared(r#"{"closID":"class","enableMonitoring":true}"#);
    assert_eq!(monitored.monitoring_group, Some(layout.0.join("class/mon_groups/c1")));
    assert!(!layout.0.join("c1").exists() && !layout.0.join("class/mon_groups/c1").exists(), "nothing is made");
}

#[test]
fn an_existing_class_must_agree() {
    let layout = Layout::new("agree");
    let error = layout.apply(r#"{"closID":"class","l3CacheSchema":"L3:0=f","memBwSchema":"MB:0=50"}"#).unwrap_err();
    assert_eq!(pointer_of(&error), "/linux/intelRdt/memBwSchema");
    assert_eq!(layout.read("class/tasks"), "");
    layout.apply(r#"{"closID":"class","l3CacheSchema":"L3:0=f;1=7ff"}"#).unwrap();
    assert!(layout.read("class/schemata").starts_with("L3:0=f;1=7ff\n"));
}

#[test]
fn a_class_without_schemata_must_exist() {
    let layout = Layout::new("exist");
    let error = layout.apply(r#"{"closID":"none"}"#).unwrap_err();
    assert_eq!(pointer_of(&error), "/linux/intelRdt/closID");
    assert!(!layout.0.join("none").exists());
}

#[test]
fn a_failure_removes_what_was_made_and_nothing_else() {
    let layout = Layout::new("failure");
    fs::write(layout.0.join("info/last_cmd_status"), "no closids\n").unwrap();
    let error = layout.apply(r#"{"schemata":["L3:0=f"]}"#).unwrap_err();
    assert!(error.to_string().contains("the kernel says \"no closids\""), "{error}");
    assert_eq!(pointer_of(&error), "/linux/intelRdt/schemata");
    assert!(!layout.0.join("c1").exists());
    layout.apply(r#"{"closID":"class","enableMonitoring":true}"#).unwrap_err();
    assert!(layout.0.join("class").is_dir() && !layout.0.join("class/mon_groups/c1").exists());
    fs::create_dir(layout.0.join("class/mon_groups/c1")).unwrap();
    let error = layout.apply(r#"{"closID":"class","enableMonitoring":true}"#).unwrap_err();
    assert_eq!(pointer_of(&error), "/linux/intelRdt/enableMonitoring");
    assert!(layout.0.join("class/mon_groups/c1").exists(), "it was there before");
}

#[test]
fn a_containers_own_group_that_exists_is_used_and_left() {
    let layout = Layout::new("own");
    fs::rename(layout.0.join("class"), layout.0.join("c1")).unwrap();
    let state = layout.apply("{}").unwrap();
    assert_eq!((layout.read("c1/tasks").as_str(), state.directory), ("42", None));
}

#[test]
fn removing_is_idempotent_and_the_state_is_kept_as_json() {
    let layout = Layout::new("remove");
    let monitoring_group = Some(layout.0.join("class/mon_groups/c1"));
    let state = RdtState { group: layout.0.join("c1"), directory: Some(layout.0.join("c1")), monitoring_group };
    let json = serde_json::to_string(&state).unwrap();
    assert!(json.contains("\"monitoringGroup\""));
    let state: RdtState = serde_json::from_str(&json).unwrap();
    fs::create_dir(layout.0.join("class/mon_groups/c1")).unwrap();
    fs::create_dir(layout.0.join("c1")).unwrap();
    remove(&state).unwrap();
    remove(&state).unwrap();
    assert!(!layout.0.join("class/mon_groups/c1").exists() && !layout.0.join("c1").exists());
    fs::create_dir(layout.0.join("c1")).unwrap();
    fs::write(layout.0.join("c1/file"), "").unwrap();
    assert!(remove(&state).is_err(), "only rmdir(2): never what is inside");
}

#[test]
fn an_update_writes_the_new_schemata_and_can_be_taken_back() {
    let layout = Layout::new("update");
    let state = RdtState { group: layout.0.join("class"), ..RdtState::default() };
    let before = layout.read("class/schemata");
    let former = update(Some(&state), &rdt(r#"{"l3CacheSchema":"L3:0=0ff;1=0ff","memBwSchema":"MB:0=50"}"#)).unwrap();
    assert!(layout.read("class/schemata").starts_with("MB:0=50\n"), "{}", layout.read("class/schemata"));
    former.restore();
    assert_eq!(layout.read("class/schemata"), before);
    assert_eq!(
        pointer_of(&update(Some(&state), &rdt(r#"{"memBwSchema":"L3:0=1"}"#)).err().unwrap()),
        pointer("memBwSchema")
    );
    assert!(update(None, &rdt("{}")).is_err());
}
