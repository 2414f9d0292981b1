//! A bundle: a rootfs of busybox with the probe, a config.json, and the verbs on its container.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::{Call, Host, Output, View, program};

const BUSYBOX: &str = "/usr/bin/busybox";
const APPLETS: &[&str] = &[
    "cat", "chmod", "cp", "dd", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ln", "ls", "mkdir",
    "mknod", "mount", "mv", "nproc", "ps", "pwd", "readlink", "rm", "rmdir", "sed", "sh", "sleep", "sort", "stat",
    "stty", "tail", "test", "touch", "tr", "true", "tty", "ulimit", "umount", "uname", "wc",
];
const DIRECTORIES: &[&str] = &["bin", "dev", "etc", "proc", "root", "sys", "tmp", "var"];

/// A container's bundle, and the verbs on it. The container has to be deleted by the test.
pub struct Bundle<'a> {
    host: &'a Host,
    /// Unique.
    pub id: String,
    pub path: PathBuf,
    pub rootfs: PathBuf,
    /// Written to config.json whenever a container is made. `kelson spec`'s, without a terminal.
    pub config: Value,
    /// Global flags before the verbs that make a container.
    pub global_flags: Vec<String>,
    /// Flags of the verbs that make a container.
    pub flags: Vec<String>,
    /// A command in front of the verbs that make a container.
    pub wrapper: Vec<OsString>,
}

impl<'a> Bundle<'a> {
    pub(super) fn new(host: &'a Host, id: &str) -> Self {
        let path = host.temp.join(id);
        let rootfs = path.join("rootfs");
        make_rootfs(&rootfs);
        let mut config = default_config(host);
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/true"]);
        config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        let (global_flags, flags, wrapper) = Default::default();
        Self { host, id: id.to_owned(), path, rootfs, config, global_flags, flags, wrapper }
    }

    /// Sets the program and its arguments.
    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.config["process"]["args"] = json!(args);
        self
    }

    /// Sets a shell script as the program.
    pub fn script(&mut self, script: &str) -> &mut Self {
        self.args(&["/bin/sh", "-c", script])
    }

    /// Makes the root writable.
    pub fn writable(&mut self) -> &mut Self {
        self.config["root"]["readonly"] = json!(false);
        self
    }

    /// Removes the namespace of this type from config.json: the container shares the host's.
    pub fn share(&mut self, namespace: &str) -> &mut Self {
        let list = self.config["linux"]["namespaces"].as_array_mut().expect("a list of namespaces");
        list.retain(|entry| entry["type"] != namespace);
        self
    }

    /// Adds to `mounts`.
    pub fn mount(&mut self, destination: &str, kind: &str, source: impl AsRef<Path>, options: &[&str]) -> &mut Self {
        let entry = json!({"destination": destination, "type": kind, "source": source.as_ref(), "options": options});
        self.config["mounts"].as_array_mut().expect("a list of mounts").push(entry);
        self
    }

    pub fn write_config(&self) {
        let text = serde_json::to_vec_pretty(&self.config).expect("JSON");
        fs::write(self.path.join("config.json"), text).expect("config.json");
    }

    /// The call of a verb that makes a container, config.json being written.
    pub fn making(&self, verb: &str, flags: &[&str]) -> Call {
        self.write_config();
        let mut words: Vec<OsString> = self.global_flags.iter().map(OsString::from).collect();
        words.extend([verb.into(), "--bundle".into(), self.path.clone().into()]);
        words.extend(self.flags.iter().map(OsString::from));
        words.extend(flags.iter().map(OsString::from));
        words.push((&self.id).into());
        self.host.call(words).before(&self.wrapper)
    }

    #[track_caller]
    pub fn run(&self) -> Output {
        self.making("run", &[]).run()
    }

    #[track_caller]
    pub fn create(&self) -> Output {
        self.making("create", &[]).run()
    }

    /// Creates and starts, which has to work: the container runs, or has run.
    #[track_caller]
    pub fn up(&self) -> &Self {
        self.create().ok();
        self.start().ok();
        self
    }

    #[track_caller]
    pub fn start(&self) -> Output {
        self.host.kelson(["start", &self.id])
    }

    /// What `state` prints.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.host.kelson(["state", &self.id]).ok().json()
    }

    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("a status").to_owned()
    }

    /// The process id of init, as `state` has it.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().expect("a pid") as i32
    }

    /// The call of `exec` with these flags, then the container's id, then these arguments.
    pub fn exec(&self, flags: &[&str], command: &[&str]) -> Call {
        self.host.call(["exec"].iter().chain(flags).chain([&self.id.as_str()]).chain(command))
    }

    #[track_caller]
    pub fn kill(&self, signal: &str) -> Output {
        self.host.kelson(["kill", &self.id, signal])
    }

    #[track_caller]
    pub fn delete(&self, force: bool) -> Output {
        let flag = force.then_some("--force");
        self.host.kelson(["delete"].into_iter().chain(flag).chain([self.id.as_str()]))
    }

    #[track_caller]
    pub fn delete_by_force(&self) {
        self.delete(true).ok();
    }

    /// Runs the probe for these sections (see `probe help`), and returns what it saw.
    #[track_caller]
    pub fn probe(&mut self, sections: &[&str]) -> Value {
        self.args(&[&["/bin/probe"], sections].concat());
        self.run().ok().json()
    }

    /// The file or directory of the container's own directory below `--root`.
    pub fn state_path(&self, name: &str) -> PathBuf {
        self.host.root.join(&self.id).join(name)
    }

    /// The container's cgroup in the hierarchy that has `controller`: on v2 there is but one, which is also the one
    /// called "unified" of a hybrid host. Holds for an absolute cgroupsPath only.
    pub fn cgroup(&self, controller: &str) -> PathBuf {
        let path = self.config["linux"]["cgroupsPath"].as_str().expect("a cgroupsPath").trim_start_matches('/');
        let root = Path::new("/sys/fs/cgroup");
        if View::current().is_v2() { root.join(path) } else { root.join(controller).join(path) }
    }
}

fn default_config(host: &Host) -> Value {
    static CONFIG: OnceLock<Value> = OnceLock::new();
    let make = || {
        let directory = host.temp.join("spec");
        fs::create_dir(&directory).expect("a directory for `kelson spec`");
        host.bare(["spec"]).directory(&directory).run().ok();
        let text = fs::read(directory.join("config.json")).expect("config.json");
        serde_json::from_slice(&text).expect("JSON")
    };
    CONFIG.get_or_init(make).clone()
}

/// A root file system: busybox under its many names, the probe, a user, empty mount points.
pub fn make_rootfs(path: &Path) {
    for directory in DIRECTORIES {
        fs::create_dir_all(path.join(directory)).expect("a directory of the rootfs");
    }
    let bin = path.join("bin");
    fs::copy(BUSYBOX, bin.join("busybox")).expect("busybox: install busybox-static");
    fs::copy(program("probe"), bin.join("probe")).expect("the probe");
    for applet in APPLETS {
        symlink("busybox", bin.join(applet)).expect("a link to busybox");
    }
    fs::write(path.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
        .expect("/etc/passwd");
}
