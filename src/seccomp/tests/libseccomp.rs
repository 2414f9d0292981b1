//! libseccomp, as runc has it compile a profile: conformance/libseccomp/compile.c, run beside the test.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use seccompiler::{BpfProgram, sock_filter};

use crate::seccomp::arch::{Arch, X32_BIT, native};
use crate::seccomp::profile::{Condition, Operator, Profile};
use crate::seccomp::tables::Syscall;

/// The program that compiles with libseccomp.
pub struct Other {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What libseccomp made of a profile.
pub struct Made {
    pub program: BpfProgram,
    /// The rules as it understood them, in its own words.
    pub rules: Vec<String>,
    pub nanoseconds: u64,
}

impl Other {
    /// None where it is not there.
    pub fn start() -> Option<Self> {
        let Some(path) = std::env::var_os("KELSON_LIBSECCOMP") else {
            println!("skipped: KELSON_LIBSECCOMP does not name conformance/libseccomp/compile.c, built");
            return None;
        };
        let mut child = Command::new(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (requests, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self { child, requests, answers: BufReader::new(answers) })
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line
    }

    pub fn version(&mut self) -> String {
        writeln!(self.requests, "v").unwrap();
        self.answer().trim().to_owned()
    }

    pub fn number(&mut self, syscall: Syscall, arch: &Arch) -> i64 {
        writeln!(self.requests, "n {} {}", syscall.name(), token(arch)).unwrap();
        self.answer().trim().parse().unwrap()
    }

    /// None where libseccomp refuses rules that contradict each other, or does not end.
    pub fn compile(&mut self, profile: &Profile, arches: &[&Arch], optimize: u32) -> Option<Made> {
        let is_native = arches.iter().any(|arch| arch.name == native().name);
        let mut text = format!("p {} {optimize} {} {}", profile.default, u32::from(is_native), arches.len());
        arches.iter().for_each(|arch| write!(text, " {}", token(arch)).unwrap());
        for rule in profile.rules.iter().filter(|rule| rule.action != profile.default) {
            for (syscall, conditions) in
                rule.syscalls.iter().flat_map(|it| rule.alternatives.iter().map(move |c| (it, c)))
            {
                write!(text, "\nr {} {} {}", rule.action, syscall.name(), conditions.len()).unwrap();
                conditions.iter().for_each(|condition| text.push_str(&argument(condition)));
            }
        }
        writeln!(self.requests, "{text}\ne").unwrap();
        let answer = self.answer();
        let mut words = answer.split_whitespace();
        let (status, _, nanoseconds) = (words.next().unwrap(), words.next(), words.next().unwrap());
        if status == "124" {
            *self = Self::start().unwrap();
        }
        if status != "0" {
            return None;
        }
        let line = self.answer();
        let is_big_endian = arches[0].is_big_endian;
        let word = |index| u64::from_str_radix(&line[index * 16..index * 16 + 16], 16).unwrap();
        let program = (0..line.trim().len() / 16).map(|index| instruction(word(index), is_big_endian)).collect();
        let rules = std::iter::from_fn(|| Some(self.answer()).filter(|line| line != ".\n")).collect();
        Some(Made { program, rules, nanoseconds: nanoseconds.parse().unwrap() })
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `SCMP_ARCH_*`: the kernel's number but for x32.
fn token(arch: &Arch) -> u32 {
    if arch.base == X32_BIT { 0x4000_003e } else { arch.audit }
}

fn argument(condition: &Condition) -> String {
    // enum scmp_compare.
    let operator = match condition.operator {
        Operator::NotEqual => 1,
        Operator::Less => 2,
        Operator::LessOrEqual => 3,
        Operator::Equal => 4,
        Operator::GreaterOrEqual => 5,
        Operator::Greater => 6,
        // What the mask does not cover counts as little there as here.
        Operator::MaskedEqual => {
            return format!(" {} 7 {} {}", condition.index, condition.mask, condition.value | !condition.mask);
        }
    };
    format!(" {} {operator} {} 0", condition.index, condition.value)
}

fn instruction(word: u64, is_big_endian: bool) -> sock_filter {
    let [c0, c1, jt, jf, k @ ..] = word.to_le_bytes();
    if is_big_endian {
        sock_filter { code: u16::from_be_bytes([c0, c1]), jt, jf, k: u32::from_be_bytes(k) }
    } else {
        sock_filter { code: u16::from_le_bytes([c0, c1]), jt, jf, k: u32::from_le_bytes(k) }
    }
}
