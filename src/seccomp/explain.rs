//! What a profile says to one call, and why.

use super::arch::{Arch, X32_BIT};
use super::compile::compile;
use super::interpreter::{Call, Outcome, run};
use super::profile::{Condition, Operator, Profile};
use super::rules::{Check, about};
use crate::error::{Error, Result};

/// Why a call gets its action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The rule with this index.
    Rule(usize),
    /// No rule is met.
    Default,
    /// The profile knows no call as new as this.
    Newer,
    /// The architecture is not among the profile's.
    OtherArchitecture,
}

/// A rule for the call.
#[derive(Debug)]
pub struct Tried {
    pub reason: Reason,
    pub check: Check,
    pub is_met: bool,
}

/// What happens to a call.
#[derive(Debug)]
pub struct Explanation {
    pub outcome: Outcome,
    /// How many instructions the whole program has.
    pub length: usize,
    pub reason: Reason,
    /// Each rule for the call, as they are tried.
    pub tried: Vec<Tried>,
}

/// Explains what happens to a call that is made for `arch` on a machine.
pub fn explain(
    profile: &Profile,
    machine: &'static Arch,
    arch: &Arch,
    number: u32,
    arguments: [u64; 6],
) -> Result<Explanation> {
    let arches = profile.arches_on(machine);
    let program = compile(profile, &arches)?;
    let call = Call { arch: arch.audit, number, arguments };
    let outcome = run(&program, &call, arch.is_big_endian)
        .ok_or_else(|| Error::new("the filter is not one that the kernel takes"))?;
    let (reason, tried) = why(profile, &arches, &call);
    Ok(Explanation { outcome, length: program.len(), reason, tried })
}

/// Why, by the rules alone: not by the program.
pub fn why(profile: &Profile, arches: &[&Arch], call: &Call) -> (Reason, Vec<Tried>) {
    let Some(arch) = listed(arches, call) else {
        // -1 is how a tracer has a call skipped.
        let is_skipped = call.number == u32::MAX && arches.iter().any(|arch| arch.audit == call.arch);
        return (if is_skipped { Reason::Default } else { Reason::OtherArchitecture }, Vec::new());
    };
    let (entries, is_newer) = about(profile, arch, call.number);
    let tried = entries.into_iter().map(|entry| Tried {
        reason: entry.rule.map_or(Reason::Newer, Reason::Rule),
        is_met: entry.check.conditions.iter().all(|condition| is_met(condition, arch, call)),
        check: entry.check,
    });
    let tried: Vec<_> = tried.collect();
    let otherwise = if is_newer { Reason::Newer } else { Reason::Default };
    (tried.iter().find(|rule| rule.is_met).map_or(otherwise, |rule| rule.reason), tried)
}

/// Which of the architectures a call is made for: x86_64 and x32 are told apart by its number.
fn listed<'a>(arches: &[&'a Arch], call: &Call) -> Option<&'a Arch> {
    let mut same = arches.iter().filter(|arch| arch.audit == call.arch).copied();
    let has_x32 = |arch: &&Arch| arch.base == X32_BIT || arch.name == "SCMP_ARCH_X86_64";
    same.find(|arch| !has_x32(arch) || (arch.base == X32_BIT) == (call.number >= X32_BIT))
}

fn is_met(condition: &Condition, arch: &Arch, call: &Call) -> bool {
    let argument = call.arguments[usize::from(condition.index)];
    let argument = if arch.is_64_bit { argument } else { argument & u64::from(u32::MAX) };
    match condition.operator {
        Operator::NotEqual => argument != condition.value,
        Operator::Less => argument < condition.value,
        Operator::LessOrEqual => argument <= condition.value,
        Operator::Equal => argument == condition.value,
        Operator::GreaterOrEqual => argument >= condition.value,
        Operator::Greater => argument > condition.value,
        Operator::MaskedEqual => argument & condition.mask == condition.value,
    }
}
