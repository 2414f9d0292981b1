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
    let Mentions { mentions, newest } = mentions(profile, arch);
    let unnamed = |number: u32| Verdict::Always(if number > newest { ENOSYS } else { profile.default });
    // From one number on up to another, or to the end.
    let fill = |ranges: &mut Vec<Range>, from: u32, end: Option<u32>| {
        push(ranges, from, unnamed(from));
        if newest >= from && newest.checked_add(1).is_some_and(|next| end.is_none_or(|end| next < end)) {
            push(ranges, newest + 1, unnamed(newest + 1));
        }
    };
    let mut next = first;
    for group in mentions.chunk_by(|one, other| one.number == other.number) {
        let number = group[0].number;
        if number > next {
            fill(ranges, next, Some(number));
        }
        push(ranges, number, verdict(profile, arch, group));
        next = number + 1;
    }
    fill(ranges, next, None);
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

/// That a rule is about a number.
#[derive(Clone, Copy)]
struct Mention {
    number: u32,
    /// Its index in the profile; None where it is none of the profile's.
    rule: Option<u32>,
    /// The number is a multiplexer's, and this its call that is meant.
    call: Option<u32>,
}

/// What the rules of the profile are about in one architecture.
struct Mentions {
    /// Sorted by number, and else as they were given.
    mentions: Vec<Mention>,
    /// The greatest number that does not count as newer than the profile.
    newest: u32,
}

fn mentions(profile: &Profile, arch: &Arch) -> Mentions {
    let multiplexed = if arch.has_multiplexers { multiplexed_syscalls() } else { Vec::new() };
    let mut mentions = Vec::with_capacity(profile.rules.iter().map(|rule| rule.syscalls.len()).sum());
    let mut newest = None;
    for (rule, index) in profile.rules.iter().zip(0..) {
        for syscall in &rule.syscalls {
            let number = arch.number(*syscall);
            let other = multiplexed.iter().find(|other| other.syscall == *syscall);
            let through = other.and_then(|other| Some((arch.number(other.through)?, other.call)));
            // ARM's own calls lie far above all others, and tell nothing about those.
            let own = number.filter(|number| *number < ARM_PRIVATE || arch.base >= ARM_PRIVATE);
            newest = newest.max(own).max(through.map(|(number, _)| number));
            // What the default says need not be said again: such a rule does not override others either.
            if rule.action == profile.default {
                continue;
            }
            let mention = |number, call| Mention { number, rule: Some(index), call };
            mentions.extend(through.map(|(number, call)| mention(number, Some(call))));
            mentions.extend(number.map(|number| mention(number, None)));
        }
    }
    let newest = newest.filter(|_| profile.hides_new_syscalls());
    if newest.is_some() && arch.hides_unknown_numbers_behind(0) {
        mentions.insert(0, Mention { number: 0, rule: None, call: None });
    }
    mentions.sort_by_key(|mention| mention.number);
    Mentions { mentions, newest: newest.unwrap_or(u32::MAX) }
}

impl Mention {
    fn rule(self, profile: &Profile) -> Option<&Rule> {
        self.rule.map(|index| &profile.rules[index as usize])
    }

    /// The action where no argument matters.
    fn always(self, profile: &Profile, arch: &Arch) -> Option<u32> {
        let Some(rule) = self.rule(profile) else { return Some(ENOSYS) };
        let is_empty = |conditions: &Vec<Condition>| conditions.iter().all(|condition| fit(*condition, arch).is_none());
        (self.call.is_none() && rule.alternatives.iter().any(is_empty)).then_some(rule.action)
    }

    fn checks(self, profile: &Profile, arch: &Arch) -> impl Iterator<Item = Check> {
        let alternatives = self.rule(profile).into_iter().flat_map(|rule| &rule.alternatives);
        let action = self.rule(profile).map_or(ENOSYS, |rule| rule.action);
        alternatives.map(move |conditions| {
            let mut conditions: Vec<_> = conditions.iter().filter_map(|condition| fit(*condition, arch)).collect();
            if let Some(call) = self.call {
                conditions.retain(|condition| condition.index != 0);
                let value = u64::from(call);
                conditions.push(Condition { index: 0, operator: Operator::Equal, value, mask: u64::MAX });
            }
            conditions.sort_by_key(|condition| condition.index);
            Check { conditions, is_64_bit: arch.is_64_bit, action }
        })
    }
}

/// A rule for one number.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its index in the profile; None where it is none of the profile's.
    pub rule: Option<usize>,
    pub check: Check,
}

/// What decides about one number, in the order in which it is tried; and whether the number is newer than the profile.
pub fn about(profile: &Profile, arch: &Arch, number: u32) -> (Vec<Entry>, bool) {
    let Mentions { mut mentions, newest } = mentions(profile, arch);
    mentions.retain(|mention| mention.number == number);
    (deciding(profile, arch, &mentions), number > newest)
}

/// Those of several rules for one number that decide, as they are tried: one without conditions makes the others void,
/// the first such if there are more; the others are tried in libseccomp's order, which matters only where their actions
/// differ.
fn deciding(profile: &Profile, arch: &Arch, group: &[Mention]) -> Vec<Entry> {
    let always = group.iter().find_map(|mention| Some((mention, mention.always(profile, arch)?)));
    if let Some((mention, action)) = always {
        let check = Check { conditions: Vec::new(), is_64_bit: arch.is_64_bit, action };
        return vec![Entry { rule: mention.rule.map(|index| index as usize), check }];
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(group.len());
    for mention in group {
        for check in mention.checks(profile, arch) {
            if !entries.iter().any(|known| known.check == check) {
                entries.push(Entry { rule: mention.rule.map(|index| index as usize), check });
            }
        }
    }
    if entries.iter().any(|entry| entry.check.action != entries[0].check.action) {
        entries.sort_by(|one, other| order(&one.check.conditions, &other.check.conditions));
    }
    entries
}

fn verdict(profile: &Profile, arch: &Arch, group: &[Mention]) -> Verdict {
    let always = group.iter().find_map(|mention| mention.always(profile, arch));
    let checks = || deciding(profile, arch, group).into_iter().map(|entry| entry.check);
    always.map_or_else(|| Verdict::First(checks().collect()), Verdict::Always)
}

/// A condition in the width of the architecture; nothing where it is always met.
fn fit(mut condition: Condition, arch: &Arch) -> Option<Condition> {
    if !arch.is_64_bit {
        condition.value &= u64::from(u32::MAX);
        condition.mask &= u64::from(u32::MAX);
    }
    (condition.mask != 0).then_some(condition)
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
