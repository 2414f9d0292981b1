//! The probe: what a container's process sees, section by section.

mod context;
mod credentials;
pub mod files;
pub mod processes;
mod resources;

use nix::Result;
use nix::errno::Errno;
use serde_json::{Map, Value, json};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;

/// Makes a section from the program's arguments.
type Section = fn(&[OsString]) -> Result<Value>;

/// A section's name and how it is made.
const SECTIONS: [(&str, Section); 36] = [
    ("pid", |_| Ok(credentials::pid())),
    ("ppid", |_| Ok(credentials::ppid())),
    ("pgid", |_| Ok(credentials::pgid())),
    ("sid", |_| credentials::sid()),
    ("uid", |_| credentials::uid()),
    ("gid", |_| credentials::gid()),
    ("groups", |_| credentials::groups()),
    ("umask", |_| Ok(credentials::umask())),
    ("caps", |_| credentials::caps()),
    ("noNewPrivs", |_| credentials::no_new_privs()),
    ("seccomp", |_| credentials::seccomp()),
    ("dumpable", |_| credentials::dumpable()),
    ("keyring", |_| credentials::keyring()),
    ("apparmor", |_| credentials::apparmor()),
    ("selinux", |_| credentials::selinux()),
    ("args", |args| Ok(list(args))),
    ("env", |_| Ok(context::env())),
    ("cwd", |_| context::cwd()),
    ("hostname", |_| context::hostname()),
    ("domainname", |_| context::domainname()),
    ("fds", |_| context::fds()),
    ("mounts", |_| context::mounts()),
    ("namespaces", |_| context::namespaces()),
    ("cgroup", |_| context::cgroup()),
    ("timeOffsets", |_| context::time_offsets()),
    ("tty", |_| Ok(context::tty())),
    ("rlimits", |_| resources::rlimits()),
    ("sigBlk", |_| resources::status("SigBlk")),
    ("sigIgn", |_| resources::status("SigIgn")),
    ("sigCgt", |_| resources::status("SigCgt")),
    ("scheduler", |_| resources::scheduler()),
    ("ioprio", |_| resources::ioprio()),
    ("affinity", |_| resources::affinity()),
    ("personality", |_| resources::personality()),
    ("mempolicy", |_| resources::mempolicy()),
    ("oomScoreAdj", |_| resources::oom_score_adj()),
];

/// The names of all sections.
pub fn section_names() -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().map(|(name, _)| *name)
}

/// The sections in `wanted`, or all if none is named.
pub fn report(args: &[OsString], wanted: &[OsString]) -> Value {
    let chosen = SECTIONS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|asked| asked == name));
    chosen.map(|(name, make)| ((*name).to_owned(), or_error(make(args)))).collect::<Map<_, _>>().into()
}

/// The value, or the error's name: one thing that cannot be seen hides no other.
fn or_error<T: Into<Value>>(found: Result<T>) -> Value {
    found.map_or_else(|errno| json!({ "error": name_of(errno) }), Into::into)
}

/// The name of an error, such as ENOENT.
pub fn name_of(errno: Errno) -> String {
    format!("{errno:?}")
}

/// The errno of a failure in the standard library; EIO for one that has none.
pub fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// A file's text, without the line feed or NUL at its end.
fn read(path: &str) -> Result<String> {
    let bytes = fs::read(path).map_err(|error| errno_of(&error))?;
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\0']).to_owned())
}

fn list(texts: &[OsString]) -> Value {
    texts.iter().map(|text| lossy(text)).collect()
}

fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}
