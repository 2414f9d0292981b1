//! The command line as engines write it, brought into the form that the parsers read.
//!
//! Global flags may stand before or after the verb, long flags may have one dash (containerd sends
//! `-no-subreaper`), and switches may have a value (`--rootless=true`), as Go's flag packages allow. What follows the id
//! in `exec` and `ps` is somebody else's command line.

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
    pub verb: Option<OsString>,
    before: Vec<OsString>,
    after: Vec<OsString>,
}

impl Line {
    /// Reads the arguments after the program's name.
    pub fn read(arguments: impl Iterator<Item = OsString>) -> Self {
        let mut line = Self::default();
        let mut is_value = false;
        let mut only_words = false;
        for argument in arguments {
            let argument =
                if only_words || is_value { Some(argument) } else { normalise(argument, line.verb.as_deref()) };
            let Some(argument) = argument else { continue };
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

    /// The arguments for the verb's parser: a name, then all flags and words.
    pub fn for_parser(&self) -> impl Iterator<Item = &OsStr> {
        let name = self.verb.iter().map(OsString::as_os_str);
        name.chain(self.before.iter().chain(&self.after).map(OsString::as_os_str))
    }

    /// Whether `--trace` may be among the arguments: what the parser will make of them is not known yet.
    pub fn is_traced(&self) -> bool {
        self.before.iter().chain(&self.after).any(|argument| argument.as_bytes().starts_with(b"--trace"))
    }

    /// Whether one of the arguments without a verb is this flag.
    pub fn has(&self, flags: &[&str]) -> bool {
        self.before.iter().any(|argument| flags.iter().any(|flag| argument == flag))
    }
}

/// One argument with two dashes and without the value of a switch; nothing for a switch that is off.
fn normalise(argument: OsString, verb: Option<&OsStr>) -> Option<OsString> {
    let Some(text) = argument.to_str() else { return Some(argument) };
    let name_and_value = text.strip_prefix("--").or_else(|| text.strip_prefix('-').filter(|rest| rest.len() > 1));
    let Some(rest) = name_and_value else { return Some(argument) };
    let (name, value) = rest.split_once('=').map_or((rest, None), |(name, value)| (name, Some(value)));
    let switch = SWITCHES.contains(&name);
    // Of `spec` it is a switch, for the others it has a value.
    if name == "rootless" && value.is_none() && verb.is_some_and(|verb| verb == "spec") {
        return Some("--rootless=true".into());
    }
    match (switch, value) {
        (true, Some("true" | "1") | None) => Some(format!("--{name}").into()),
        (true, Some("false" | "0")) => None,
        _ if switch || VALUES.contains(&name) => Some(format!("--{rest}").into()),
        _ => Some(argument),
    }
}

/// Whether the next argument is this one's value; `short` has the short flags that may have one.
fn takes_value(argument: &OsStr, short: &str) -> bool {
    let text = argument.to_str().unwrap_or_default();
    match (text.strip_prefix("--"), text.strip_prefix('-')) {
        (Some(name), _) => VALUES.contains(&name),
        // Several in one word; the value may follow in it.
        (_, Some(letters)) => letters.find(|letter| short.contains(letter)).is_some_and(|at| at + 1 == letters.len()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String) {
        let line = Line::read(text.split_whitespace().map(OsString::from));
        let rest: Vec<_> = line.for_parser().skip(1).map(|it| it.to_string_lossy().into_owned()).collect();
        (line.verb.unwrap_or_default().into_string().unwrap(), rest.join(" "))
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
            ("--systemd-cgroup=false start id", "start", "id"),
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
                "-d --pid-file=p id -- ls -d --tty=false",
            ),
            ("exec -p f -u 1 -dt -e -A=1 id -- -x", "exec", "-p f -u 1 -dt -e -A=1 id -- -- -x"),
            ("exec -uid -- id sh", "exec", "-uid -- id sh"),
        ] {
            assert_eq!(parsed(line), (verb.to_owned(), rest.to_owned()), "{line}");
        }
    }
}
