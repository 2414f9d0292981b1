//! `kelson seccomp explain` and `kelson seccomp compile`: what a profile comes to, without a container.

use std::path::{Path, PathBuf};

use clap::{Args, Parser};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Global, Verb, print};
use crate::error::{Context, Error, Result};
use crate::process::capability;
use crate::seccomp::arch::{self, ARCHES, Arch, X32_BIT};
use crate::seccomp::engine::{self, Circumstances, Omitted, USUAL_CAPABILITIES};
use crate::seccomp::explain::{Explanation, Reason, Tried, explain};
use crate::seccomp::profile::{self, Condition, Operator, Profile, action, describe};
use crate::seccomp::tables::Syscall;
use crate::seccomp::{compile, disassemble};
use crate::spec;
use crate::state::Store;

/// Tell what a seccomp profile does with a system call, and which of its rules says so
#[derive(Debug, Parser)]
#[command(name = "kelson seccomp explain", args_override_self = true)]
pub struct Explain {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    source: Source,
    /// Name or number of the system call
    #[arg(value_name = "SYSCALL")]
    syscall: String,
    /// Its arguments, decimal, 0x or 0o; those that are left out are 0
    #[arg(value_name = "ARG", num_args = 0..=6, allow_hyphen_values = true, value_parser = parse_argument)]
    arguments: Vec<u64>,
}

/// Print the filter that a seccomp profile comes to
#[derive(Debug, Parser)]
#[command(name = "kelson seccomp compile", args_override_self = true)]
pub struct Compile {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    source: Source,
    /// Write the instructions as the kernel takes them, not as text
    #[arg(long)]
    raw: bool,
}

/// Where the profile is, and what an engine would know about the container.
#[derive(Args, Debug)]
struct Source {
    /// Architecture of the system call, and of a machine that has it: x86, arm64 (default: this machine's)
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Capability that the container has beyond the usual, or ALL: engines' profiles have rules that depend on it
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// A config.json, its bundle, the linux.seccomp of one, or a profile as Docker and podman have it
    #[arg(value_name = "PROFILE")]
    file: PathBuf,
}

impl Verb for Explain {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, _: &Store) -> Result<i32> {
        let arch = self.source.arch()?;
        let number = number(&self.syscall, arch)?;
        let arch = arch.of_number(number);
        let read = self.source.read()?;
        let mut arguments = [0; 6];
        arguments[..self.arguments.len()].copy_from_slice(&self.arguments);
        let explanation = explain(&read.profile, arch.machine(), arch, number, arguments)?;
        let name = arch.syscall(number).map_or("an unknown call", Syscall::name);
        let shown: Vec<_> = self.arguments.iter().map(|argument| format!("{argument:#x}")).collect();
        let mut text = format!("{name}({}) is {number} on {}\n", shown.join(", "), arch.name);
        text += &read.show(&explanation, arch);
        text += &read.show_omitted(name);
        print(text).map(|()| 0)
    }
}

impl Verb for Compile {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, _: &Store) -> Result<i32> {
        let machine = self.source.arch()?.machine();
        let profile = self.source.read()?.profile;
        let arches = profile.arches_on(machine);
        let program = compile::compile(&profile, &arches)?;
        if self.raw {
            return print(disassemble::bytes(&program, machine.is_big_endian)).map(|()| 0);
        }
        let names: Vec<_> = arches.iter().map(|arch| arch.name).collect();
        let title = format!("; {} instructions for {}\n", program.len(), names.join(", "));
        print(title + &disassemble::disassemble(&program, &arches)).map(|()| 0)
    }
}

fn parse_argument(text: &str) -> std::result::Result<u64, String> {
    let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).ok();
    let number = match text.split_at_checked(2) {
        Some(("0x", digits)) => radix(digits, 16),
        Some(("0o", digits)) => radix(digits, 8),
        _ => text.parse().ok().or_else(|| text.parse::<i64>().ok().map(|it| it as u64)),
    };
    number.ok_or_else(|| "it is no number of 64 bits".to_owned())
}

fn number(call: &str, arch: &Arch) -> Result<u32> {
    if let Ok(number) = parse_argument(call) {
        return u32::try_from(number).map_err(|_| Error::new(format!("{call} is no number of a system call")));
    }
    let unknown = || Error::new(format!("unknown system call {call:?}")).hint("a number will do too");
    let syscall = Syscall::find(call).ok_or_else(unknown)?;
    arch.number(syscall).ok_or_else(|| {
        let others = ARCHES.iter().filter(|arch| arch.number(syscall).is_some()).map(|arch| arch.name);
        Error::new(format!("{} has no system call {call:?}", arch.name))
            .hint(format!("these have: {}", others.collect::<Vec<_>>().join(", ")))
    })
}

/// A profile, and how its places are called.
struct Read {
    profile: Profile,
    /// The pointer to the profile in its file.
    root: &'static str,
    omitted: Vec<Omitted>,
}

/// What of a config.json matters here.
#[derive(Deserialize)]
struct Config {
    #[serde(rename = "ociVersion")]
    version: Option<IgnoredAny>,
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Linux {
    seccomp: Option<spec::seccomp::Seccomp>,
}

/// Where config.json has its profile.
const IN_CONFIG: &str = "/linux/seccomp";

impl Source {
    fn arch(&self) -> Result<&'static Arch> {
        let Some(name) = &self.arch else { return Ok(arch::native()) };
        arch::find_loosely(name).ok_or_else(|| {
            let known: Vec<_> = ARCHES.iter().map(|arch| arch.name).collect();
            Error::new(format!("unknown architecture {name:?}")).hint(format!("known are {}", known.join(", ")))
        })
    }

    fn read(&self) -> Result<Read> {
        let file = if self.file.is_dir() { self.file.join("config.json") } else { self.file.clone() };
        let bytes = spec::read_limited(&file)?;
        let config: Config = spec::parse(&bytes).map_err(|error| error.path(&file))?;
        if config.version.is_none() && config.linux.is_none() {
            return self.read_profile(&bytes).map_err(|error| error.in_file(&file, IN_CONFIG));
        }
        let seccomp = config.linux.and_then(|linux| linux.seccomp);
        let none = || Error::new("the container has no seccomp profile").path(&file).pointer(IN_CONFIG);
        let profile = profile::read(&seccomp.ok_or_else(none)?).map_err(|error| error.path(&file))?;
        Ok(Read { profile, root: IN_CONFIG, omitted: Vec::new() })
    }

    fn read_profile(&self, bytes: &[u8]) -> Result<Read> {
        let circumstances =
            Circumstances { capabilities: self.capabilities()?, machine: self.arch()?.machine(), kernel: kernel()? };
        let resolved = engine::resolve(bytes, &circumstances)?;
        Ok(Read { profile: profile::read(&resolved.profile)?, root: "", omitted: resolved.omitted })
    }

    fn capabilities(&self) -> Result<Vec<&str>> {
        if self.cap_add.iter().any(|name| name == "ALL") {
            return Ok(capability::NAMES.to_vec());
        }
        let unknown = self.cap_add.iter().find(|name| !capability::NAMES.contains(&name.as_str()));
        if let Some(unknown) = unknown {
            return Err(Error::new(format!("unknown capability {unknown:?}")).hint("for example CAP_SYS_ADMIN, or ALL"));
        }
        Ok(USUAL_CAPABILITIES.into_iter().chain(self.cap_add.iter().map(String::as_str)).collect())
    }
}

fn kernel() -> Result<(u32, u32)> {
    let path = Path::new("/proc/sys/kernel/osrelease");
    let text = std::fs::read_to_string(path).on_path("cannot read the kernel's version", path)?;
    engine::release(&text).ok_or_else(|| Error::new("the kernel's version cannot be understood").path(path))
}

impl Read {
    fn place(&self, reason: Reason) -> String {
        match reason {
            Reason::Rule(index) => format!("{}/syscalls/{index}", self.root),
            Reason::Default => format!("{}/defaultAction", self.root),
            Reason::Newer => "it is newer than every call of the profile".to_owned(),
            Reason::OtherArchitecture => format!("the architecture is not in {}/architectures", self.root),
        }
    }

    fn show(&self, explanation: &Explanation, arch: &Arch) -> String {
        let Explanation { outcome, length, reason, tried } = explanation;
        let mut text = format!("  action        {}: {}\n", describe(outcome.action), meaning(outcome.action));
        text += &format!("  decided by    {}\n", self.place(*reason));
        text += &format!("  instructions  {} executed of {length}\n", outcome.instructions);
        text += &format!("  filter        {}\n", skipping(explanation, arch));
        if !tried.is_empty() {
            text += "rules for it, in the order in which they are tried:\n";
        }
        for Tried { reason, check, is_met } in tried {
            let conditions: Vec<_> = check.conditions.iter().map(condition).collect();
            let conditions = if conditions.is_empty() { "always".to_owned() } else { conditions.join(" and ") };
            let met = if *is_met { "met" } else { "not met" };
            text += &format!("  {}  {}  {conditions}: {met}\n", self.place(*reason), describe(check.action));
        }
        text
    }

    /// The rules that would be about the call, were the container another.
    fn show_omitted(&self, name: &str) -> String {
        let about = self.omitted.iter().filter(|omitted| omitted.names.iter().any(|it| it == name));
        let lines: String = about.map(|it| format!("  {}  {}\n", self.place(Reason::Rule(it.rule)), it.why)).collect();
        if lines.is_empty() { lines } else { format!("rules for it that do not apply here:\n{lines}") }
    }
}

fn meaning(returned: u32) -> &'static str {
    match action::kind(returned) {
        action::KILL_PROCESS => "SIGSYS kills the process",
        action::KILL_THREAD => "SIGSYS kills the thread",
        action::TRAP => "the thread gets SIGSYS",
        action::ERRNO => "the call fails",
        action::NOTIFY => "the agent decides",
        action::TRACE => "a tracer decides; without one the call fails with ENOSYS",
        action::LOG => "the call is made, and logged",
        _ => "the call is made",
    }
}

/// Whether the kernel runs the filter at all: Linux 5.11 and later remember which numbers it always allows.
fn skipping(explanation: &Explanation, arch: &Arch) -> &'static str {
    match (explanation.outcome.has_read_arguments, explanation.outcome.action) {
        (true, _) => "runs each time: arguments decide",
        (false, action::ALLOW) if arch.base == X32_BIT => "runs each time: no kernel remembers calls of x32",
        (false, action::ALLOW) => "is skipped by kernels that remember what is always allowed",
        (false, _) => "runs each time: the call is not allowed",
    }
}

fn condition(condition: &Condition) -> String {
    let Condition { index, operator, value, mask } = *condition;
    let sign = match operator {
        Operator::NotEqual => "!=",
        Operator::Less => "<",
        Operator::LessOrEqual => "<=",
        Operator::Equal => "==",
        Operator::GreaterOrEqual => ">=",
        Operator::Greater => ">",
        Operator::MaskedEqual => return format!("argument {index} & {mask:#x} == {value:#x}"),
    };
    format!("argument {index} {sign} {value:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_numbers_of_64_bits() {
        for (text, value) in
            [("0", 0), ("-1", u64::MAX), ("0xff", 255), ("0o755", 0o755), ("18446744073709551615", u64::MAX)]
        {
            assert_eq!(parse_argument(text), Ok(value), "{text}");
        }
        for text in ["", "x", "0x", "1e3", "18446744073709551616", "-", "é", "0xé"] {
            assert!(parse_argument(text).is_err(), "{text}");
        }
    }

    #[test]
    fn calls_have_names_and_numbers() {
        let x86 = arch::find("SCMP_ARCH_X86").unwrap();
        assert_eq!(number("socketcall", x86).unwrap(), 102);
        assert_eq!(number("0x40000001", x86).unwrap(), 0x4000_0001);
        assert!(number("4294967296", x86).is_err());
        let error = number("socketcall", arch::find("SCMP_ARCH_X86_64").unwrap()).unwrap_err().to_string();
        assert!(error.contains("SCMP_ARCH_X86"), "{error}");
    }
}
