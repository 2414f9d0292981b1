//! Help, version, and what is said of a command line that cannot be read.

use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};

use super::arguments::Line;
use super::{Global, VERBS, parser, print, runner};
use crate::error::Error;
use crate::log;
use crate::spec::VERSION_MAX;

/// Exit code for an unknown verb, as runc has it.
const UNKNOWN_VERB: i32 = 3;

/// What may stand before a verb.
#[derive(Debug, Parser)]
#[command(name = "kelson", args_override_self = true)]
struct Flags {
    #[command(flatten)]
    _global: Global,
    /// Print the version
    #[arg(long, short)]
    version: bool,
}

/// The program called without a verb that it could run, or for its version.
pub fn without_verb(line: &Line) -> i32 {
    match parser::parse::<Flags>(line.before_verb()) {
        Err(error) => return answer(&verbs(), line, &error),
        Ok(flags) if flags.version => return show(&version()),
        Ok(_) => {}
    }
    match line.name().as_deref() {
        None | Some("seccomp") => show(&verbs()),
        Some("help") => topic(line),
        Some(verb) => unknown(line, verb),
    }
}

/// Prints the help on the verb that follows.
fn topic(line: &Line) -> i32 {
    let asked = line.after_help();
    let Some(verb) = asked.name() else { return show(&verbs()) };
    runner(&verb).map_or_else(|| unknown(line, &verb), |run| run(&asked, Ok(0)))
}

fn unknown(line: &Line, verb: &str) -> i32 {
    report(line, &Error::new(format!("No help topic for '{verb}'")));
    UNKNOWN_VERB
}

fn show(text: &str) -> i32 {
    i32::from(print(text).is_err())
}

fn version() -> String {
    let commit = option_env!("KELSON_COMMIT").unwrap_or("unknown");
    format!("kelson version {}\ncommit: {commit}\nspec: {VERSION_MAX}\n", env!("CARGO_PKG_VERSION"))
}

/// The verbs, and what each is for.
fn verbs() -> String {
    let mut text =
        "kelson: an OCI container runtime\n\nUsage: kelson [GLOBAL FLAGS] VERB [FLAGS] [ARGUMENTS]\n\nVerbs:\n"
            .to_owned();
    for (verb, purpose) in VERBS {
        text += &format!("  {verb:<15} {purpose}\n");
    }
    text + "\nGlobal flags are shown by every `kelson VERB --help`; `kelson --version` tells the version.\n"
}

/// A command line that the verb's parser refuses.
pub fn usage<V: CommandFactory>(line: &Line, error: &clap::Error) -> i32 {
    answer(&format!("{}\n", V::command().render_help()), line, error)
}

/// As runc: the help on standard output, and the error, if it is one, as any other.
fn answer(help: &str, line: &Line, error: &clap::Error) -> i32 {
    let shown = show(help);
    if error.kind() == ErrorKind::DisplayHelp {
        return shown;
    }
    report(line, &Error::new(message(line, error)));
    1
}

/// Tells an error before the flags are read: what they say of the log holds as far as it can be made out.
fn report(line: &Line, error: &Error) {
    let is_json = line.value_of("log-format").is_some_and(|format| format == "json");
    let format = if is_json { log::Format::Json } else { log::Format::Text };
    let file = line.value_of("log").filter(|file| !file.is_empty());
    let _ = log::open(file.map(Path::new), format, false);
    log::error(error);
}

fn message(line: &Line, error: &clap::Error) -> String {
    match (error.kind(), error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue)) {
        // In the words by which podman finds out whether `restore` has a flag: it passes that without its value.
        (_, Some(ContextValue::String(flag)), Some(ContextValue::String(value))) if value.is_empty() => {
            format!("flag needs an argument: {}", flag.split(' ').next().unwrap_or(flag))
        }
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing)), _) => {
            format!("{:?} requires {}", line.name().unwrap_or_default(), missing.join(" and "))
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    }
}
