//! A profile as one architecture sees it: ranges of numbers, and what happens to each, with libseccomp's meaning
//! where rules overlap.

use std::cmp::{Ordering, Reverse};

use super::arch::{Arch, X32_BIT, multiplexed_syscalls};
use super::profile::{Condition, Operator, Profile, Rule, action};

/// What happens to a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Always(u32),
    /// The first check that is met decides, else the default action.
    First(Vec<Check>),
}

/// Conditions that have all to be met, and what happens then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub conditions: Vec<Condition>,
    /// Whether arguments are compared as 64 bits; else as the low 32.
    pub is_64_bit: bool,
    pub action: u32,
}

/// The numbers from `first` up to the next range's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub first: u32,
    pub verdict: Verdict,
}

const ENOSYS: u32 = action::ERRNO | libc::ENOSYS as u32;

/// The ranges of an architecture as the kernel tells them apart, from 0 on. Neighbours differ.
///
/// x86_64 and x32 are one to the kernel; where a profile has but one of them, the other's calls kill.
pub fn ranges(profile: &Profile, arches: &[&Arch]) -> Vec<Range> {
    let mut ranges = Vec::new();
    let shares_numbers = arches.iter().any(|arch| arch.base == X32_BIT || arch.name == "SCMP_ARCH_X86_64");
    let x32 = arches.iter().find(|arch| arch.base == X32_BIT);
    let other = arches.iter().find(|arch| arch.base != X32_BIT);
    match other {
        Some(arch) => add(&mut ranges, profile, arch, 0),
        None => push(&mut ranges, 0, Verdict::Always(action::KILL_PROCESS)),
    }
    match x32 {
        Some(arch) => add(&mut ranges, profile, arch, X32_BIT),
        None if shares_numbers => {
            push(&mut ranges, X32_BIT, Verdict::Always(action::KILL_PROCESS));
            // -1 is how a tracer has a call skipped.
            push(&mut ranges, u32::MAX, Verdict::Always(profile.default));
        }
        None => {}
    }
    ranges
}

/// Adds the ranges of one architecture, whose numbers begin at `first`.
fn add(ranges: &mut Vec<Range>, profile: &Profile, arch: &Arch, first: u32) {
    let (entries, newest) = entries(profile, arch);
    let default = Verdict::Always(profile.default);
    push(ranges, first, default.clone());
    for group in entries.chunk_by(|one, other| one.number == other.number) {
        push(ranges, group[0].number, combine(group));
        if group[0].number < u32::MAX {
            push(ranges, group[0].number + 1, default.clone());
        }
    }
    if let Some(newest) = newest.filter(|_| profile.hides_new_syscalls()) {
        push(ranges, newest + 1, Verdict::Always(ENOSYS));
    }
}

/// Begins a new range where it differs from the one before.
fn push(ranges: &mut Vec<Range>, first: u32, verdict: Verdict) {
    if ranges.last().is_some_and(|last| last.first == first) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|last| last.verdict != verdict) {
        ranges.push(Range { first, verdict });
    }
}

/// A rule for one number.
struct Entry {
    number: u32,
    check: Check,
}

/// The rules of the profile for this architecture, sorted by number and else as they were given; and the greatest
/// number that it names.
fn entries(profile: &Profile, arch: &Arch) -> (Vec<Entry>, Option<u32>) {
    let multiplexed = if arch.has_multiplexers { multiplexed_syscalls() } else { Vec::new() };
    let mut entries = Vec::new();
    let mut newest = None;
    for rule in &profile.rules {
        for syscall in &rule.syscalls {
            let number = arch.number(*syscall);
            newest = newest.max(number);
            // What the default says need not be said again: such a rule does not override others either.
            if rule.action == profile.default {
                continue;
            }
            if let Some(other) = multiplexed.iter().find(|other| other.syscall == *syscall) {
                let number = arch.number(other.through);
                entries.extend(number.into_iter().flat_map(|number| checks(rule, number, arch, Some(other.call))));
            }
            entries.extend(number.into_iter().flat_map(|number| checks(rule, number, arch, None)));
        }
    }
    if profile.hides_new_syscalls() && newest.is_some() && arch.hides_unknown_numbers_behind(0) {
        let check = Check { conditions: Vec::new(), is_64_bit: arch.is_64_bit, action: ENOSYS };
        entries.insert(0, Entry { number: 0, check });
    }
    entries.sort_by_key(|entry| entry.number);
    (entries, newest)
}

/// A rule's checks for one number; with `call`, for that call through a multiplexer, whose first argument it is.
fn checks(rule: &Rule, number: u32, arch: &Arch, call: Option<u64>) -> impl Iterator<Item = Entry> {
    rule.alternatives.iter().map(move |conditions| {
        let mut conditions: Vec<_> = conditions.iter().filter_map(|condition| fit(*condition, arch)).collect();
        if let Some(call) = call {
            conditions.retain(|condition| condition.index != 0);
            conditions.push(Condition { index: 0, operator: Operator::Equal, value: call, mask: u64::MAX });
        }
        conditions.sort_by_key(|condition| condition.index);
        Entry { number, check: Check { conditions, is_64_bit: arch.is_64_bit, action: rule.action } }
    })
}

/// A condition in the width of the architecture; nothing where it is always met.
fn fit(mut condition: Condition, arch: &Arch) -> Option<Condition> {
    if !arch.is_64_bit {
        condition.value &= u64::from(u32::MAX);
        condition.mask &= u64::from(u32::MAX);
    }
    (condition.mask != 0).then_some(condition)
}

/// What several rules for one number come to: one without conditions makes the others void, the first such if there
/// are more; the others are tried in libseccomp's order, which matters only where their actions differ.
fn combine(group: &[Entry]) -> Verdict {
    if let Some(entry) = group.iter().find(|entry| entry.check.conditions.is_empty()) {
        return Verdict::Always(entry.check.action);
    }
    let mut checks: Vec<Check> = Vec::with_capacity(group.len());
    for entry in group {
        if !checks.contains(&entry.check) {
            checks.push(entry.check.clone());
        }
    }
    if checks.iter().any(|check| check.action != checks[0].action) {
        checks.sort_by(|one, other| order(&one.conditions, &other.conditions));
    }
    Verdict::First(checks)
}

/// Condition by condition, the lowest argument first; a check that is the beginning of another comes before it.
fn order(one: &[Condition], other: &[Condition]) -> Ordering {
    for (one, other) in one.iter().zip(other) {
        let order = rank(one).cmp(&rank(other));
        if order.is_ne() || one != other {
            return order;
        }
    }
    one.len().cmp(&other.len())
}

/// The higher argument first; then equality before less before greater; then the value that fewer arguments meet.
fn rank(condition: &Condition) -> Reverse<(u8, u8, u64)> {
    let (kind, value) = match condition.operator {
        Operator::Equal | Operator::NotEqual | Operator::MaskedEqual => (3, condition.value),
        Operator::Less | Operator::LessOrEqual => (2, !condition.value),
        Operator::Greater | Operator::GreaterOrEqual => (1, condition.value),
    };
    Reverse((condition.index, kind, value))
}
