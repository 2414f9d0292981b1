//! Help, version, and what is said of a command line that cannot be read.

use std::io::Write;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::arguments::Line;
use super::{VERBS, print};
use crate::log;
use crate::spec::VERSION_MAX;

/// The program called without a verb.
pub fn without_verb(line: &Line) -> i32 {
    if line.has(&["--version", "-v"]) {
        let commit = option_env!("KELSON_COMMIT").unwrap_or("unknown");
        let text = format!("kelson version {}\ncommit: {commit}\nspec: {VERSION_MAX}\n", env!("CARGO_PKG_VERSION"));
        return i32::from(print(&text).is_err());
    }
    show(&mut std::io::stdout())
}

/// Prints the verbs.
pub fn show(out: &mut dyn Write) -> i32 {
    let mut text =
        "kelson: an OCI container runtime\n\nUsage: kelson [GLOBAL FLAGS] VERB [FLAGS] [ARGUMENTS]\n\nVerbs:\n"
            .to_owned();
    for (verb, purpose) in VERBS {
        text += &format!("  {verb:<15} {purpose}\n");
    }
    text += "\nGlobal flags are shown by every `kelson VERB --help`; `kelson --version` tells the version.\n";
    i32::from(out.write_all(text.as_bytes()).is_err())
}

/// A command line that the verb's parser refuses: runc prints the help on standard output, and the error on
/// standard error.
pub fn usage<V: CommandFactory>(error: &clap::Error) -> i32 {
    let shown = print(format!("{}\n", V::command().render_help()));
    if error.kind() == ErrorKind::DisplayHelp {
        return i32::from(shown.is_err());
    }
    log::say(&missing_value(error).unwrap_or_else(|| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_owned()
    }));
    1
}

/// In the words by which podman finds out whether `restore` has a flag: it passes that without its value.
fn missing_value(error: &clap::Error) -> Option<String> {
    let (Some(ContextValue::String(flag)), Some(ContextValue::String(value))) =
        (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
    else {
        return None;
    };
    let name = flag.split(' ').next().unwrap_or(flag);
    value.is_empty().then(|| format!("flag needs an argument: {name}"))
}
