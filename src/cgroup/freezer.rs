//! The freezer: stops all processes of a container where they are, and lets them go on.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::write;

use super::CgroupState;
use super::events::Events;
use super::nested;
use super::processes::{describe, processes_below};
use crate::error::{Context, Error, Result};
use crate::sys::fs::read_at;

/// How long processes have to stop.
const DEADLINE: Duration = Duration::from_secs(10);

/// The files of one version of the freezer, and what is in them.
#[derive(Debug)]
struct Freezer {
    control: &'static str,
    frozen: &'static str,
    thawed: &'static str,
    /// Holds 1 where this cgroup itself, and not one above it, is meant to be frozen.
    wish: &'static str,
}

/// v1's comes first: on a hybrid host it is the one with the container's processes that engines look at.
const FREEZERS: [Freezer; 2] = [
    Freezer { control: "freezer.state", frozen: "FROZEN", thawed: "THAWED", wish: "freezer.self_freezing" },
    Freezer { control: "cgroup.freeze", frozen: "1", thawed: "0", wish: "cgroup.freeze" },
];

/// Whether this very cgroup is frozen or about to be.
pub fn is_frozen(directory: &Path) -> bool {
    FREEZERS.iter().any(|freezer| read(directory, freezer.wish) == "1")
}

/// Whether processes in an open cgroup are frozen, or about to be, with it or one above.
pub fn is_frozen_at(place: &OwnedFd) -> bool {
    let read = |file: &str| Some(String::from_utf8_lossy(&read_at(place.as_fd(), Path::new(file)).ok()?).into_owned());
    // v1's tells of the cgroups above, too.
    if read("freezer.state").is_some_and(|state| state.trim() != "THAWED") {
        return true;
    }
    let mut wish = "cgroup.freeze".to_owned();
    while let Some(text) = read(&wish) {
        if text.trim() == "1" {
            return true;
        }
        wish.insert_str(0, "../");
    }
    false
}

fn read(directory: &Path, file: &str) -> String {
    fs::read_to_string(directory.join(file)).unwrap_or_default().trim().to_owned()
}

impl CgroupState {
    fn freezer(&self) -> Option<(&'static Freezer, &Path)> {
        FREEZERS.iter().find_map(|freezer| Some((freezer, self.directory_with(freezer.control)?)))
    }

    /// The cgroup by which the container's processes can be frozen.
    pub fn freezer_directory(&self) -> Option<&Path> {
        self.freezer().map(|(_, directory)| directory)
    }

    /// Whether the container's processes are frozen.
    pub fn is_frozen(&self) -> bool {
        self.directories.iter().any(|directory| is_frozen(directory))
    }

    /// Freezes the container's processes, all or none: when some do not stop in time, the others go on.
    pub fn freeze(&self) -> Result<()> {
        let Some((freezer, directory)) = self.freezer() else {
            return Err(Error::new("the container has no cgroup that could be frozen")
                .hint("v1's freezer controller has to be mounted, or cgroup2 on Linux 5.2 or later"));
        };
        let path = directory.join(freezer.control);
        fs::write(&path, freezer.frozen).on_path("cannot freeze the cgroup", &path)?;
        freezer.wait(directory).inspect_err(|_| {
            let _ = fs::write(&path, freezer.thawed);
        })
    }

    /// Asks for them to be frozen, which stops most at once.
    pub fn begin_to_freeze(&self) {
        if let Some((freezer, directory)) = self.freezer() {
            let _ = fs::write(directory.join(freezer.control), freezer.frozen);
        }
    }

    /// Thaws the container's processes; cgroups below its own stay as the container has them.
    pub fn thaw(&self) -> Result<()> {
        let Some((freezer, directory)) = self.freezer() else { return Ok(()) };
        let path = directory.join(freezer.control);
        fs::write(&path, freezer.thawed).on_path("cannot thaw the cgroup", &path)
    }

    /// Thaws whatever is frozen, the cgroups below too: on v1 even a SIGKILL waits for that.
    pub fn thaw_whole(&self) {
        let Some((freezer, directory)) = self.freezer() else { return };
        nested::visit(directory, |place, name, _| {
            let control = openat(place, &name.join(freezer.control), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty());
            let _ = control.and_then(|control| write(control, freezer.thawed.as_bytes()));
        });
    }
}

impl Freezer {
    /// Waits until all processes have stopped: for the kernel's notice on v2; v1 has to be asked again and again, since
    /// processes that are made or moved meanwhile keep it from getting done.
    fn wait(&self, directory: &Path) -> Result<()> {
        let began = Instant::now();
        let events = Events::open(directory);
        for turn in 1_u32.. {
            let done = match &events {
                Some(events) => events.say("frozen 1"),
                None => read(directory, self.control) == self.frozen,
            };
            if done {
                return Ok(());
            }
            if began.elapsed() > DEADLINE {
                break;
            }
            match &events {
                Some(events) => events.wait(Duration::from_millis(100)),
                None => self.insist(directory, turn)?,
            }
        }
        let pids = processes_below(directory).iter().map(|pid| describe(*pid)).collect::<Vec<_>>().join(", ");
        Err(Error::new(format!("not all processes could be frozen in {} s: {pids}", DEADLINE.as_secs()))
            .path(directory))
    }

    /// Now and then a thaw gets processes over the point where they cannot be stopped.
    fn insist(&self, directory: &Path, turn: u32) -> Result<()> {
        let path = directory.join(self.control);
        if turn % 50 == 0 {
            let _ = fs::write(&path, self.thawed);
            sleep(Duration::from_millis(10));
        } else if turn % 5 == 0 {
            sleep(Duration::from_millis(1));
        }
        fs::write(&path, self.frozen).on_path("cannot freeze the cgroup", path)
    }
}
