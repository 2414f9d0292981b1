//! What a profile means, said as plainly as possible: no ranges, no tables by number, no order of code.

use crate::seccomp::arch::{Arch, Multiplexed, X32_BIT, multiplexed_syscalls};
use crate::seccomp::interpreter::Call;
use crate::seccomp::profile::{Condition, Operator, Profile, Rule, action};

const ENOSYS: u32 = action::ERRNO | libc::ENOSYS as u32;

/// The actions that are right: one, or several where rules contradict each other for these arguments.
pub fn actions(profile: &Profile, arches: &[&Arch], call: &Call) -> Vec<u32> {
    let is_x32 = |arch: &Arch| arch.base == X32_BIT;
    let same: Vec<_> = arches.iter().filter(|arch| arch.audit == call.arch).collect();
    let shares = same.iter().any(|arch| is_x32(arch) || arch.name == "SCMP_ARCH_X86_64");
    let has_bit = shares && (call.number & X32_BIT != 0 || call.number >= X32_BIT);
    match same.iter().find(|arch| is_x32(arch) == has_bit) {
        Some(arch) => in_arch(profile, arch, call),
        // -1: a tracer skips the call.
        None if has_bit && call.number == u32::MAX => vec![profile.default],
        None => vec![action::KILL_PROCESS],
    }
}

fn in_arch(profile: &Profile, arch: &Arch, call: &Call) -> Vec<u32> {
    let multiplexed = if arch.has_multiplexers { multiplexed_syscalls() } else { Vec::new() };
    let syscalls = || profile.rules.iter().flat_map(|rule| &rule.syscalls);
    let through = multiplexed.iter().filter(|other| syscalls().any(|syscall| other.syscall == *syscall));
    let named: Vec<_> = through.map(|other| other.through).collect();
    let named: Vec<_> = syscalls().chain(&named).filter_map(|syscall| arch.number(*syscall)).collect();
    // ARM's own numbers lie far above those of all calls.
    let named: Vec<_> = named.into_iter().filter(|number| *number < 0xf_0000 || *number >= X32_BIT).collect();
    let refuses = profile.hides_new_syscalls() && !named.is_empty();
    let is_named = |rule: &Rule| {
        rule.action != profile.default && rule.syscalls.iter().any(|syscall| arch.number(*syscall) == Some(call.number))
    };
    if refuses && call.number > *named.iter().max().unwrap() && !profile.rules.iter().any(is_named) {
        return vec![ENOSYS];
    }
    if refuses && call.number == 0 && arch.name.starts_with("SCMP_ARCH_S390") {
        return vec![ENOSYS];
    }
    let rules = profile.rules.iter().filter(|rule| rule.action != profile.default);
    let matching: Vec<_> =
        rules.flat_map(|rule| matches(rule, arch, &multiplexed, call).into_iter().map(move |it| (rule, it))).collect();
    if let Some((rule, _)) = matching.iter().find(|(_, is_unconditional)| *is_unconditional) {
        return vec![rule.action];
    }
    let mut actions: Vec<_> = matching.iter().map(|(rule, _)| rule.action).collect();
    actions.sort_unstable();
    actions.dedup();
    if actions.is_empty() { vec![profile.default] } else { actions }
}

/// For each way in which the rule is met: whether it is met by any arguments.
fn matches(rule: &Rule, arch: &Arch, multiplexed: &[Multiplexed], call: &Call) -> Vec<bool> {
    let mut found = Vec::new();
    for syscall in &rule.syscalls {
        for conditions in &rule.alternatives {
            if arch.number(*syscall) == Some(call.number) && conditions.iter().all(|it| is_met(it, arch, call)) {
                found.push(conditions.iter().all(|it| is_always_met(it, arch)));
            }
            let Some(other) = multiplexed.iter().find(|other| other.syscall == *syscall) else { continue };
            let is_call = arch.number(other.through) == Some(call.number);
            let first = call.arguments[0];
            let is_meant = if arch.is_64_bit { first == u64::from(other.call) } else { first as u32 == other.call };
            let others = || conditions.iter().filter(|it| it.index != 0).all(|it| is_met(it, arch, call));
            if is_call && is_meant && others() {
                found.push(false);
            }
        }
    }
    found
}

fn is_always_met(condition: &Condition, arch: &Arch) -> bool {
    condition.mask == 0 || !arch.is_64_bit && condition.mask as u32 == 0
}

fn is_met(condition: &Condition, arch: &Arch, call: &Call) -> bool {
    let cut = |value: u64| if arch.is_64_bit { value } else { u64::from(value as u32) };
    let argument = cut(call.arguments[usize::from(condition.index)]);
    let (value, mask) = (cut(condition.value), cut(condition.mask));
    match condition.operator {
        Operator::NotEqual => argument != value,
        Operator::Less => argument < value,
        Operator::LessOrEqual => argument <= value,
        Operator::Equal => argument == value,
        Operator::GreaterOrEqual => argument >= value,
        Operator::Greater => argument > value,
        Operator::MaskedEqual => argument & mask == value & mask,
    }
}
