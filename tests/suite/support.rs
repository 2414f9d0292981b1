//! What the tests of config.json's sections share: looks into a report, things on the host to attack, other
//! processes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Bundle, Host, Output, Running, program, skip, wait_until};

/// Holds up, fails or kills at system calls.
pub const STRACE: &str = "/usr/bin/strace";

/// Deletes what there is by force; then the id and the cgroups have to be free again.
#[track_caller]
pub fn clean_up(host: &Host, bundle: &Bundle, what: &str) {
    let output = bundle.delete(true);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{what}");
    let left = host.wait_for_no_differences();
    assert!(left.is_empty(), "{what}: left behind:\n  {}", left.join("\n  "));
}

/// Whether it is there; says that the test is skipped if not.
pub fn has_strace() -> bool {
    let found = Path::new(STRACE).exists();
    if !found {
        skip("strace is not installed");
    }
    found
}

/// The mount that is on top at `point`, from the probe's `mounts`.
pub fn mount_at<'a>(report: &'a Value, point: &str) -> Option<&'a Value> {
    report["mounts"].as_array()?.iter().rfind(|mount| mount["mountPoint"] == point)
}

/// The entry of `mounts` with this value.
pub fn entry<'a>(bundle: &'a mut Bundle<'_>, field: &str, value: &str) -> &'a mut Value {
    let list = bundle.config["mounts"].as_array_mut().expect("a list of mounts");
    list.iter_mut().find(|mount| mount[field] == value).expect("such a mount")
}

/// Whether the list in `value` has all of `wanted`.
pub fn has_all(value: &Value, wanted: &[&str]) -> bool {
    wanted.iter().all(|text| value.as_array().is_some_and(|list| list.iter().any(|item| item == text)))
}

/// What the probe's `stat` says about `path` in the container.
#[track_caller]
pub fn stat(bundle: &mut Bundle<'_>, path: &str) -> Value {
    bundle.args(&["/bin/probe", "stat", path]);
    bundle.run().ok().json()[path].clone()
}

/// Asserts an error of one line that names `pointer`, and nothing on standard output.
#[track_caller]
pub fn fails_at(output: &Output, pointer: &str) {
    assert_eq!(output.code, 1, "{output:?}");
    assert_eq!(output.stdout, "", "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "not one line: {output:?}");
    assert!(output.stderr.contains(&format!("(config.json {pointer})")), "{pointer} is not in {output:?}");
}

/// Puts a value at a JSON pointer of config.json, making what is missing on the way.
pub fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut place = config;
    for name in pointer.split('/').skip(1) {
        place = match place {
            Value::Array(list) => &mut list[name.parse::<usize>().expect("an index")],
            other => &mut other[name],
        };
    }
    *place = value;
}

/// Replaces the namespace of this type by a new one, or by the one at `path`.
pub fn namespace(bundle: &mut Bundle<'_>, kind: &str, path: Option<&str>) {
    let entry = path.map_or_else(|| json!({ "type": kind }), |path| json!({ "type": kind, "path": path }));
    bundle.share(kind);
    bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").push(entry);
}

/// Gives the container a user namespace in which `first` and what follows is 0 and what follows.
pub fn user_namespace(bundle: &mut Bundle<'_>, first: u32) {
    namespace(bundle, "user", None);
    let map = json!([{ "containerID": 0, "hostID": first, "size": 65536 }]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
}

/// Gives the process these capabilities and no others.
pub fn give(bundle: &mut Bundle<'_>, capabilities: &[&str]) {
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = json!(capabilities);
    }
}

/// A tree of the host that no container may change.
pub struct Canary {
    pub path: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    /// Makes it in the test's temporary directory.
    pub fn new(host: &Host) -> Self {
        let path = host.temp.join("canary");
        fs::create_dir_all(path.join("sub")).unwrap();
        for name in ["file", "null", "ptmx", "console", "sub/file"] {
            fs::write(path.join(name), "canary").unwrap();
        }
        let before = look(&path);
        Self { path, before }
    }

    /// Asserts that it is as it was.
    #[track_caller]
    pub fn is_untouched(&self) {
        assert_eq!(look(&self.path), self.before);
    }

    /// Makes a symbolic link to it, at a path of the rootfs from which whatever is there is removed.
    pub fn link_from(&self, place: &Path) {
        replace_by_link(place, &self.path);
    }
}

/// Removes what is at `place` and makes a symbolic link to `target` there.
pub fn replace_by_link(place: &Path, target: &Path) {
    let _ = fs::remove_dir_all(place);
    let _ = fs::remove_file(place);
    symlink(target, place).unwrap();
}

fn look(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let (path, data) = (entry.path(), entry.metadata().unwrap());
        let text = if data.is_file() { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let line = format!("{:o} {} {} {} {text}", data.mode(), data.uid(), data.gid(), data.ino());
        if data.is_dir() {
            found.extend(look(&path));
        }
        found.insert(path, line);
    }
    found
}

/// A process of the host in namespaces of its own, for containers to join.
pub struct Neighbour {
    running: Running,
}

impl Neighbour {
    /// Unshares with these flags of unshare(1).
    pub fn new(host: &Host, flags: &[&str]) -> Self {
        let words = ["unshare"].iter().chain(flags).chain(&["sleep", "60"]).copied();
        let neighbour = Self { running: host.command(words.collect::<Vec<_>>()).spawn() };
        wait_until("unshare has become sleep", || {
            fs::read_to_string(format!("/proc/{}/comm", neighbour.running.pid())).is_ok_and(|name| name == "sleep\n")
        });
        neighbour
    }

    /// In a user namespace where 100000 and what follows is 0 and what follows.
    pub fn in_user_namespace(host: &Host, flags: &[&str]) -> Self {
        let neighbour = Self::new(host, &[&["--user"], flags].concat());
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{file}", neighbour.running.pid()), "0 100000 65536").unwrap();
        }
        neighbour
    }

    /// The path of its namespace, such as `net`.
    pub fn path(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.running.pid())
    }

    /// What the path leads to, such as `net:[4026531840]`.
    pub fn namespace(&self, name: &str) -> String {
        fs::read_link(self.path(name)).unwrap().to_string_lossy().into_owned()
    }
}

/// A seccomp agent that listens at `path`, and gives this answer.
pub fn agent(host: &Host, path: &Path, answer: &str) -> Running {
    let _ = fs::remove_file(path);
    let agent = host.command([program("agent").as_os_str(), path.as_os_str(), answer.as_ref()]).spawn();
    wait_until("the agent listens", || agent.stdout().contains("listening"));
    agent
}

/// Starts to swap two paths as fast as possible, until it is dropped.
pub fn race(host: &Host, one: &Path, other: &Path) -> Running {
    host.command([program("racer").as_os_str(), one.as_os_str(), other.as_os_str(), "30".as_ref()]).spawn()
}
