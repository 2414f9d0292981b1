//! The code generator: a classic BPF program for a profile.
//!
//! The kernel's filter sees the architecture and the number of a call, and its arguments in two halves. Each
//! architecture gets a balanced search over ranges of numbers; what depends on the number alone ends in a plain
//! return without a look at anything else, which lets the kernel remember that the call is allowed and skip the
//! filter. Programs are built from their end, since jumps lead forward only.

use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, sock_filter};

use super::arch::Arch;
use super::profile::{Condition, Operator, Profile, action};
use super::rules::{Check, Range, Verdict, ranges};
use crate::error::{Error, Result};

/// Offsets in `struct seccomp_data`, seccomp(2).
pub const NUMBER: u32 = 0;
pub const ARCH: u32 = 4;
pub const ARGUMENTS: u32 = 16;

/// The instructions that are generated, `bpf_common.h`.
pub const LOAD: u16 = 0x20;
pub const AND: u16 = 0x54;
pub const JUMP: u16 = 0x05;
pub const JUMP_EQUAL: u16 = 0x15;
pub const JUMP_GREATER: u16 = 0x25;
pub const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
pub const RETURN: u16 = 0x06;

/// `BPF_MAXINSNS`, the longest program that the kernel takes.
const MAX_LENGTH: usize = 4096;

/// The furthest that a conditional jump leads.
const FAR: usize = u8::MAX as usize;

/// Compiles the profile for these architectures, the most important first.
pub fn compile(profile: &Profile, arches: &[&Arch]) -> Result<BpfProgram> {
    let mut kinds: Vec<u32> = Vec::new();
    for arch in arches {
        if !kinds.contains(&arch.audit) {
            kinds.push(arch.audit);
        }
    }
    let mut assembler = Assembler::default();
    // An architecture that the profile does not know could mean anything by its numbers.
    let mut otherwise = assembler.leave(action::KILL_PROCESS);
    for kind in kinds.into_iter().rev() {
        let same: Vec<_> = arches.iter().filter(|arch| arch.audit == kind).copied().collect();
        let search = assembler.search(&ranges(profile, &same), profile.default, same[0].is_big_endian);
        let search = assembler.load(NUMBER, search);
        otherwise = assembler.branch(JUMP_EQUAL, kind, search, otherwise);
    }
    assembler.load(ARCH, otherwise);
    assembler.finish()
}

/// A place in the program: how many instructions follow from it to the end.
type Place = usize;

/// The program so far, the last instruction first.
#[derive(Default)]
struct Assembler {
    reversed: BpfProgram,
    /// Each action that is returned, and the newest place for it.
    returns: Vec<(u32, Place)>,
}

impl Assembler {
    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Place {
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.reversed.len()
    }

    /// How far a jump that is pushed next has to lead.
    fn distance(&self, place: Place) -> usize {
        self.reversed.len() - place
    }

    /// A place next to what is pushed next that leads to `place`: a return is repeated, anything else jumped to.
    fn approach(&mut self, place: Place) -> Place {
        let target = self.reversed[place - 1].clone();
        if target.code == RETURN {
            self.leave_here(target.k)
        } else {
            let distance = self.distance(place) as u32;
            self.push(JUMP, distance, 0, 0)
        }
    }

    /// Makes `place` come next.
    fn come_to(&mut self, place: Place) {
        if self.distance(place) != 0 {
            self.approach(place);
        }
    }

    fn load(&mut self, offset: u32, next: Place) -> Place {
        self.come_to(next);
        self.push(LOAD, offset, 0, 0)
    }

    /// Ends with `action`, in an instruction that may be there already.
    fn leave(&mut self, action: u32) -> Place {
        let known = self.returns.iter().find(|(known, _)| *known == action).map(|(_, place)| *place);
        known.filter(|place| self.distance(*place) < FAR).unwrap_or_else(|| self.leave_here(action))
    }

    fn leave_here(&mut self, action: u32) -> Place {
        let place = self.push(RETURN, action, 0, 0);
        self.returns.retain(|(known, _)| *known != action);
        self.returns.push((action, place));
        place
    }

    fn branch(&mut self, code: u16, k: u32, mut yes: Place, mut no: Place) -> Place {
        // What is too far is approached by an instruction of its own, which moves the other place away by one.
        if self.distance(yes) >= FAR {
            yes = self.approach(yes);
        }
        if self.distance(no) >= FAR {
            no = self.approach(no);
        }
        let (yes, no) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(code, k, yes, no)
    }

    /// A search for the range of a number, which is loaded.
    fn search(&mut self, ranges: &[Range], default: u32, is_big_endian: bool) -> Place {
        match ranges {
            [] => self.leave(action::KILL_PROCESS),
            [only] => self.verdict(&only.verdict, default, is_big_endian),
            // A hole of one number: one comparison instead of two.
            [around, hole, rest] if around.verdict == rest.verdict && rest.first - hole.first == 1 => {
                let around = self.verdict(&around.verdict, default, is_big_endian);
                let inside = self.verdict(&hole.verdict, default, is_big_endian);
                self.branch(JUMP_EQUAL, hole.first, inside, around)
            }
            _ => {
                let (below, above) = ranges.split_at(ranges.len() / 2);
                let first = above[0].first;
                let above = self.search(above, default, is_big_endian);
                let below = self.search(below, default, is_big_endian);
                self.branch(JUMP_GREATER_OR_EQUAL, first, above, below)
            }
        }
    }

    fn verdict(&mut self, verdict: &Verdict, default: u32, is_big_endian: bool) -> Place {
        match verdict {
            Verdict::Always(action) => self.leave(*action),
            Verdict::First(checks) => {
                let mut place = self.leave(default);
                for run in checks.chunk_by(are_one_search).rev() {
                    self.come_to(place);
                    place = match run {
                        [check] => self.check(check, is_big_endian),
                        _ => self.values(run, place, is_big_endian),
                    };
                }
                place
            }
        }
    }

    /// Returns the check's action where it is met, else goes on behind it.
    fn check(&mut self, check: &Check, is_big_endian: bool) -> Place {
        self.leave_here(check.action);
        for instruction in comparisons(check, is_big_endian).into_iter().rev() {
            self.reversed.push(instruction);
        }
        self.reversed.len()
    }

    /// The same for several checks that are [one search](are_one_search): the argument is loaded once.
    fn values(&mut self, checks: &[Check], otherwise: Place, is_big_endian: bool) -> Place {
        let hit = self.leave_here(checks[0].action);
        let low = ARGUMENTS + 8 * u32::from(checks[0].conditions[0].index) + if is_big_endian { 4 } else { 0 };
        let mut next = otherwise;
        for check in checks.iter().rev() {
            next = self.branch(JUMP_EQUAL, check.conditions[0].value as u32, hit, next);
        }
        next = self.load(low, next);
        if checks[0].is_64_bit {
            next = self.branch(JUMP_EQUAL, high_half(&checks[0].conditions[0]), next, otherwise);
            next = self.load(low ^ 4, next);
        }
        next
    }

    fn finish(mut self) -> Result<BpfProgram> {
        if self.reversed.len() > MAX_LENGTH {
            let message = format!("the profile makes a filter of {} instructions", self.reversed.len());
            return Err(Error::new(message)
                .pointer("/linux/seccomp")
                .hint(format!("the kernel takes at most {MAX_LENGTH}: name fewer arguments or architectures")));
        }
        self.reversed.reverse();
        Ok(self.reversed)
    }
}

/// Whether two checks look for values of one argument that differ in their low halves only, for one action.
fn are_one_search(one: &Check, other: &Check) -> bool {
    let ([value], [second]) = (&one.conditions[..], &other.conditions[..]) else { return false };
    let is_value = |condition: &Condition| condition.operator == Operator::Equal;
    let is_one_place = value.index == second.index && high_half(value) == high_half(second);
    is_value(value) && is_value(second) && is_one_place && one.action == other.action
}

fn high_half(condition: &Condition) -> u32 {
    (condition.value >> 32) as u32
}

/// Goes on behind the last instruction where every condition is met, else one instruction further.
fn comparisons(check: &Check, is_big_endian: bool) -> BpfProgram {
    let width = if check.is_64_bit { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
    let conditions = check.conditions.iter().filter_map(|it| condition(it, width.clone())).collect();
    let Ok(rule) = SeccompRule::new(conditions) else { return BpfProgram::new() };
    let mut program = BpfProgram::from(rule);
    // Its first two instructions are for a chain of such rules.
    program.drain(..2);
    if is_big_endian {
        // The halves of an argument lie the other way round.
        for instruction in program.iter_mut().filter(|it| it.code == LOAD && it.k >= ARGUMENTS) {
            instruction.k ^= 4;
        }
    }
    program
}

fn condition(condition: &Condition, width: SeccompCmpArgLen) -> Option<SeccompCondition> {
    let operator = match condition.operator {
        Operator::NotEqual => SeccompCmpOp::Ne,
        Operator::Less => SeccompCmpOp::Lt,
        Operator::LessOrEqual => SeccompCmpOp::Le,
        Operator::Equal => SeccompCmpOp::Eq,
        Operator::GreaterOrEqual => SeccompCmpOp::Ge,
        Operator::Greater => SeccompCmpOp::Gt,
        Operator::MaskedEqual => SeccompCmpOp::MaskedEq(condition.mask),
    };
    SeccompCondition::new(condition.index, width, operator, condition.value).ok()
}
