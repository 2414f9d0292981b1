//! `probe`: runs as a container's process and says in JSON what it sees there, or does what its first argument says.
#![cfg_attr(not(test), no_main)]

use kelson_conformance::{Result, entry, probe, say};
use probe::{files, processes};
use std::ffi::OsString;

type Command = fn(&[OsString]) -> Result<i32>;

const COMMANDS: [(&str, Command); 15] = [
    ("sleep", processes::sleep),
    ("wait-term", processes::wait_term),
    ("exit", processes::exit),
    ("kill-self", processes::kill_self),
    ("write", files::write),
    ("open-write", files::open_write),
    ("stat", files::stat),
    ("mknod", files::make_node),
    ("memory", processes::memory),
    ("fork", processes::fork),
    ("zombies", processes::zombies),
    ("signals", processes::signals),
    ("echo-fd", files::echo_fd),
    ("true", |_| Ok(0)),
    ("help", |_| say(help()).map(|()| 0)),
];

entry!("probe", run);

fn run(args: &[OsString]) -> Result<i32> {
    let asked = args.get(1..).unwrap_or_default();
    if let Some((name, rest)) = asked.split_first() {
        if let Some((_, command)) = COMMANDS.iter().find(|(command, _)| name == command) {
            return command(rest);
        }
    }
    if let Some(unknown) = asked.iter().find(|name| probe::section_names().all(|section| *name != section)) {
        return Err(format!("no section or command '{}' (see probe help)", unknown.to_string_lossy()));
    }
    say(probe::report(args, asked))?;
    Ok(0)
}

fn help() -> String {
    let commands: Vec<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
    let sections: Vec<_> = probe::section_names().collect();
    format!(
        "usage: probe [SECTION...]\n       probe COMMAND [ARGUMENT...]\nsections: {}\ncommands: {}",
        sections.join(" "),
        commands.join(" ")
    )
}
