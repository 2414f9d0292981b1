//! The command line: runc's flags, one parser for each verb. Only the chosen verb's parser is built, since building
//! the tree of all takes longer than starting a container's process.

mod arguments;
mod checkpoint;
mod create;
mod delete;
mod events;
pub mod exec;
mod features;
mod help;
mod kill;
mod list;
mod parser;
mod pause;
mod ps;
mod restore;
mod resume;
mod run;
mod seccomp;
mod spec;
mod start;
mod state;
pub mod update;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Parser};

use crate::cgroup::{Manager, is_rootless};
use crate::error::{Context, Error, Result};
use crate::seal;
use crate::state::Store;
use crate::sys::child::keep_children;
use crate::{log, trace};

/// What every verb takes, before or after its name.
#[derive(Args, Debug, Default)]
pub struct Global {
    /// Directory for the state of containers
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Write the log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Format of the log: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: String,
    /// Log more
    #[arg(long)]
    debug: bool,
    /// Level of the log: debug, info, warning or error
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Write to this file how long each step took, in the format of Chrome's tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Make cgroups through systemd: --cgroup-manager systemd
    #[arg(long)]
    systemd_cgroup: bool,
    /// Who makes cgroups: cgroupfs, systemd or disabled
    #[arg(long, value_name = "MANAGER")]
    cgroup_manager: Option<String>,
    /// Whether cgroups may be missing: true, false or auto; `spec --rootless`: for a user without privileges
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    rootless: String,
    /// Ignored, as by runc: criu is found by $PATH
    #[arg(long, value_name = "FILE")]
    criu: Option<PathBuf>,
}

/// A verb: its flags, and what it does with them.
trait Verb: Parser {
    fn global(&self) -> &Global;
    /// What has to be done before any file is opened.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }
    /// The exit code of an error.
    const FAILURE: i32 = 1;
    /// Returns the exit code.
    fn run(&self, store: &Store) -> Result<i32>;
}

/// The verbs, and what each is for.
const VERBS: &[(&str, &str)] = &[
    ("checkpoint", "write the processes of a container to files, with criu"),
    ("create", "create a container"),
    ("delete", "delete a container"),
    ("events", "show what a container uses, and when its memory runs out"),
    ("exec", "run a process in a container"),
    ("features", "show the features that are supported, as JSON"),
    ("kill", "send a signal to a container's first process"),
    ("list", "list containers"),
    ("pause", "stop all processes of a container where they are"),
    ("ps", "list the processes of a container"),
    ("restore", "create a container from a checkpoint"),
    ("resume", "let a paused container go on"),
    ("run", "create and start a container"),
    ("seccomp compile", "print the filter that a seccomp profile comes to"),
    ("seccomp explain", "tell what a seccomp profile does with a system call"),
    ("spec", "write a config.json to begin with"),
    ("start", "start a created container"),
    ("state", "show the state of a container, as JSON"),
    ("update", "change the limits of a container"),
];

/// Runs the program; returns its exit code.
pub fn main(arguments: impl Iterator<Item = OsString>) -> i32 {
    log::catch_panics();
    let line = arguments::Line::read(arguments.skip(1));
    let name = line.name().unwrap_or_default();
    let Some(run) = runner(&name).filter(|_| !line.asks_for_version) else { return help::without_verb(&line) };
    keep_children();
    let began = if line.is_traced() { trace::now() } else { 0 };
    // First of all: what is read before it would be read again.
    let began = match &*name {
        "create" | "exec" | "run" => seal::ensure(began),
        _ => Ok(began),
    };
    run(&line, began)
}

/// What reads the flags of a verb and runs it.
type Runner = fn(&arguments::Line, Result<u64>) -> i32;

fn runner(name: &str) -> Option<Runner> {
    Some(match name {
        "checkpoint" => execute::<checkpoint::Checkpoint>,
        "create" => execute::<create::Create>,
        "delete" => execute::<delete::Delete>,
        "events" => execute::<events::Events>,
        "exec" => execute::<exec::Exec>,
        "features" => execute::<features::Features>,
        "kill" => execute::<kill::Kill>,
        "list" => execute::<list::List>,
        "pause" => execute::<pause::Pause>,
        "ps" => execute::<ps::Ps>,
        "restore" => execute::<restore::Restore>,
        "resume" => execute::<resume::Resume>,
        "run" => execute::<run::Run>,
        "seccomp compile" => execute::<seccomp::Compile>,
        "seccomp explain" => execute::<seccomp::Explain>,
        "spec" => execute::<spec::Spec>,
        "start" => execute::<start::Start>,
        "state" => execute::<state::State>,
        "update" => execute::<update::Update>,
        _ => return None,
    })
}

fn execute<V: Verb>(line: &arguments::Line, began: Result<u64>) -> i32 {
    let verb = match parser::parse::<V>(line.for_parser()) {
        Ok(verb) => verb,
        Err(error) => return help::usage::<V>(line, &error),
    };
    let prepared = began.and_then(|began| verb.prepare().map(|()| began));
    let opened = verb.global().open_log();
    let traced = prepared.and_then(|began| opened.and_then(|()| verb.global().begin_trace(began)));
    let result = traced.and_then(|()| verb.run(&Store::new(verb.global().state_root())?));
    trace::mark("end");
    // What the verb has done stands.
    trace::finish().unwrap_or_else(|error| log::warn(error.to_string()));
    match result {
        Ok(code) => {
            log::flush();
            code
        }
        Err(error) => {
            log::error(&error);
            V::FAILURE
        }
    }
}

/// Prints a verb's answer. What cannot be written is an error, as for any other file.
fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).context(|| "cannot write to standard output")
}

impl Global {
    fn begin_trace(&self, began: u64) -> Result<()> {
        parser::given(self.trace.as_ref()).map_or(Ok(()), |path| trace::begin(&path, began))
    }

    fn open_log(&self) -> Result<()> {
        let format = match self.log_format.as_str() {
            "" | "text" => log::Format::Text,
            "json" => log::Format::Json,
            other => return Err(Error::new(format!("unknown log format {other:?}")).hint("text or json")),
        };
        let level = self.log_level.as_deref().unwrap_or("warning");
        if !matches!(level, "debug" | "info" | "warn" | "warning" | "error") {
            return Err(Error::new(format!("unknown log level {level:?}")).hint("debug, info, warning or error"));
        }
        let is_auto = matches!(self.rootless.as_str(), "" | "auto");
        if !is_auto && parser::boolean(&self.rootless).is_err() {
            return Err(Error::new(format!("--rootless cannot be {:?}", self.rootless)).hint("true, false or auto"));
        }
        if self.criu.is_some() {
            log::warn("--criu is ignored: criu is found by $PATH");
        }
        log::open(parser::given(self.log.as_ref()).as_deref(), format, self.debug || level == "debug")
    }

    /// Root's containers are below /run; a user's, below the directory that the session has for such.
    fn state_root(&self) -> PathBuf {
        const NAME: &str = "kelson";
        if let Some(root) = parser::given(self.root.as_ref()) {
            return std::path::absolute(&root).unwrap_or(root);
        }
        // Inside a user namespace everybody is root; as with runc, one who is not called so is a user.
        let is_named_root = || std::env::var("USER").is_ok_and(|user| user == "root");
        let is_user = !nix::unistd::geteuid().is_root() || is_rootless() && !is_named_root();
        match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(directory) if is_user && !directory.is_empty() => PathBuf::from(directory).join(NAME),
            _ => PathBuf::from("/run").join(NAME),
        }
    }

    /// Who makes the cgroups of a new container.
    fn manager(&self) -> Result<Manager> {
        match (self.systemd_cgroup, self.cgroup_manager.as_deref()) {
            (true, None) | (_, Some("systemd")) => Ok(Manager::Systemd),
            (_, None | Some("cgroupfs")) => Ok(Manager::Cgroupfs),
            (_, Some("disabled")) => Ok(Manager::Disabled),
            (_, Some(other)) => {
                Err(Error::new(format!("unknown cgroup manager {other:?}")).hint("cgroupfs, systemd or disabled"))
            }
        }
    }
}
