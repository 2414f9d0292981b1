//! A profile as one architecture sees it: ranges of numbers, and what happens to each, with libseccomp's meaning
//! where rules overlap.

use std::cmp::{Ordering, Reverse};

use super::arch::{Arch, X32_BIT, multiplexed_syscalls};
use super::profile::{Condition, Operator, Profile, Rule, action};
use super::tables::ARM_PRIVATE;

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
    let Entries { entries, newest } = entries(profile, arch);
    let unnamed = |number: u32| (number, Verdict::Always(if number > newest { ENOSYS } else { profile.default }));
    let groups = || entries.chunk_by(|one, other| one.number == other.number);
    let ends = groups().map(|group| group[0].number).chain([newest]);
    let mut starts = vec![unnamed(first)];
    starts.extend(ends.filter_map(|number| number.checked_add(1)).map(unnamed));
    // Behind the others, so that what is named comes last where two have the same number.
    starts.extend(groups().map(|group| (group[0].number, verdict(&deciding(group)))));
    starts.sort_by_key(|(number, _)| *number);
    starts.into_iter().for_each(|(number, verdict)| push(ranges, number, verdict));
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
#[derive(Clone, Debug)]
pub struct Entry {
    number: u32,
    /// Its index in the profile; None where it is none of the profile's.
    pub rule: Option<usize>,
    pub check: Check,
}

/// The rules of the profile for one architecture.
struct Entries {
    /// Sorted by number, and else as they were given.
    entries: Vec<Entry>,
    /// The greatest number that does not count as newer than the profile.
    newest: u32,
}

/// What decides about one number, in the order in which it is tried; and whether the number is newer than the profile.
pub fn about(profile: &Profile, arch: &Arch, number: u32) -> (Vec<Entry>, bool) {
    let Entries { mut entries, newest } = entries(profile, arch);
    entries.retain(|entry| entry.number == number);
    (deciding(&entries).into_iter().cloned().collect(), number > newest)
}

fn entries(profile: &Profile, arch: &Arch) -> Entries {
    let multiplexed = if arch.has_multiplexers { multiplexed_syscalls() } else { Vec::new() };
    let mut entries = Vec::new();
    let mut newest = None;
    for (index, rule) in profile.rules.iter().enumerate() {
        for syscall in &rule.syscalls {
            let number = arch.number(*syscall);
            // ARM's own calls lie far above all others, and tell nothing about those.
            newest = newest.max(number.filter(|number| *number < ARM_PRIVATE || arch.base >= ARM_PRIVATE));
            // What the default says need not be said again: such a rule does not override others either.
            if rule.action == profile.default {
                continue;
            }
            let mut add = |number: Option<u32>, call| {
                let entry = |number, check| Entry { number, rule: Some(index), check };
                entries.extend(number.into_iter().flat_map(|n| checks(rule, arch, call).map(move |it| entry(n, it))));
            };
            if let Some(other) = multiplexed.iter().find(|other| other.syscall == *syscall) {
                add(arch.number(other.through), Some(other.call));
            }
            add(number, None);
        }
    }
    let newest = newest.filter(|_| profile.hides_new_syscalls());
    if newest.is_some() && arch.hides_unknown_numbers_behind(0) {
        let check = Check { conditions: Vec::new(), is_64_bit: arch.is_64_bit, action: ENOSYS };
        entries.insert(0, Entry { number: 0, rule: None, check });
    }
    entries.sort_by_key(|entry| entry.number);
    Entries { entries, newest: newest.unwrap_or(u32::MAX) }
}

/// A rule's checks; with `call`, for that call through a multiplexer, whose first argument it is.
fn checks(rule: &Rule, arch: &Arch, call: Option<u64>) -> impl Iterator<Item = Check> {
    rule.alternatives.iter().map(move |conditions| {
        let mut conditions: Vec<_> = conditions.iter().filter_map(|condition| fit(*condition, arch)).collect();
        if let Some(call) = call {
            conditions.retain(|condition| condition.index != 0);
            conditions.push(Condition { index: 0, operator: Operator::Equal, value: call, mask: u64::MAX });
        }
        conditions.sort_by_key(|condition| condition.index);
        Check { conditions, is_64_bit: arch.is_64_bit, action: rule.action }
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

/// Those of several rules for one number that decide, as they are tried: one without conditions makes the others void,
/// the first such if there are more; the others are tried in libseccomp's order, which matters only where their actions
/// differ.
fn deciding(group: &[Entry]) -> Vec<&Entry> {
    if let Some(entry) = group.iter().find(|entry| entry.check.conditions.is_empty()) {
        return vec![entry];
    }
    let mut entries: Vec<&Entry> = Vec::with_capacity(group.len());
    for entry in group {
        if !entries.iter().any(|known| known.check == entry.check) {
            entries.push(entry);
        }
    }
    if entries.iter().any(|entry| entry.check.action != entries[0].check.action) {
        entries.sort_by(|one, other| order(&one.check.conditions, &other.check.conditions));
    }
    entries
}

fn verdict(entries: &[&Entry]) -> Verdict {
    match entries {
        [only] if only.check.conditions.is_empty() => Verdict::Always(only.check.action),
        _ => Verdict::First(entries.iter().map(|entry| entry.check.clone()).collect()),
    }
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
