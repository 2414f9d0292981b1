//! The command line as engines write it, brought into the form that the parsers read.
//!
//! Global flags may stand before or after the verb, long flags may have one dash (containerd sends
//! `-no-subreaper`), as Go's flag packages allow. What follows the id in `exec` and `ps` is somebody else's command line.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Long flags that stand for themselves.
const SWITCHES: &[&str] = &[
    "all",
    "auto-dedup",
    "debug",
    "detach",
    "ext-unix-sk",
    "file-locks",
    "force",
    "help",
    "ignore-paused",
    "keep",
    "lazy-pages",
    "leave-running",
    "link-remap",
    "no-new-keyring",
    "no-new-privs",
    "no-pivot",
    "no-subreaper",
    "pre-dump",
    "quiet",
    "raw",
    "shell-job",
    "stats",
    "systemd-cgroup",
    "tcp-close",
    "tcp-established",
    "tcp-skip-in-flight",
    "tty",
    "version",
];

/// Long flags that are followed by a value.
const VALUES: &[&str] = &[
    "additional-gids",
    "apparmor",
    "arch",
    "blkio-weight",
    "bundle",
    "cap",
    "cap-add",
    "cgroup",
    "cgroup-manager",
    "config",
    "console-socket",
    "cpu-burst",
    "cpu-idle",
    "cpu-period",
    "cpu-quota",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cpu-share",
    "cpuset-cpus",
    "cpuset-mems",
    "criu",
    "cwd",
    "empty-ns",
    "env",
    "format",
    "image-path",
    "interval",
    "kernel-memory",
    "kernel-memory-tcp",
    "l3-cache-schema",
    "log",
    "log-format",
    "log-level",
    "lsm-mount-context",
    "lsm-profile",
    "manage-cgroups-mode",
    "mem-bw-schema",
    "memory",
    "memory-reservation",
    "memory-swap",
    "network-lock",
    "page-server",
    "parent-path",
    "pid-file",
    "pidfd-socket",
    "pids-limit",
    "preserve-fds",
    "process",
    "process-label",
    "resources",
    "root",
    "rootless",
    "status-fd",
    "trace",
    "user",
    "work-path",
];

/// Verbs whose name has a second word.
const FAMILIES: &[&str] = &["seccomp"];

/// Verbs whose first word, the id, ends their own flags; with their short flags that are followed by a value.
const OPEN_ENDED: &[(&str, &str)] = &[("exec", "cegpu"), ("ps", "f")];

/// The arguments, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The first word that is no flag; of some verbs, the first two.
    verb: Option<OsString>,
    before: Vec<OsString>,
    after: Vec<OsString>,
    /// Whether that is asked for before the verb, which then does not matter.
    pub asks_for_version: bool,
}

impl Line {
    /// Reads the arguments after the program's name.
    pub fn read(arguments: impl Iterator<Item = OsString>) -> Self {
        let mut line = Self::default();
        let mut is_value = false;
        let mut only_words = false;
        for argument in arguments {
            let argument = if only_words || is_value { argument } else { normalise(argument, line.verb.as_deref()) };
            line.asks_for_version |= !is_value && line.verb.is_none() && (argument == "--version" || argument == "-v");
            only_words |= argument == "--";
            let is_flag = argument.as_bytes().starts_with(b"-") && argument.len() > 1;
            if !is_flag && !is_value && line.wants_name() {
                line.add_name(&argument);
                continue;
            }
            let open_ended = OPEN_ENDED.iter().find(|(name, _)| line.verb.as_ref().is_some_and(|verb| verb == name));
            let ends_flags = open_ended.is_some() && !(is_flag || is_value || only_words);
            let short = open_ended.map_or("", |(_, short)| short);
            is_value = !is_value && !only_words && takes_value(&argument, short);
            let place = if line.verb.is_some() { &mut line.after } else { &mut line.before };
            place.push(argument);
            if ends_flags {
                place.push("--".into());
                only_words = true;
            }
        }
        line
    }

    /// Whether the next word is part of the verb's name.
    fn wants_name(&self) -> bool {
        self.verb.as_ref().is_none_or(|verb| FAMILIES.iter().any(|family| verb == family))
    }

    fn add_name(&mut self, word: &OsStr) {
        match &mut self.verb {
            Some(verb) => {
                verb.push(" ");
                verb.push(word);
            }
            None => self.verb = Some(word.to_owned()),
        }
    }

    /// The verb's name.
    pub fn name(&self) -> Option<Cow<'_, str>> {
        self.verb.as_ref().map(|verb| verb.to_string_lossy())
    }

    /// The arguments for the parser of what stands before the verb.
    pub fn before_verb(&self) -> impl Iterator<Item = &OsStr> {
        std::iter::once(OsStr::new("kelson")).chain(self.before.iter().map(OsString::as_os_str))
    }

    /// The line that asks for the help on the verb that follows `help`.
    pub fn after_help(&self) -> Self {
        let topic = Self::read(self.after.iter().cloned());
        Self { after: vec!["--help".into()], ..topic }
    }

    /// The last value of a long flag, in a line that may be wrong.
    pub fn value_of(&self, flag: &str) -> Option<&OsStr> {
        let mut value = None;
        let mut arguments = self.before.iter().chain(&self.after);
        while let Some(argument) = arguments.next().filter(|argument| *argument != "--") {
            let name = argument.as_bytes().strip_prefix(b"--").and_then(|name| name.strip_prefix(flag.as_bytes()));
            match name {
                Some([]) => value = arguments.next().map(OsString::as_os_str),
                Some([b'=', rest @ ..]) => value = Some(OsStr::from_bytes(rest)),
                _ if takes_value(argument, "") => drop(arguments.next()),
                _ => {}
            }
        }
        value
    }

    /// The arguments for the verb's parser: a name, then all flags and words.
    pub fn for_parser(&self) -> impl Iterator<Item = &OsStr> {
        let name = self.verb.iter().map(OsString::as_os_str);
        name.chain(self.before.iter().chain(&self.after).map(OsString::as_os_str))
    }

    /// Whether `--trace` may be among the arguments: what the parser will make of them is not known yet.
    pub fn is_traced(&self) -> bool {
        self.before.iter().chain(&self.after).any(|argument| argument.as_bytes().starts_with(b"--trace"))
    }
}

/// One argument, with two dashes if it is a long flag.
fn normalise(argument: OsString, verb: Option<&OsStr>) -> OsString {
    let Some(text) = argument.to_str() else { return argument };
    let long = text.strip_prefix("--").or_else(|| text.strip_prefix('-').filter(|rest| rest.len() > 1));
    let Some(rest) = long else { return argument };
    // Of `spec` it is a switch, for the others it has a value.
    if rest == "rootless" && verb.is_some_and(|verb| verb == "spec") {
        return "--rootless=true".into();
    }
    let name = rest.split('=').next().unwrap_or(rest);
    if SWITCHES.contains(&name) || VALUES.contains(&name) { format!("--{rest}").into() } else { argument }
}

/// Whether the next argument is this one's value; `short` has the short flags that may have one.
fn takes_value(argument: &OsStr, short: &str) -> bool {
    let text = argument.to_str().unwrap_or_default();
    match (text.strip_prefix("--"), text.strip_prefix('-')) {
        (Some(name), _) => VALUES.contains(&name),
        // Several in one word; the value may follow in it.
        (_, Some(letters)) if !letters.contains('=') => {
            letters.find(|letter| short.contains(letter)).is_some_and(|at| at + 1 == letters.len())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String) {
        let line = Line::read(text.split_whitespace().map(OsString::from));
        let rest: Vec<_> = line.for_parser().skip(1).map(|it| it.to_string_lossy().into_owned()).collect();
        (line.name().unwrap().into_owned(), rest.join(" "))
    }

    #[test]
    fn a_value_is_found_in_a_line_that_cannot_be_read() {
        let line =
            Line::read("--log a --moon state --log=b x y --root --log z -- --log c".split(' ').map(OsString::from));
        assert_eq!(line.value_of("log"), Some(OsStr::new("b")));
        assert_eq!(line.value_of("log-format"), None);
        assert_eq!(
            Line::read(["fly", "-log", ""].into_iter().map(OsString::from)).value_of("log"),
            Some(OsStr::new(""))
        );
    }

    #[test]
    fn the_lines_of_engines() {
        for (line, verb, rest) in [
            (
                "--root /r --log l --log-format json create --bundle b id",
                "create",
                "--root /r --log l --log-format json --bundle b id",
            ),
            ("--root=create state x", "state", "--root=create x"),
            ("restore -no-subreaper --bundle b id", "restore", "--no-subreaper --bundle b id"),
            ("--rootless=true kill id 9", "kill", "--rootless=true id 9"),
            ("-systemd-cgroup=false start id", "start", "--systemd-cgroup=false id"),
            ("-root /r delete -force id", "delete", "--root /r --force id"),
            ("delete -f id", "delete", "-f id"),
            ("kill id -9", "kill", "id -9"),
            ("--debug seccomp --arch x86 explain f read -1", "seccomp explain", "--debug --arch x86 f read -1"),
            ("seccomp", "seccomp", ""),
            ("update -r - id", "update", "-r - id"),
            ("update id --memory -1", "update", "id --memory -1"),
            ("--debug spec --rootless -b d", "spec", "--debug --rootless=true -b d"),
            ("ps -format json id", "ps", "--format json id --"),
            ("ps id -e -format pid", "ps", "id -- -e -format pid"),
            ("--root /r exec -p p id", "exec", "--root /r -p p id --"),
            ("exec -de A=b id sh -c -debug", "exec", "-de A=b id -- sh -c -debug"),
            ("exec -eA=b id sh", "exec", "-eA=b id -- sh"),
            ("ps -f json id", "ps", "-f json id --"),
            (
                "exec --pid-file p --process f --detach --preserve-fds 1 id",
                "exec",
                "--pid-file p --process f --detach --preserve-fds 1 id --",
            ),
            (
                "exec -d --tty=false --pid-file=p id ls -d --tty=false",
                "exec",
                "-d --tty=false --pid-file=p id -- ls -d --tty=false",
            ),
            ("exec -d=true -t=false id -t", "exec", "-d=true -t=false id -- -t"),
            ("exec -p f -u 1 -dt -e -A=1 id -- -x", "exec", "-p f -u 1 -dt -e -A=1 id -- -- -x"),
            ("exec -uid -- id sh", "exec", "-uid -- id sh"),
        ] {
            assert_eq!(parsed(line), (verb.to_owned(), rest.to_owned()), "{line}");
        }
    }
}
