//! The state of containers: a directory for each below `--root`, with a documented state.json and a lock.
//!
//! state.json is replaced by rename, so that readers need no lock; verbs that change a container hold the lock of
//! its directory. docs/state.md documents the file.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, Flockable, OFlag};
use nix::sys::stat::fstat;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupState;
use crate::error::{Context, Error, Result};
use crate::hook::Hook;
use crate::rdt::RdtState;
use crate::safepath::identity;
use crate::spec::{Spec, VERSION_MAX};
use crate::sys;
use crate::sys::process::{kill, pidfd_open, pidfd_send_signal};

/// The version of state.json that this program writes.
const VERSION: u32 = 1;

/// How long another verb that holds a container's lock is waited for.
const LOCK_DEADLINE: Duration = Duration::from_secs(30);

/// state.json.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    pub version: u32,
    pub oci_version: String,
    pub id: String,
    /// Absolute.
    pub bundle: PathBuf,
    /// Absolute.
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    /// The user id that created the container.
    pub owner: u32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Absent until the process exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Whether the container is made: hooks run before.
    pub is_ready: bool,
    pub cgroup: CgroupState,
    /// Without a mount namespace of its own, the id of the mount that the container has as its root.
    #[serde(skip_serializing_if = "is_default")]
    pub root_mount: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rdt: Option<RdtState>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
    /// Whether the container has a pid namespace of its own, whose processes end with init.
    pub own_pid_namespace: bool,
    /// `CLONE_NEW*` of the namespaces that the container does not share with the runtime.
    pub namespaces: u64,
    /// Whether the container has a session keyring of its own.
    pub new_keyring: bool,
    /// Whether config.json has a process: without one the container cannot be started.
    pub has_process: bool,
    /// Whether its processes were made from a checkpoint: they run, and have executed nothing.
    #[serde(skip_serializing_if = "is_default")]
    pub is_restored: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The container's first process, told apart from a later one with the same id by its start time.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Init {
    pub pid: i32,
    /// Clock ticks after boot, `proc_pid_stat(5)`, field 22.
    pub start_time: u64,
}

/// runtime.md, "State", and `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// The word that engines read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What `/proc/PID/stat` says of a process.
struct Stat {
    state: char,
    flags: u64,
    threads: u64,
    start_time: u64,
}

impl Stat {
    /// The first thread may have ended before the others.
    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

/// Of a process that was forked and has not executed a program since: `PF_FORKNOEXEC`, the same since Linux 2.6.
const FORKED_BUT_NOT_EXECUTED: u64 = 0x40;
/// Of a process that executes nothing any more: `PF_EXITING`, as old.
const EXITING: u64 = 0x4;

/// None: there is no such process.
fn stat(pid: i32) -> nix::Result<Option<Stat>> {
    match sys::fs::read_short(format!("/proc/{pid}/stat").as_str()) {
        Ok(text) => Ok(parse_stat(&text)),
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name, in parentheses, may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let flags = fields.nth(5)?.parse().ok()?;
    let threads = fields.nth(10)?.parse().ok()?;
    let start_time = fields.nth(1)?.parse().ok()?;
    Some(Stat { state, flags, threads, start_time })
}

impl Init {
    /// Notes the start time of a process that exists.
    pub fn of(pid: i32) -> Result<Self> {
        let stat = stat(pid).context(|| format!("cannot look at process {pid}"))?;
        Ok(Self { pid, start_time: stat.map_or(0, |stat| stat.start_time) })
    }

    /// One that cannot be looked at is taken for a running one: nothing of it is given up.
    fn look(self) -> Option<Stat> {
        let unseen = Stat { state: 'R', flags: 0, threads: 1, start_time: self.start_time };
        let found = stat(self.pid).unwrap_or(Some(unseen));
        found.filter(|stat| stat.start_time == self.start_time && !stat.has_ended())
    }

    /// Whether the process, which closed what it closes on exec, is seen to have ended instead: the kernel clears the
    /// flag before it closes anything. One that was waited for already may have been more.
    pub fn ended_before_exec(self) -> bool {
        let is_same = |stat: &Stat| self.start_time == 0 || stat.start_time == self.start_time;
        stat(self.pid).ok().flatten().filter(is_same).is_some_and(|stat| stat.flags & FORKED_BUT_NOT_EXECUTED != 0)
    }

    /// Whether the process is ending, and waits for other processes to: idly in newer kernels.
    pub fn waits_to_end(self) -> bool {
        self.look().is_some_and(|stat| stat.flags & EXITING != 0 && matches!(stat.state, 'S' | 'I'))
    }

    /// Sends it a signal, by a descriptor where the kernel has them: that cannot mean a later process with the same id.
    pub fn signal(self, signal: i32) -> nix::Result<()> {
        match pidfd_open(Pid::from_raw(self.pid)) {
            Ok(pidfd) if self.is_alive() => pidfd_send_signal(&pidfd, signal),
            Ok(_) => Err(Errno::ESRCH),
            Err(Errno::ENOSYS) => kill(Pid::from_raw(self.pid), signal),
            Err(errno) => Err(errno),
        }
    }

    /// Whether the process is there and not a zombie.
    pub fn is_alive(self) -> bool {
        self.look().is_some()
    }
}

impl State {
    /// A state for a container that is being created.
    pub fn new(id: &str) -> Self {
        Self {
            version: VERSION,
            oci_version: VERSION_MAX.to_owned(),
            id: id.to_owned(),
            created: crate::log::now(),
            owner: nix::unistd::getuid().as_raw(),
            ..Self::default()
        }
    }

    /// The status, asked of the kernel: init waits for `start` until it has executed the program.
    pub fn status(&self) -> Status {
        let Some(init) = self.init else { return Status::Creating };
        match init.look() {
            None => Status::Stopped,
            Some(_) if !self.is_ready => Status::Creating,
            Some(_) if self.cgroup.is_frozen() => Status::Paused,
            Some(stat) if !self.is_restored && stat.flags & FORKED_BUT_NOT_EXECUTED != 0 => Status::Created,
            Some(_) => Status::Running,
        }
    }

    /// The state as runtime.md defines it, for hooks; engines get more from the `state` verb.
    pub fn to_oci(&self, status: Status) -> Vec<u8> {
        let pid = self.init.filter(|_| status != Status::Stopped).map_or(0, |init| init.pid);
        let mut object = serde_json::json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": status.name(),
            "pid": pid,
            "bundle": self.bundle,
        });
        if !self.annotations.is_empty() {
            object["annotations"] = serde_json::json!(self.annotations);
        }
        object.to_string().into_bytes()
    }
}

/// The containers below `--root`.
pub struct Store {
    root: PathBuf,
}

/// A container's directory, with its lock if it was taken.
pub struct Container {
    pub path: PathBuf,
    lock: Option<Flock<OwnedFd>>,
}

impl Store {
    /// The store at `root`, which is made when the first container is.
    pub fn new(root: PathBuf) -> Result<Self> {
        if !root.components().any(|component| matches!(component, Component::Normal(_))) {
            return Err(Error::new("the root of the file system cannot hold the state").hint("pass another --root"));
        }
        Ok(Self { root })
    }

    /// Reserves `id`: makes its directory and locks it.
    pub fn reserve(&self, id: &str) -> Result<Container> {
        validate_id(id)?;
        self.make_root()?;
        let path = self.root.join(id);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(Error::new(format!("container with given ID already exists: {id}")).path(&path))
            }
            result => {
                result.on_path("cannot make the container's directory", &path)?;
                Container::lock(path.clone()).map_err(|error| {
                    if error == does_not_exist(id) {
                        return Error::new("another kelson is at work on this container").path(path);
                    }
                    let _ = fs::remove_dir(path);
                    error
                })
            }
        }
    }

    fn make_root(&self) -> Result<()> {
        if self.root.is_dir() {
            return Ok(());
        }
        let made = DirBuilder::new().recursive(true).mode(0o711).create(&self.root);
        made.on_path("cannot make the directory for the state", &self.root)?;
        // Sticky, so that what cleans $XDG_RUNTIME_DIR leaves it alone (XDG Base Directory Specification).
        if !nix::unistd::geteuid().is_root() {
            let _ = fs::set_permissions(&self.root, fs::Permissions::from_mode(0o1711));
        }
        Ok(())
    }

    /// Where the container's directory is, or will be.
    pub fn directory(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// The directory of an existing container, locked for a verb that changes it.
    pub fn open(&self, id: &str) -> Result<Container> {
        Container::lock(self.existing(id)?)
    }

    /// The state of an existing container, without a lock.
    pub fn load(&self, id: &str) -> Result<State> {
        Container { path: self.existing(id)?, lock: None }.load()
    }

    /// The directory of a container that exists.
    fn existing(&self, id: &str) -> Result<PathBuf> {
        validate_id(id)?;
        let path = self.root.join(id);
        match fs::metadata(&path) {
            Ok(data) if data.is_dir() => Ok(path),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).on_path("cannot look for the container", path)
            }
            _ => Err(does_not_exist(id)),
        }
    }

    /// The configuration that a container was made with: later changes of its bundle do not matter (runtime.md).
    pub fn spec(&self, id: &str) -> Result<Spec> {
        validate_id(id)?;
        Spec::load(&self.root.join(id)).map(|(spec, _)| spec)
    }

    /// The states of all containers, by id. What is about to be made or removed is left out; so is, with a warning, what
    /// cannot be read.
    pub fn list(&self) -> Result<Vec<State>> {
        let entries = fs::read_dir(&self.root).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.on_path("cannot list the containers", &self.root)?;
        let mut ids: Vec<_> = entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.sort();
        let known = |id: &String| match self.load(id) {
            Ok(state) => Some(state),
            Err(_) if !self.is_left(id) => None,
            Err(error) => {
                crate::log::warn(format!("{id} is left out: {error}"));
                None
            }
        };
        Ok(ids.iter().filter_map(known).collect())
    }

    /// Whether there is a directory of this name and no other kelson at work on it.
    fn is_left(&self, id: &str) -> bool {
        let directory = File::open(self.root.join(id));
        let free = |directory: File| {
            let lock = Flock::lock(directory, FlockArg::LockSharedNonblock);
            lock.map(release).is_ok()
        };
        directory.is_ok_and(|directory| directory.metadata().is_ok_and(|data| data.is_dir()) && free(directory))
    }
}

/// The words that engines take for "it is gone already".
pub fn does_not_exist(id: &str) -> Error {
    Error::new(format!("container {id:?} does not exist"))
}

/// Ids as runc allows them: they become names of directories and cgroups.
pub fn validate_id(id: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() || id == "." || id == ".." || id.len() > 1024 || !id.bytes().all(fits) {
        let shown: String = id.chars().take(64).collect();
        return Err(Error::new(format!("invalid container ID {shown:?}")).hint("letters, digits and _ + - . only"));
    }
    Ok(())
}

/// Whether `path` leads to this very directory.
fn is_at(directory: &OwnedFd, path: &Path) -> nix::Result<bool> {
    let own = fstat(directory)?;
    match nix::sys::stat::stat(path) {
        Err(Errno::ENOENT) => Ok(false),
        found => Ok(identity(found?) == identity(own)),
    }
}

/// Gives a lock back. One that will not go ends with this process: dropped, it would be a panic.
fn release<T: Flockable>(mut lock: Flock<T>) {
    const ATTEMPTS: usize = 3;
    for _ in 0..ATTEMPTS {
        match lock.unlock() {
            Ok(_) => return,
            Err((back, _)) => lock = back,
        }
    }
    std::mem::forget(lock);
}

impl Drop for Container {
    fn drop(&mut self) {
        self.unlock();
    }
}

impl Container {
    fn lock(path: PathBuf) -> Result<Self> {
        let began = Instant::now();
        let directory = sys::fs::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY);
        let mut directory = directory.on_path("cannot open the container's directory", &path)?;
        let lock = loop {
            match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                Err((back, Errno::EWOULDBLOCK)) if began.elapsed() < LOCK_DEADLINE => directory = back,
                Err((_, errno)) => {
                    return Err(Error::new("another kelson is at work on this container").path(path).errno(errno));
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let is_there = is_at(&lock, &path);
        let locked = Self { path, lock: Some(lock) };
        if is_there.on_path("cannot look at the container's directory", &locked.path)? {
            return Ok(locked);
        }
        // Whoever had the lock has removed the container; what is there now is another's.
        Err(does_not_exist(&locked.path.file_name().unwrap_or_default().to_string_lossy()))
    }

    /// Lets other verbs work on the container.
    pub fn unlock(&mut self) {
        if let Some(lock) = self.lock.take() {
            release(lock);
        }
    }

    /// The number of the lock's descriptor. A copy of this process has to close it: the lock belongs to all copies,
    /// and would otherwise outlive a runtime that is killed.
    pub fn lock_descriptor(&self) -> Option<i32> {
        use std::os::fd::AsRawFd;
        self.lock.as_ref().map(|lock| lock.as_raw_fd())
    }

    /// Reads state.json.
    pub fn load(&self) -> Result<State> {
        let path = self.path.join("state.json");
        let bytes = match sys::fs::read(&path) {
            Err(Errno::ENOENT) => return Err(self.interrupted()),
            result => result.on_path("the container's state cannot be read", &path)?,
        };
        let invalid = |reason: String| {
            Error::new(format!("the container's state is not valid: {reason}"))
                .path(&path)
                .hint("what belongs to the container cannot be told: end its processes, then remove its directory")
        };
        let state: State = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if state.version > VERSION {
            let message = format!("the container's state has version {}, from a newer kelson", state.version);
            return Err(Error::new(message).path(path));
        }
        if state.version == 0 || state.id.is_empty() {
            return Err(invalid("it has no version, or no id".to_owned()));
        }
        Ok(state)
    }

    /// There is only the directory.
    fn interrupted(&self) -> Error {
        let id = self.path.file_name().unwrap_or_default();
        Error::new(format!("container {id:?} does not exist: its creation was interrupted, or has only begun"))
            .errno(Errno::ENOENT)
            .hint("`kelson delete` makes its name free")
    }

    /// Replaces state.json.
    pub fn save(&self, state: &State) -> Result<()> {
        let (new, path) = (self.path.join("state.json.new"), self.path.join("state.json"));
        let text = serde_json::to_vec(state).map_err(|error| Error::new(format!("cannot write the state: {error}")))?;
        let mut options = File::options();
        let written = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&new, &path));
        written.on_path("cannot write the container's state", path)
    }

    /// Keeps the configuration as it is now, for [`Store::spec`].
    pub fn keep_config(&self, config: &[u8]) -> Result<()> {
        let path = self.path.join(CONFIG);
        let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
        made.and_then(|mut file| file.write_all(config)).on_path("cannot keep the configuration", path)
    }

    /// Removes the directory: kelson's own files and nothing else.
    pub fn remove(&self) -> Result<()> {
        self.remove_file("state.json")?;
        self.remove_file(CONFIG)?;
        // Seldom is there more than that.
        if fs::remove_dir(&self.path).is_ok() {
            return Ok(());
        }
        self.remove_file("state.json.new")?;
        self.remove_file(START_SOCKET)?;
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.on_path("cannot remove the container's directory", &self.path),
        }
    }

    fn remove_file(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.on_path("cannot remove", self.path.join(name)),
        }
    }

    /// The directory as a short path: a socket's is limited to 108 bytes.
    pub fn socket_directory(&self) -> Result<OwnedFd> {
        File::open(&self.path).on_path("cannot open the container's directory", &self.path).map(OwnedFd::from)
    }
}

/// The copy of the bundle's configuration.
const CONFIG: &str = "config.json";

/// The socket on which init waits for `start`, in the container's directory.
pub const START_SOCKET: &str = "start.sock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names() {
        for id in ["a", "A_b+c-d.e", ".x", "0"] {
            assert!(validate_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "../../x", "a\n", "a b", "é", "a\0", &"x".repeat(5000)] {
            assert!(validate_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn this_process_is_alive_and_another_with_its_id_is_not() {
        let own = Init::of(std::process::id() as i32).unwrap();
        assert!(own.start_time > 0 && own.is_alive());
        assert!(!Init { start_time: own.start_time + 1, ..own }.is_alive());
    }

    #[test]
    fn a_newer_state_is_refused_and_an_unknown_key_is_not() {
        let text = r#"{"version":1,"id":"a","later":true,"init":{"pid":1,"startTime":2}}"#;
        let state: State = serde_json::from_str(text).unwrap();
        assert_eq!(state.init, Some(Init { pid: 1, start_time: 2 }));
    }

    #[test]
    fn the_root_of_the_file_system_is_no_store() {
        assert!(Store::new("/".into()).is_err());
    }
}
