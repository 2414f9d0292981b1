//! `spy`: as a hostile container's first process, looks at every process that appears until SIGTERM, and tries to get
//! hold of what a runtime that adds processes may leave open in them (CVE-2016-9962, CVE-2019-5736). Says once for each
//! kind what worked while a process was not yet a program of the container's; at the end, how many such it has seen.
#![cfg_attr(not(test), no_main)]

use kelson_conformance::{Result, during, entry, say, sys};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// The container's own programs are in this directory.
const OWN: &str = "/bin/";
const CAP_SYS_ADMIN: u64 = 1 << 21;

entry!("spy", run);

fn run(_: &[OsString]) -> Result<i32> {
    let stop = sys::signal_set(libc::SIGTERM);
    sys::block(stop).map_err(during("block SIGTERM"))?;
    let mut spy = Spy::default();
    say("ready")?;
    while !sys::has_come(stop) {
        for entry in fs::read_dir("/proc").map_err(during("list processes"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "1" && name.bytes().all(|byte| byte.is_ascii_digit()) {
                spy.look_at(&format!("/proc/{name}"))?;
            }
        }
    }
    say(format!("seen {}", spy.seen))?;
    Ok(0)
}

#[derive(Default)]
struct Spy {
    seen: u64,
    told: BTreeSet<String>,
}

impl Spy {
    fn tell(&mut self, finding: &str) -> Result<()> {
        if self.told.insert(finding.to_owned()) { say(finding) } else { Ok(()) }
    }

    fn look_at(&mut self, process: &str) -> Result<()> {
        let is_own = |process: &str| fs::read_link(format!("{process}/exe")).is_ok_and(|exe| exe.starts_with(OWN));
        if is_own(process) {
            return Ok(());
        }
        let found = attack(process);
        // It may have become its program, or be ending without memory, meanwhile: then what was found was the program's.
        if !is_own(process) && status(process, "VmSize:").is_some() {
            self.seen += 1;
            found.iter().try_for_each(|finding| self.tell(finding))?;
        }
        Ok(())
    }
}

/// What can be had of a process.
fn attack(process: &str) -> Vec<String> {
    let mut found = Vec::new();
    let path = |name: &str| format!("{process}/{name}");
    let writable = |path: String| File::options().append(true).open(path).is_ok();
    if let Ok(exe) = File::open(path("exe")) {
        found.push("exe".to_owned());
        if writable(format!("/proc/self/fd/{}", exe.as_raw_fd())) {
            found.push("exe is writable".to_owned());
        }
    }
    if writable(path("exe")) {
        found.push("exe is writable".to_owned());
    }
    if File::options().read(true).write(true).open(path("mem")).is_ok() {
        found.push("mem".to_owned());
    }
    for name in ["environ", "cmdline"] {
        let text = fs::read(path(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).replace('\0', " ");
        if !["", "kelson init"].contains(&text.trim()) {
            found.push(format!("{name}: {text}"));
        }
    }
    let own = fs::metadata("/").map(|root| (root.dev(), root.ino())).ok();
    for name in ["root", "cwd"] {
        if let Ok(place) = fs::metadata(path(name)) {
            found.push(name.to_owned());
            if Some((place.dev(), place.ino())) != own {
                found.push(format!("{name} is not the container's"));
            }
        }
    }
    for entry in fs::read_dir(path("fd")).into_iter().flatten().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        let number = entry.file_name().to_string_lossy().into_owned();
        if !matches!(number.as_str(), "0" | "1" | "2") && !target.is_empty() && !target.starts_with("socket:") {
            found.push(format!("descriptor {number}: {target}"));
        }
    }
    if effective(process).is_some_and(|set| set & CAP_SYS_ADMIN != 0) {
        found.push("CAP_SYS_ADMIN".to_owned());
    }
    found
}

/// The effective capabilities, which everybody may read.
fn effective(process: &str) -> Option<u64> {
    u64::from_str_radix(&status(process, "CapEff:")?, 16).ok()
}

fn status(process: &str, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
}
