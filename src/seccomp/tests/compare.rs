//! The program of a profile beside a plain reading of it: for every number, with the arguments at which something
//! changes. Fuzzing (fuzz/) uses this too.

use seccompiler::{BpfProgram, sock_filter};

use super::profiles::Random;
use super::reference;
use crate::seccomp::arch::{Arch, X32_BIT};
use crate::seccomp::compile::{JUMP, RETURN, compile};
use crate::seccomp::interpreter::{self, Call, Outcome};
use crate::seccomp::profile::{Condition, Profile, Rule};
use crate::seccomp::tables::Syscall;

/// A program that the kernel takes.
pub fn program(profile: &Profile, arches: &[&Arch]) -> BpfProgram {
    let program = compile(profile, arches).unwrap();
    assert_well_formed(&program);
    program
}

/// Runs a program that the kernel takes.
pub fn run(program: &[sock_filter], call: &Call, is_big_endian: bool) -> Outcome {
    interpreter::run(program, call, is_big_endian).expect("a program that the kernel takes")
}

/// Asserts what the kernel asserts: every jump stays inside, and the last instruction returns.
fn assert_well_formed(program: &[sock_filter]) {
    assert!(!program.is_empty() && program.len() <= 4096, "{} instructions", program.len());
    for (position, instruction) in program.iter().enumerate() {
        let furthest = match instruction.code {
            JUMP => instruction.k as usize,
            code if code & 7 == 5 => usize::from(instruction.jt.max(instruction.jf)),
            _ => continue,
        };
        assert!(position + 1 + furthest < program.len(), "{position} leads out");
    }
    assert_eq!(program.last().unwrap().code, RETURN);
}

/// Every number that the architecture has or might get, and those at the edges.
pub fn numbers(arch: &Arch) -> Vec<u32> {
    let highest = Syscall::all().filter_map(|syscall| arch.number(syscall)).max().unwrap();
    let edges = [0, 1, X32_BIT - 1, X32_BIT, X32_BIT + 1000, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX];
    let private = 0xf_0000..0xf_0008;
    let all = arch.base..=arch.base + (highest - arch.base).min(700) + 5;
    all.chain(edges).chain(private).collect()
}

/// Arguments around each of the values that conditions name, while the other arguments meet others more often than not.
pub fn arguments(random: &mut Random, conditions: &[Condition]) -> Vec<[u64; 6]> {
    let near = [0, 1, u64::MAX, 1 << 32, (1u64 << 32).wrapping_neg(), 1 << 63];
    let mut found = vec![[0; 6], [u64::MAX; 6]];
    for condition in conditions {
        for distance in near {
            let mut arguments = [0; 6].map(|_: u64| random.value());
            for _ in 0..6 {
                let other = random.of(conditions);
                arguments[usize::from(other.index)] = other.value.wrapping_add(random.of(&near[..3]));
            }
            arguments[usize::from(condition.index)] = condition.value.wrapping_add(distance);
            found.push(arguments);
        }
    }
    // What a multiplexer's first argument may be.
    for call in 0..25 {
        let mut arguments = *random.of(&found.iter().collect::<Vec<_>>());
        arguments[0] = call;
        found.push(arguments);
    }
    found
}

/// The conditions of the rules that name a number, or of all rules where it may stand for others.
pub fn conditions_of(profile: &Profile, arch: &Arch, number: u32) -> Vec<Condition> {
    let names = |name: &&str| Syscall::find(name).and_then(|syscall| arch.number(syscall)) == Some(number);
    let is_multiplexer = arch.has_multiplexers && ["socketcall", "ipc"].iter().any(names);
    let is_named = |rule: &&Rule| rule.syscalls.iter().any(|syscall| arch.number(*syscall) == Some(number));
    let rules = profile.rules.iter().filter(|rule| is_multiplexer || is_named(rule));
    rules.flat_map(|rule| rule.alternatives.concat()).collect()
}

/// Compares program and reference for every number; with arguments where rules have conditions.
pub fn compare(profile: &Profile, arches: &[&Arch], random: &mut Random) {
    let program = program(profile, arches);
    for arch in arches {
        for number in numbers(arch) {
            let mut call = Call { arch: arch.audit, number, arguments: [0; 6] };
            check(&program, profile, arches, &call, arch.is_big_endian);
            if !run(&program, &call, arch.is_big_endian).has_read_arguments {
                continue;
            }
            for arguments in arguments(random, &conditions_of(profile, arch, number)) {
                call.arguments = arguments;
                check(&program, profile, arches, &call, arch.is_big_endian);
            }
        }
    }
}

fn check(program: &BpfProgram, profile: &Profile, arches: &[&Arch], call: &Call, is_big_endian: bool) {
    let outcome = run(program, call, is_big_endian);
    let right = reference::actions(profile, arches, call);
    assert!(right.contains(&outcome.action), "{call:x?}: {:x}, not {right:x?}, by {profile:?}", outcome.action);
}
