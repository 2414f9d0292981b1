//! The devices a container may use: by the files of v1's controller, or by an eBPF program on v2.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{Context, Error, Result};
use crate::sys::bpf;

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// One rule; the last that matches decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    allow: bool,
    /// `c`, `b`, or `a` for both.
    kind: char,
    /// None: any.
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

const fn allow(kind: char, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
    Rule { allow: true, kind, major, minor, access }
}

/// What every engine relies on, whatever the list says: making nodes, and the default devices.
const DEFAULTS: &[Rule] = &[
    allow('c', None, None, MKNOD),
    allow('b', None, None, MKNOD),
    allow('c', Some(1), Some(3), ALL),
    allow('c', Some(1), Some(8), ALL),
    allow('c', Some(1), Some(7), ALL),
    allow('c', Some(5), Some(0), ALL),
    allow('c', Some(1), Some(5), ALL),
    allow('c', Some(1), Some(9), ALL),
    allow('c', Some(136), None, ALL),
    allow('c', Some(5), Some(2), ALL),
];

/// Reads `linux.resources.devices`.
pub fn plan(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let own = rules
        .iter()
        .enumerate()
        .map(|(index, rule)| one(rule).map_err(|error| error.pointer(format!("/linux/resources/devices/{index}"))));
    own.chain(DEFAULTS.iter().copied().map(Ok)).collect()
}

fn one(rule: &LinuxDeviceCgroup) -> Result<Rule> {
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => 'a',
        LinuxDeviceType::B => 'b',
        LinuxDeviceType::C | LinuxDeviceType::U => 'c',
        LinuxDeviceType::P => return Err(Error::new("a FIFO is no device that can be allowed or denied")),
    };
    let number = |value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value).map(Some).map_err(|_| Error::new("a device number is out of range")),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or_default().chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(Error::new(format!("access is made of r, w and m, not {letter:?}"))),
        };
    }
    let access = if access == 0 { ALL } else { access };
    Ok(Rule { allow: rule.allow(), kind, major: number(rule.major())?, minor: number(rule.minor())?, access })
}

/// Applies the rules to an open cgroup.
pub fn apply(directory: &OwnedFd, unified: bool, rules: &[Rule]) -> Result<()> {
    if !unified {
        return rules.iter().try_for_each(|rule| write(directory, *rule));
    }
    let program = bpf::load_device_program(&compile(rules)).map_err(|errno| {
        let error = Error::new("cannot load the program that guards the devices").errno(errno);
        if errno == Errno::EPERM { error.hint("it takes CAP_BPF or CAP_SYS_ADMIN on the host") } else { error }
    })?;
    bpf::attach_device_program(directory, program.as_fd())
        .context(|| "cannot attach the program that guards the devices")
}

fn write(directory: &OwnedFd, rule: Rule) -> Result<()> {
    let file = if rule.allow { "devices.allow" } else { "devices.deny" };
    openat(directory, file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(|file| nix::unistd::write(&file, line(rule).as_bytes()).map(drop))
        .context(|| format!("cannot write {:?} to {file}", line(rule)))
}

/// A rule as v1 writes it.
fn line(rule: Rule) -> String {
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
    let access: String = letters.iter().filter(|(bit, _)| rule.access & bit != 0).map(|(_, letter)| letter).collect();
    format!("{} {}:{} {access}", rule.kind, number(rule.major), number(rule.minor))
}

/// What a list of rules comes to: rules for the same devices joined, those without effect dropped, and what holds
/// for all others.
fn simplify(rules: &[Rule]) -> (Vec<Rule>, bool) {
    // Without a rule the kernel's v1 controller allows everything.
    let mut others = true;
    let mut kept: Vec<Rule> = Vec::new();
    for rule in rules {
        if rule.kind == 'a' && rule.major.is_none() && rule.minor.is_none() && rule.access == ALL {
            kept.clear();
            others = rule.allow;
            continue;
        }
        let same = |other: &Rule| (other.kind, other.major, other.minor) == (rule.kind, rule.major, rule.minor);
        let mut rule = *rule;
        if let Some(place) = kept.iter().position(|other| same(other) && other.allow == rule.allow) {
            rule.access |= kept.remove(place).access;
        }
        kept.push(rule);
    }
    (kept, others)
}

/// An instruction of eBPF: operation, destination and source register, jump offset, immediate.
const fn instruction(operation: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    operation as u64
        | (destination as u64 & 15) << 8
        | (source as u64 & 15) << 12
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// The program: the kernel asks it with the access in the upper half of a word and the type in the lower, then
/// major and minor; it answers 1 or 0. The last rule comes first, and the first that matches decides.
fn compile(rules: &[Rule]) -> Vec<u64> {
    let (rules, others) = simplify(rules);
    // r2: type, r3: access, r4: major, r5: minor.
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(compile_rule(*rule));
    }
    program.extend([instruction(MOVE, 0, 0, 0, others.into()), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

fn compile_rule(rule: Rule) -> Vec<u64> {
    const BLOCK: i32 = 1;
    const CHARACTER: i32 = 2;
    // Each check is a comparison that, failing, jumps over the rest of the rule.
    let mut checks: Vec<Vec<(u8, u8, u8, i32)>> = Vec::new();
    match rule.kind {
        'b' => checks.push(vec![(JUMP_NOT_EQUAL, 2, 0, BLOCK)]),
        'c' => checks.push(vec![(JUMP_NOT_EQUAL, 2, 0, CHARACTER)]),
        _ => {}
    }
    if rule.access != ALL {
        let rest = i32::from(if rule.allow { !rule.access & ALL } else { rule.access });
        // Allowed when nothing beyond the rule is asked; denied when anything in it is.
        let jump = if rule.allow { JUMP_NOT_EQUAL } else { JUMP_EQUAL };
        checks.push(vec![(MOVE_REGISTER, 6, 3, 0), (AND, 6, 0, rest), (jump, 6, 0, 0)]);
    }
    for (register, number) in [(4, rule.major), (5, rule.minor)] {
        if let Some(number) = number {
            checks.push(vec![(JUMP_NOT_EQUAL, register, 0, number as i32)]);
        }
    }
    let steps: Vec<_> = checks.concat();
    let count = steps.len();
    let step = |(place, (operation, destination, source, immediate)): (usize, (u8, u8, u8, i32))| {
        let jumps = matches!(operation, JUMP_EQUAL | JUMP_NOT_EQUAL);
        let offset = if jumps { (count - place - 1 + 2) as i16 } else { 0 };
        instruction(operation, destination, source, offset, immediate)
    };
    let mut program: Vec<_> = steps.into_iter().enumerate().map(step).collect();
    program.extend([instruction(MOVE, 0, 0, 0, rule.allow.into()), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<Rule> {
        plan(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap()).unwrap()
    }

    /// Runs a program as the kernel would.
    fn run(program: &[u64], kind: u32, access: u8, major: u32, minor: u32) -> bool {
        let words = [u64::from(u32::from(access) << 16 | kind), u64::from(major), u64::from(minor)];
        let mut registers = [0_u64; 11];
        let mut place = 0;
        loop {
            let word = program[place];
            let (destination, source) = ((word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
            let (offset, immediate) = ((word >> 16) as i16, i64::from((word >> 32) as i32) as u64);
            place += 1;
            match word as u8 {
                LOAD_WORD => registers[destination] = words[offset as usize / 4],
                MOVE => registers[destination] = immediate,
                MOVE_REGISTER => registers[destination] = registers[source],
                AND => registers[destination] &= immediate,
                SHIFT_RIGHT => registers[destination] >>= immediate,
                JUMP_EQUAL if registers[destination] == immediate => {
                    place = (place as i64 + i64::from(offset)) as usize;
                }
                JUMP_NOT_EQUAL if registers[destination] != immediate => {
                    place = (place as i64 + i64::from(offset)) as usize;
                }
                JUMP_EQUAL | JUMP_NOT_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("operation {other:#x}"),
            }
        }
    }

    #[test]
    fn the_usual_list_leaves_the_default_devices() {
        let program = compile(&rules(
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"r"}]"#,
        ));
        assert!(run(&program, 2, READ | WRITE, 1, 3));
        assert!(run(&program, 2, READ | WRITE, 136, 42));
        assert!(run(&program, 2, READ, 10, 229));
        assert!(!run(&program, 2, READ | WRITE, 10, 229));
        assert!(!run(&program, 1, READ, 8, 0));
        assert!(run(&program, 1, MKNOD, 8, 0));
        assert!(!run(&program, 1, MKNOD | READ, 8, 0));
    }

    #[test]
    fn later_rules_win() {
        let program =
            compile(&rules(r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"access":"w"}]"#));
        assert!(run(&program, 1, READ, 8, 1));
        assert!(!run(&program, 1, READ | WRITE, 8, 1));
        assert!(run(&program, 2, READ | WRITE, 8, 1));
    }

    #[test]
    fn access_for_the_same_device_adds_up() {
        let list = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":7,"minor":0,"access":"r"},
            {"allow":true,"type":"b","major":7,"minor":0,"access":"w"}]"#;
        assert!(run(&compile(&rules(list)), 1, READ | WRITE, 7, 0));
    }

    #[test]
    fn lines_of_v1() {
        assert_eq!(line(rules(r#"[{"allow":false,"access":"rwm"}]"#)[0]), "a *:* rwm");
        assert_eq!(line(allow('c', Some(136), None, ALL)), "c 136:* rwm");
    }

    #[test]
    fn an_unknown_access_is_an_error() {
        let list = serde_json::from_str::<Vec<LinuxDeviceCgroup>>(r#"[{"allow":true,"access":"x"}]"#).unwrap();
        assert!(plan(&list).is_err());
    }
}
