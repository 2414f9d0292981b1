//! `linux.seccomp` checked and turned into numbers: each name is looked up, each action is what the filter returns.

use nix::errno::Errno;

use super::arch::{self, Arch};
use super::tables::Syscall;
use crate::error::{Error, Result};
use crate::log;
use crate::spec::seccomp as spec;

/// seccomp(2), what a filter returns: the action above, its data in the low 16 bits.
pub mod action {
    pub const KILL_PROCESS: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    pub const KILL_THREAD: u32 = libc::SECCOMP_RET_KILL_THREAD;
    pub const TRAP: u32 = libc::SECCOMP_RET_TRAP;
    pub const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
    pub const NOTIFY: u32 = 0x7fc0_0000;
    pub const TRACE: u32 = libc::SECCOMP_RET_TRACE;
    pub const LOG: u32 = libc::SECCOMP_RET_LOG;
    pub const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    /// The action without its data.
    pub fn kind(action: u32) -> u32 {
        action & 0xffff_0000
    }
}

/// The actions that a profile may name.
pub const ACTIONS: [(&str, u32); 9] = [
    ("SCMP_ACT_ALLOW", action::ALLOW),
    ("SCMP_ACT_ERRNO", action::ERRNO),
    ("SCMP_ACT_KILL", action::KILL_THREAD),
    ("SCMP_ACT_KILL_PROCESS", action::KILL_PROCESS),
    ("SCMP_ACT_KILL_THREAD", action::KILL_THREAD),
    ("SCMP_ACT_LOG", action::LOG),
    ("SCMP_ACT_NOTIFY", action::NOTIFY),
    ("SCMP_ACT_TRACE", action::TRACE),
    ("SCMP_ACT_TRAP", action::TRAP),
];

/// What a filter returns, in the words of a profile.
pub fn describe(returned: u32) -> String {
    let data = returned & 0xffff;
    let named = ACTIONS.iter().rev().find(|(_, action)| *action == action::kind(returned));
    let name = named.map_or("unknown", |(name, _)| *name);
    match action::kind(returned) {
        action::ERRNO => match Errno::from_raw(data as i32) {
            Errno::UnknownErrno => format!("{name} {data}"),
            known => format!("{name} {known:?}"),
        },
        action::TRACE => format!("{name} {data}"),
        _ => name.to_owned(),
    }
}

/// The operators that a condition may have.
pub const OPERATORS: [(&str, Operator); 7] = [
    ("SCMP_CMP_EQ", Operator::Equal),
    ("SCMP_CMP_GE", Operator::GreaterOrEqual),
    ("SCMP_CMP_GT", Operator::Greater),
    ("SCMP_CMP_LE", Operator::LessOrEqual),
    ("SCMP_CMP_LT", Operator::Less),
    ("SCMP_CMP_MASKED_EQ", Operator::MaskedEqual),
    ("SCMP_CMP_NE", Operator::NotEqual),
];

/// The flags that a profile may have, and seccomp(2)'s numbers. TSYNC says nothing for a process of one thread.
pub const FLAGS: [(&str, u64); 4] = [
    ("SECCOMP_FILTER_FLAG_LOG", flag::LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", flag::SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", flag::WAIT_KILLABLE_RECV),
];

/// `SECCOMP_FILTER_FLAG_*`, seccomp(2).
pub mod flag {
    pub const LOG: u64 = 2;
    pub const SPEC_ALLOW: u64 = 4;
    pub const NEW_LISTENER: u64 = 8;
    pub const WAIT_KILLABLE_RECV: u64 = 32;
}

/// The greatest errno that the kernel returns to a program.
const MAX_ERRNO: u32 = 4095;
/// The greatest number that a tracer is told.
const MAX_TRACE: u32 = 0xffff;

/// The profile.
#[derive(Debug)]
pub struct Profile {
    pub default: u32,
    /// Those that it names.
    pub arches: Vec<&'static Arch>,
    pub rules: Vec<Rule>,
    /// None: the default ones.
    pub flags: Option<u64>,
}

/// One entry of `syscalls`.
#[derive(Debug)]
pub struct Rule {
    pub syscalls: Vec<Syscall>,
    pub action: u32,
    /// Sets of conditions: the rule matches where all of one set are met. No condition is always met.
    pub alternatives: Vec<Vec<Condition>>,
}

/// A condition on an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    pub index: u8,
    pub operator: Operator,
    pub value: u64,
    /// All ones where the operator takes none.
    pub mask: u64,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    MaskedEqual,
}

/// Checks the profile.
pub fn read(profile: &spec::Seccomp) -> Result<Profile> {
    let default = read_action(&profile.default_action, profile.default_errno_ret)
        .map_err(|wrong| wrong.at("/linux/seccomp", "defaultAction", "defaultErrnoRet"))?;
    let rules = profile.syscalls.iter().enumerate().map(|(index, entry)| read_rule(index, entry));
    Ok(Profile {
        default,
        arches: read_arches(&profile.architectures)?,
        rules: rules.collect::<Result<_>>()?,
        flags: profile.flags.as_deref().map(read_flags).transpose()?,
    })
}

/// What is wrong with an action: its name or its errno.
enum WrongAction {
    Name(Error),
    Errno(Error),
}

impl WrongAction {
    fn at(self, pointer: &str, name: &str, errno: &str) -> Error {
        match self {
            Self::Name(error) => error.pointer(format!("{pointer}/{name}")),
            Self::Errno(error) => error.pointer(format!("{pointer}/{errno}")),
        }
    }
}

fn read_action(name: &str, errno: Option<u32>) -> std::result::Result<u32, WrongAction> {
    let Some((_, number)) = ACTIONS.iter().find(|(known, _)| *known == name) else {
        return Err(WrongAction::Name(unknown("seccomp action", name, ACTIONS.iter().map(|(known, _)| *known))));
    };
    let most = match *number {
        action::ERRNO => MAX_ERRNO,
        action::TRACE => MAX_TRACE,
        _ if errno.is_none() => return Ok(*number),
        _ => return Err(WrongAction::Errno(Error::new(format!("{name} takes no errno")))),
    };
    match errno.unwrap_or(libc::EPERM as u32) {
        errno if errno <= most => Ok(number | errno),
        errno => Err(WrongAction::Errno(Error::new(format!("{name} takes at most {most}, not {errno}")))),
    }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let known: Vec<_> = known.collect();
    match name {
        "" => Error::new(format!("the {what} is missing")),
        name => Error::new(format!("unknown {what} {name:?}")),
    }
    .hint(format!("known are {}", known.join(", ")))
}

fn read_arches(names: &[String]) -> Result<Vec<&'static Arch>> {
    let mut arches: Vec<&'static Arch> = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let found = arch::find(name).ok_or_else(|| {
            unknown("architecture", name, arch::ARCHES.iter().map(|arch| arch.name))
                .pointer(format!("/linux/seccomp/architectures/{index}"))
        })?;
        if !arches.iter().any(|arch| arch.name == found.name) {
            arches.push(found);
        }
    }
    Ok(arches)
}

fn read_flags(names: &[String]) -> Result<u64> {
    names.iter().enumerate().try_fold(0, |flags, (index, name)| match FLAGS.iter().find(|(known, _)| known == name) {
        Some((_, flag)) => Ok(flags | flag),
        None => Err(unknown("seccomp flag", name, FLAGS.iter().map(|(known, _)| *known))
            .pointer(format!("/linux/seccomp/flags/{index}"))),
    })
}

fn read_rule(index: usize, entry: &spec::Syscall) -> Result<Rule> {
    let pointer = format!("/linux/seccomp/syscalls/{index}");
    let action = read_action(&entry.action, entry.errno_ret).map_err(|e| e.at(&pointer, "action", "errnoRet"))?;
    let conditions = entry
        .args
        .iter()
        .enumerate()
        .map(|(index, argument)| read_condition(argument, |field| format!("{pointer}/args/{index}/{field}")));
    let conditions: Vec<_> = conditions.collect::<Result<_>>()?;
    Ok(Rule { syscalls: read_names(entry.names.as_deref(), &pointer)?, action, alternatives: alternatives(conditions) })
}

fn read_names(names: Option<&[String]>, pointer: &str) -> Result<Vec<Syscall>> {
    let names = match names {
        None => return Ok(Vec::new()),
        Some([]) => return Err(Error::new("a rule needs a system call").pointer(format!("{pointer}/names"))),
        Some(names) => names,
    };
    let mut found = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            let message = "a system call needs a name";
            return Err(Error::new(message).pointer(format!("{pointer}/names/{index}")));
        }
        match Syscall::find(name) {
            Some(syscall) => found.push(syscall),
            // One of a newer kernel, or of an architecture that no profile may name.
            None => log::debug(|| format!("the unknown system call {name:?} in {pointer}/names is ignored")),
        }
    }
    Ok(found)
}

fn read_condition(argument: &spec::Argument, pointer: impl Fn(&str) -> String) -> Result<Condition> {
    let index = u8::try_from(argument.index).ok().filter(|index| *index < 6).ok_or_else(|| {
        Error::new(format!("system calls have the arguments 0 to 5, not {}", argument.index)).pointer(pointer("index"))
    })?;
    let operator = OPERATORS.iter().find(|(known, _)| *known == argument.op).map(|(_, operator)| *operator);
    match operator {
        Some(Operator::MaskedEqual) => {
            let (mask, value) = (argument.value, argument.value_two & argument.value);
            Ok(Condition { index, operator: Operator::MaskedEqual, value, mask })
        }
        Some(operator) => Ok(Condition { index, operator, value: argument.value, mask: u64::MAX }),
        None => {
            Err(unknown("operator", &argument.op, OPERATORS.iter().map(|(known, _)| *known)).pointer(pointer("op")))
        }
    }
}

/// All conditions are to be met; but where two are about the same argument, each of them suffices, as in runc.
fn alternatives(conditions: Vec<Condition>) -> Vec<Vec<Condition>> {
    let mut seen = [false; 6];
    let repeated = conditions.iter().any(|it| std::mem::replace(&mut seen[usize::from(it.index)], true));
    if repeated { conditions.into_iter().map(|condition| vec![condition]).collect() } else { vec![conditions] }
}

impl Profile {
    /// The architectures to filter on a machine: its own, which engines leave out on some, and what else it runs.
    pub fn arches_on(&self, machine: &'static Arch) -> Vec<&'static Arch> {
        let others = self.arches.iter().filter(|arch| arch.name != machine.name && arch.runs_on(machine));
        std::iter::once(machine).chain(others.copied()).collect()
    }

    /// Whether any call is left to an agent.
    pub fn notifies(&self) -> bool {
        self.default == action::NOTIFY || self.rules.iter().any(|rule| rule.action == action::NOTIFY)
    }

    /// Whether a system call that is newer than the profile fails with ENOSYS: the profile cannot have meant it,
    /// and programs fall back on older calls only then. runc does the same where the default refuses.
    pub fn hides_new_syscalls(&self) -> bool {
        !matches!(action::kind(self.default), action::ALLOW | action::LOG | action::TRACE | action::NOTIFY)
    }
}
