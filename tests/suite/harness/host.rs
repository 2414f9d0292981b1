//! The machine that a test runs on, which must be the same afterwards.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::snapshot::{self, Snapshot};
use super::{Bundle, Call, Output, program, seconds};

/// One test at a time: they look at the whole machine.
static TURN: Mutex<()> = Mutex::new(());
/// The same between several runs of the suite.
const LOCK: &str = "/tmp/kelson-suite.lock";
/// How many seconds what a test started has to end.
const PATIENCE: u64 = 3;

/// The host during one test.
pub struct Host {
    /// Unique, and in the names of everything that the test makes.
    pub name: String,
    /// Removed at the end.
    pub temp: PathBuf,
    /// The directory for `--root`: not there before the first container is.
    pub root: PathBuf,
    before: Snapshot,
    bundles: AtomicU32,
    _lock: Flock<fs::File>,
    _turn: MutexGuard<'static, ()>,
}

impl Host {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // What the test runner itself was given is not passed on to what is tested.
        kelson::sys::process::close_on_exec_from(3).expect("to keep inherited descriptors back");
        let file = fs::File::create(LOCK).expect("the suite's lock");
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).expect("the suite's lock");
        nix::sys::prctl::set_child_subreaper(true).expect("to become the reaper of orphans");
        let name = format!("kt-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let temp = std::env::temp_dir().join(&name);
        fs::create_dir(&temp).expect("a temporary directory");
        let (root, before) = (temp.join("root"), Snapshot::take(&name));
        Self { name, temp, root, before, bundles: AtomicU32::new(0), _lock: lock, _turn: turn }
    }

    /// A bundle that can be run, with an id and cgroups of its own.
    pub fn bundle(&self) -> Bundle<'_> {
        let number = self.bundles.fetch_add(1, Ordering::Relaxed);
        Bundle::new(self, &format!("{}-{number}", self.name))
    }

    /// Calls kelson with the test's `--root` before `arguments`.
    #[track_caller]
    pub fn kelson<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.call(arguments).run()
    }

    /// The same, for settings to be added before it is run.
    pub fn call<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Call {
        let mut words: Vec<OsString> = vec!["--root".into(), self.root.clone().into()];
        words.extend(arguments.into_iter().map(|word| word.as_ref().to_owned()));
        self.bare(words)
    }

    /// Kelson with `arguments` only.
    pub fn bare<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Call {
        let arguments: Vec<OsString> = arguments.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self.command(arguments).before([program("kelson")])
    }

    /// Any other program.
    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Call {
        Call::new(&self.temp, words)
    }

    /// Waits for the end of a process that has become this one's child; its exit code, or minus a signal's number.
    #[track_caller]
    pub fn reap(&self, pid: i32) -> i32 {
        let began = Instant::now();
        while began.elapsed() < seconds(PATIENCE) {
            match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => return code,
                Ok(WaitStatus::Signaled(_, signal, _)) => return -(signal as i32),
                Ok(_) => std::thread::sleep(Duration::from_millis(1)),
                Err(errno) => panic!("process {pid} is not this one's child: {errno}"),
            }
        }
        panic!("process {pid} did not end")
    }

    /// Waits for the end of a bundle's container; its exit code, or minus a signal's number.
    #[track_caller]
    pub fn reap_container(&self, bundle: &Bundle) -> i32 {
        let text = fs::read(bundle.state_path("state.json")).expect("state.json");
        let state: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        self.reap(state["init"]["pid"].as_i64().expect("init's process id") as i32)
    }

    /// Ends what a hook left behind: `sleep`s that have become this process's children.
    pub fn end_of_sleepers(&self) {
        for pid in snapshot::descendants() {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if comm.trim() == "sleep" {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// Whether anything but the temporary directory differs from the beginning.
    pub fn differences(&self) -> Vec<String> {
        let mut found = self.before.differences(&Snapshot::take(&self.name));
        let left = fs::read_dir(&self.root).into_iter().flatten().flatten();
        found.extend(left.map(|entry| format!("state left: {}", entry.path().display())));
        found
    }

    /// Waits for the end of what just ends; what then still differs.
    pub fn wait_for_no_differences(&self) -> Vec<String> {
        let began = Instant::now();
        loop {
            reap_all();
            let differences = self.differences();
            if differences.is_empty() || began.elapsed() > seconds(PATIENCE) {
                return differences;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn clean_up(&self) {
        for pid in snapshot::processes(&self.name).into_keys() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let ours: Vec<_> = snapshot::cgroups().into_iter().filter(|path| contains(path, &self.name)).collect();
        for cgroup in ours.iter().rev() {
            let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
            let _ = fs::write(cgroup.join("cgroup.freeze"), "0");
        }
        for _ in 0..200 {
            reap_all();
            if ours.iter().rev().filter(|cgroup| fs::remove_dir(cgroup).is_err() && cgroup.exists()).count() == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        for mount in mounts_below(&self.temp) {
            let _ = umount2(&mount, MntFlags::MNT_DETACH);
        }
    }
}

fn contains(path: &Path, name: &str) -> bool {
    path.to_string_lossy().contains(name)
}

/// The mount points in a directory, the last mounted first.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<_> = points.filter(|point| point.starts_with(directory)).collect();
    below.reverse();
    below
}

/// Reaps every child that has ended: at this point all are orphans of containers.
fn reap_all() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let differences = if std::thread::panicking() { Vec::new() } else { self.wait_for_no_differences() };
        self.clean_up();
        let mounts = mounts_below(&self.temp);
        if mounts.is_empty() {
            let _ = fs::remove_dir_all(&self.temp);
        }
        assert!(differences.is_empty(), "the host is not as before:\n  {}", differences.join("\n  "));
        assert!(mounts.is_empty(), "still mounted: {mounts:?}");
    }
}
