//! `kelson-hook-record FILE [NAME]`: appends what a hook sees (state, arguments, environment, namespaces,
//! descriptors) to FILE as one line of JSON.

use kelson_hooks::{Result, append_line, read_state, run};
use serde_json::{Map, Value, json};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::process::ExitCode;

fn main() -> ExitCode {
    run("kelson-hook-record", record)
}

fn record(args: &[OsString]) -> Result<()> {
    let (file, name) = match args {
        [file] => (file, None),
        [file, name] => (file, Some(text(name))),
        _ => return Err("usage: kelson-hook-record FILE [NAME]".into()),
    };
    let record = json!({
        "hook": name,
        "state": read_state()?,
        "cwd": env::current_dir().ok().map(|dir| text(dir.as_os_str())),
        "args": env::args_os().map(|arg| text(&arg)).collect::<Vec<_>>(),
        "env": env::vars_os().map(|(key, value)| (text(&key), text(&value).into())).collect::<Map<String, Value>>(),
        "namespaces": links("/proc/self/ns"),
        "fds": links("/proc/self/fd"),
    });
    append_line(file, &record)
}

/// The links in `dir` that can be read and still exist: the descriptor that lists `dir` itself does not.
fn links(dir: &str) -> Map<String, Value> {
    let names: Vec<OsString> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    let link = |name: OsString| {
        let target = fs::read_link(format!("{dir}/{}", text(&name))).ok()?;
        Some((text(&name), text(target.as_os_str()).into()))
    };
    names.into_iter().filter_map(link).collect()
}

fn text(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}
