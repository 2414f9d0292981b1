//! criu(8), which writes the processes of a container to image files and makes them anew from those. It is run as a
//! service for one request (`criu swrk`), and talked to over a socket: see [`message`].

pub mod cgroup2;
pub mod message;
pub mod mounts;
pub mod service;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, DirBuilder};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, access};

use crate::error::{Context, Error, Result};
use crate::sys::fs::open;
use message::Message;

/// What criu is asked for: its `criu_req_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
}

/// The fields of criu's `criu_opts` that are set here.
pub mod option {
    pub const IMAGES: u32 = 1;
    pub const PID: u32 = 2;
    pub const LEAVE_RUNNING: u32 = 3;
    pub const EXT_UNIX_SK: u32 = 4;
    pub const TCP_ESTABLISHED: u32 = 5;
    pub const EVASIVE_DEVICES: u32 = 6;
    pub const SHELL_JOB: u32 = 7;
    pub const FILE_LOCKS: u32 = 8;
    pub const LOG_LEVEL: u32 = 9;
    pub const LOG_FILE: u32 = 10;
    pub const PAGE_SERVER: u32 = 11;
    pub const NOTIFY: u32 = 12;
    pub const ROOT: u32 = 13;
    pub const PARENT: u32 = 14;
    pub const TRACK_MEMORY: u32 = 15;
    pub const AUTO_DEDUP: u32 = 16;
    pub const WORK: u32 = 17;
    pub const LINK_REMAP: u32 = 18;
    pub const EXTERNAL_MOUNT: u32 = 23;
    pub const CGROUP_ROOT: u32 = 25;
    pub const AS_SIBLING: u32 = 26;
    pub const INHERITED: u32 = 27;
    pub const CGROUPS: u32 = 34;
    pub const EXTERNAL: u32 = 37;
    pub const EMPTY_NAMESPACES: u32 = 38;
    pub const JOINED: u32 = 39;
    pub const FREEZE_CGROUP: u32 = 44;
    pub const TCP_SKIP_IN_FLIGHT: u32 = 46;
    pub const LAZY_PAGES: u32 = 48;
    pub const PTS_MASTER: u32 = 50;
    pub const CONFIG_FILE: u32 = 51;
    pub const TCP_CLOSE: u32 = 52;
    pub const LSM_PROFILE: u32 = 53;
    pub const LSM_MOUNT_CONTEXT: u32 = 63;
    pub const NETWORK_LOCK: u32 = 64;
}

/// Where the images and the log are.
pub struct Directories {
    pub images: OwnedFd,
    pub path: PathBuf,
    work: OwnedFd,
    log: PathBuf,
    log_name: &'static str,
}

impl Directories {
    /// Makes the directory of the images, and the one for the log where it is another.
    pub fn make(images: &Path, work: Option<&Path>, log_name: &'static str) -> Result<Self> {
        make_directory(images)?;
        work.map_or(Ok(()), make_directory)?;
        Self::open(images, work, log_name)
    }

    /// Opens them; that for the log is made if it does not exist.
    pub fn open(images: &Path, work: Option<&Path>, log_name: &'static str) -> Result<Self> {
        work.map_or(Ok(()), make_directory)?;
        let opened =
            |path: &Path| open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).on_path("cannot open the directory", path);
        let work = work.unwrap_or(images);
        Ok(Self {
            images: opened(images)?,
            path: images.to_owned(),
            work: opened(work)?,
            log: work.join(log_name),
            log_name,
        })
    }

    /// The options for them.
    pub fn options(&self, options: Message) -> Message {
        const DEBUG: u64 = 4;
        options
            .number(option::IMAGES, self.images.as_raw_fd() as u64)
            .number(option::WORK, self.work.as_raw_fd() as u64)
            .text(option::LOG_FILE, self.log_name)
            .number(option::LOG_LEVEL, DEBUG)
    }

    /// Adds to an error of criu's what its log says.
    pub fn explain(&self, error: Error) -> Error {
        let log = fs::read(&self.log).unwrap_or_default();
        match excerpt(&String::from_utf8_lossy(&log)) {
            why if why.is_empty() => error,
            why => Error::new(format!("{error}: {why}")).path(&self.log).hint("the file has the whole story"),
        }
    }
}

fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).on_path("cannot make the directory", path)
}

/// The first errors of a log: those after them follow from them.
fn excerpt(log: &str) -> String {
    const MOST: usize = 3;
    let error = |line: &'_ str| {
        let (_, told) = line.split_once(" Error (")?;
        let (_, told) = told.split_once("): ")?;
        // Without these it goes on.
        let is_harmless = ["rlimit: ", "tun: "].iter().any(|prefix| told.starts_with(prefix));
        (!is_harmless && !told.ends_with("FAILED.")).then(|| told.trim().to_owned())
    };
    log.lines().filter_map(error).take(MOST).collect::<Vec<_>>().join("; ")
}

fn c_string(text: &[u8]) -> nix::Result<CString> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

/// The annotation that names criu's configuration file.
pub const CONFIG: &str = "org.criu.config";

/// Adds criu's configuration file: the one that [`CONFIG`] names (an empty one: none), else kelson's, else runc's. What
/// it says comes before the options.
pub fn configure(options: Message, annotations: &BTreeMap<String, String>) -> Message {
    let defaults = ["/etc/criu/kelson.conf", "/etc/criu/runc.conf"];
    let file = match annotations.get(CONFIG) {
        Some(file) => Some(file.as_str()).filter(|file| !file.is_empty()),
        None => defaults.into_iter().find(|file| Path::new(file).exists()),
    };
    options.optional(option::CONFIG_FILE, file)
}

/// Finds the program.
pub fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let is_program = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    std::env::split_paths(&path).map(|directory| directory.join("criu")).find(is_program).ok_or_else(|| {
        Error::new("cannot find criu in $PATH").hint("install it: on most distributions the package is called criu")
    })
}

/// The file for the descriptors that a container was given, as runc writes it: a list of what they lead to.
const DESCRIPTORS: &str = "descriptors.json";

/// Writes down what the standard streams of process `pid` lead to, for [`inherited_pipes`].
pub fn keep_streams(images: &Path, pid: i32) -> Result<()> {
    let path = images.join(DESCRIPTORS);
    let target = |number: i32| fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
    let streams: Vec<_> = (0..3).map(|number| target(number).to_string_lossy().into_owned()).collect();
    fs::write(&path, serde_json::json!(streams).to_string()).on_path("cannot write", path)
}

/// The pipes among the standard streams of a container, which its caller's take the place of.
pub fn inherited_pipes(options: Message, images: &Path) -> Result<Message> {
    let path = images.join(DESCRIPTORS);
    let mut text = String::new();
    let read = fs::File::open(&path).and_then(|file| file.take(64 * 1024).read_to_string(&mut text));
    read.on_path("cannot read what the container's standard streams were", &path)?;
    let streams: Vec<String> = serde_json::from_str(&text)
        .map_err(|error| Error::new(format!("not a list of the container's standard streams: {error}")).path(&path))?;
    let pipes = streams.iter().zip(0_u64..3).filter(|(target, _)| target.contains("pipe:"));
    Ok(pipes.fold(options, |options, (target, number)| {
        options.message(option::INHERITED, &Message::default().text(1, target).number(2, number))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_quoted_from_its_first_error_on() {
        let log = "(00.086566) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: x\n\
            (00.1) Dumping path for 0 fd\n\
            (00.126118) Error (criu/files-reg.c:1790): Can't lookup mount=24 for fd=0 path=/dev/null\n\
            (00.126131) Error (criu/cr-dump.c:1545): Dump files (pid: 2042) failed with -1\n\
            (00.198292) Error (criu/cr-dump.c:1975): Dumping FAILED.\n";
        assert_eq!(
            excerpt(log),
            "Can't lookup mount=24 for fd=0 path=/dev/null; Dump files (pid: 2042) failed with -1"
        );
        assert_eq!(excerpt(""), "");
    }
}
