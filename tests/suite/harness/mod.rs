//! What the tests stand on: a [`Host`] that is the same after a test as before, and [`Bundle`]s to run.
//!
//! ```ignore
//! let host = Host::new();
//! let mut bundle = host.bundle();
//! bundle.args(&["sh", "-c", "exit 7"]);
//! assert_eq!(bundle.run().code, 7);
//! ```

mod bundle;
mod call;
mod host;
mod snapshot;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use bundle::Bundle;
#[allow(unused_imports)]
pub use call::{Call, Output, Running};
pub use host::Host;
pub use snapshot::hierarchies;

/// How the host's cgroups look (tests/run makes all that the machine can show).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// v1 hierarchies, and the unified one beside them.
    Hybrid,
    /// v1 hierarchies only.
    V1,
    /// The unified hierarchy only.
    V2,
}

impl View {
    /// What this process sees; checked against what `tests/run` meant it to see.
    pub fn current() -> Self {
        let seen = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            Self::V2
        } else if Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists() {
            Self::Hybrid
        } else {
            Self::V1
        };
        if let Ok(meant) = std::env::var("KELSON_CGROUP_VIEW") {
            assert_eq!(format!("{seen:?}").to_lowercase(), meant, "the view of the cgroups is not the one meant");
        }
        seen
    }

    pub fn is_v2(self) -> bool {
        self == Self::V2
    }
}

/// A program of the workspace: named by the variable in upper case (`kelson-hook-record` is `KELSON_HOOK_RECORD`),
/// else beside this test's own, else of the release build.
pub fn program(name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(name.to_uppercase().replace('-', "_")) {
        return path.into();
    }
    let own = std::env::current_exe().expect("this test's own path");
    let profile = own.ancestors().nth(2).expect("the profile's directory");
    let release = profile.with_file_name("release");
    let found = [profile, &release].map(|directory| directory.join(name)).into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not built: run tests/run, or cargo build with -p of its package"))
}

/// Says why a test does not run here: on standard error itself, since the test runner hides the output of a test
/// that passes. Use as `return skip("…")`.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    let _ = std::io::stderr().write_all(format!("SKIPPED {name}: {reason}\n").as_bytes());
}

/// That many seconds, or $KELSON_SLOWNESS times as many: for machines that are emulated.
pub fn seconds(count: u64) -> Duration {
    let factor = std::env::var("KELSON_SLOWNESS").ok().and_then(|text| text.parse::<u64>().ok());
    Duration::from_secs(count * factor.unwrap_or(1))
}

/// Waits up to 30 s until `is_so`.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let (began, deadline) = (Instant::now(), seconds(30));
    while !is_so() {
        assert!(began.elapsed() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The children of a process's first thread, zombies too.
pub fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Whether there is such a process and it is not a zombie.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
