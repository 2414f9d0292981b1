//! The filter tested as a program: every number of every architecture, with arguments at which something changes,
//! against a plain reading of the profile.

mod beside;
mod compare;
mod figures;
mod libseccomp;
mod profiles;
mod pseudo;
mod reference;

use serde_json::{Value, json};

use super::arch::{ARCHES, Arch, X32_BIT, find, native};
use super::compile::compile;
use super::explain::{self, Reason};
use super::interpreter::Call;
use super::profile::{self, Profile, action};
use super::tables::Syscall;
use super::{disassemble, rules};
use compare::{arguments, compare, conditions_of, numbers, program, run};
use profiles::{Random, parse};
use seccompiler::BpfProgram;

/// The architectures that a machine like `name` runs, itself first.
fn arches_of(name: &str) -> Vec<&'static Arch> {
    let machine = find(name).unwrap();
    let mut arches: Vec<_> = ARCHES.iter().filter(|arch| arch.runs_on(machine)).collect();
    arches.sort_by_key(|arch| arch.name != name);
    arches
}

fn read(profile: &Value) -> Profile {
    profile::read(&parse(profile)).unwrap()
}

#[test]
fn random_profiles_mean_what_they_say_on_every_machine() {
    let names = profiles::all_names();
    for (machine, seed) in ARCHES.iter().zip(0..) {
        let mut random = Random::new(seed);
        for _ in 0..20 {
            let plain = random.one_in(2);
            let profile = read(&profiles::random(&mut random, &names, plain));
            let mut arches = arches_of(machine.name);
            arches.truncate(1 + random.below(arches.len()));
            compare(&profile, &arches, &mut random);
        }
    }
}

/// Profiles of the kind that most containers have.
fn default_profiles(machine: &'static Arch) -> Vec<(String, Profile)> {
    let mut profiles = vec![("docker-like".to_owned(), read(&profiles::docker_like()))];
    let shipped = profiles::shipped(machine).into_iter();
    profiles.extend(shipped.map(|(name, profile)| (name, profile::read(&profile).unwrap())));
    profiles
}

#[test]
fn default_profiles_mean_what_they_say() {
    let mut random = Random::new(7);
    for machine in &ARCHES {
        for (_, profile) in default_profiles(machine) {
            compare(&profile, &arches_of(machine.name), &mut random);
        }
    }
}

#[test]
fn the_same_profile_makes_the_same_program() {
    let profile = read(&profiles::docker_like());
    let arches = arches_of("SCMP_ARCH_X86_64");
    assert_eq!(program(&profile, &arches), program(&read(&profiles::docker_like()), &arches));
}

#[test]
fn calls_without_conditions_take_few_instructions_and_no_arguments() {
    for (name, profile) in default_profiles(find(X86_64).unwrap()) {
        let arches = arches_of(X86_64);
        let program = program(&profile, &arches);
        for syscall in Syscall::all() {
            let Some(number) = arches[0].number(syscall) else { continue };
            let call = Call { arch: arches[0].audit, number, arguments: [0; 6] };
            let has_conditions =
                rules::about(&profile, arches[0], number).0.iter().any(|it| !it.check.conditions.is_empty());
            let outcome = run(&program, &call, false);
            assert_eq!(outcome.has_read_arguments, has_conditions, "{name}: {}", syscall.name());
            assert!(has_conditions || outcome.instructions <= 12, "{name}: {}: {outcome:?}", syscall.name());
        }
    }
}

#[test]
fn explanations_say_what_the_program_does() {
    let mut random = Random::new(5);
    let names = profiles::names(find(X86_64).unwrap());
    for arches in
        [vec![X86_64], vec![X86_64, "SCMP_ARCH_X86", "SCMP_ARCH_X32"], vec!["SCMP_ARCH_S390X", "SCMP_ARCH_S390"]]
    {
        let arches: Vec<_> = arches.into_iter().map(|name| find(name).unwrap()).collect();
        for _ in 0..20 {
            let few: Vec<_> = (0..12).map(|_| random.of(&names)).collect();
            let profile = read(&profiles::random(&mut random, &few, false));
            let program = program(&profile, &arches);
            let conditions: Vec<_> = profile.rules.iter().flat_map(|rule| rule.alternatives.concat()).collect();
            for arch in &arches {
                let named = few.iter().filter_map(|name| arch.number(Syscall::find(name).unwrap()));
                for number in named.chain([arch.base, arch.base + 9, arch.base + 999, u32::MAX]) {
                    for arguments in arguments(&mut random, &conditions) {
                        let call = Call { arch: arch.audit, number, arguments };
                        explained(&profile, &arches, &program, &call, arch.is_big_endian);
                    }
                }
            }
        }
    }
}

fn explained(profile: &Profile, arches: &[&Arch], program: &BpfProgram, call: &Call, is_big_endian: bool) {
    let (reason, tried) = explain::why(profile, arches, call);
    let action = match reason {
        Reason::Rule(index) => profile.rules[index].action,
        Reason::Default => profile.default,
        Reason::Newer => action::ERRNO | libc::ENOSYS as u32,
        Reason::OtherArchitecture => action::KILL_PROCESS,
    };
    assert_eq!(run(program, call, is_big_endian).action, action, "{reason:?} {tried:?} {call:x?}");
}

#[test]
fn a_disassembled_program_tells_what_its_numbers_are() {
    let rules = json!([{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["personality"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]);
    let profile = read(&json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
    let arches = [find(X86_64).unwrap()];
    let program = program(&profile, &arches);
    let text = disassemble::disassemble(&program, &arches);
    assert_eq!(text.lines().count(), program.len());
    for part in [
        "; SCMP_ARCH_X86_64\n",
        "; ptrace\n",
        "; SCMP_ACT_ERRNO ENOSYS\n",
        "; SCMP_ACT_KILL_THREAD\n",
        "ld  argument 0",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let bytes = disassemble::bytes(&program, false);
    assert_eq!(bytes[..8], [0x20, 0, 0, 0, 4, 0, 0, 0]);
    assert_eq!(disassemble::bytes(&program, true)[..8], [0, 0x20, 0, 0, 0, 0, 0, 4]);
}

#[test]
fn jumps_reach_across_a_long_program() {
    let mut random = Random::new(3);
    let rules: Vec<_> = profiles::names(native())
        .into_iter()
        .zip(0..)
        .filter(|(_, index)| index % 2 == 0)
        .map(|(name, index)| {
            let args = json!([{"index": index % 6, "value": index, "op": "SCMP_CMP_GT"}]);
            json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 + index % 50, "args": args})
        })
        .collect();
    let profile = read(&json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
    compare(&profile, &[native()], &mut random);
}

#[test]
fn a_profile_that_is_too_long_is_an_error() {
    let args = |value: usize| json!([{"index": 0, "value": value, "op": "SCMP_CMP_GT"}]);
    let rule = |value| json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args(value)});
    let rules: Vec<_> = (0..2000).map(rule).collect();
    let profile = read(&json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}));
    let error = compile(&profile, &[native()]).unwrap_err().to_string();
    assert!(error.contains("/linux/seccomp") && error.contains("4096"), "{error}");
}

/// What the program of a profile for x86_64 machines does with a call.
fn act(profile: &Value, arches: &[&str], call: (&str, u32), arguments: &[u64]) -> u32 {
    let arches: Vec<_> = arches.iter().map(|name| find(name).unwrap()).collect();
    let mut call = Call { arch: find(call.0).unwrap().audit, number: call.1, arguments: [0; 6] };
    call.arguments[..arguments.len()].copy_from_slice(arguments);
    run(&program(&read(profile), &arches), &call, false).action
}

const X86_64: &str = "SCMP_ARCH_X86_64";

#[test]
fn other_entries_do_not_slip_past() {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["ptrace"], "action": "SCMP_ACT_ERRNO"},
    ]});
    let errno = action::ERRNO | 1;
    assert_eq!(act(&profile, &[X86_64], (X86_64, 101), &[]), errno);
    assert_eq!(act(&profile, &[X86_64], (X86_64, X32_BIT + 521), &[]), action::KILL_PROCESS);
    assert_eq!(act(&profile, &[X86_64], ("SCMP_ARCH_X86", 26), &[]), action::KILL_PROCESS);
    assert_eq!(act(&profile, &[X86_64], (X86_64, u32::MAX), &[]), action::ALLOW);
    let both = [X86_64, "SCMP_ARCH_X32", "SCMP_ARCH_X86"];
    assert_eq!(act(&profile, &both, (X86_64, X32_BIT + 521), &[]), errno);
    assert_eq!(act(&profile, &both, ("SCMP_ARCH_X86", 26), &[]), errno);
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let profile = |default: &str| {
        json!({"defaultAction": default, "syscalls": [
            {"names": ["read", "statx"], "action": "SCMP_ACT_LOG"},
        ]})
    };
    let enosys = action::ERRNO | libc::ENOSYS as u32;
    for default in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRAP"] {
        assert_eq!(act(&profile(default), &[X86_64], (X86_64, 333), &[]), enosys, "{default}");
        assert_ne!(act(&profile(default), &[X86_64], (X86_64, 331), &[]), enosys, "{default}");
    }
    for default in ["SCMP_ACT_ALLOW", "SCMP_ACT_TRACE"] {
        assert_ne!(act(&profile(default), &[X86_64], (X86_64, 333), &[]), enosys, "{default}");
    }
}

/// socketcall(2) is 102, accept(2) its fifth call and mmap(2) 90.
#[test]
fn a_multiplexer_is_no_newer_than_the_calls_behind_it() {
    let profile = read(&json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [
        {"names": ["mmap", "accept"], "action": "SCMP_ACT_ALLOW"}]}));
    let x86 = arches_of("SCMP_ARCH_X86");
    let program = program(&profile, &x86);
    for (number, call, wanted) in [
        (102, 5, action::ALLOW),
        (102, 6, action::KILL_PROCESS),
        (101, 0, action::KILL_PROCESS),
        (103, 0, action::ERRNO | libc::ENOSYS as u32),
    ] {
        let call = Call { arch: x86[0].audit, number, arguments: [call, 0, 0, 0, 0, 0] };
        assert_eq!(run(&program, &call, false).action, wanted, "{call:?}");
        explained(&profile, &x86, &program, &call, false);
    }
}

#[test]
fn arms_own_calls_do_not_hide_what_is_new() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read", "statx", "cacheflush"], "action": "SCMP_ACT_ALLOW"}]});
    let of = |number| act(&profile, &["SCMP_ARCH_ARM"], ("SCMP_ARCH_ARM", number), &[]);
    let enosys = action::ERRNO | libc::ENOSYS as u32;
    assert_eq!([of(3), of(397), of(396)], [action::ALLOW, action::ALLOW, action::ERRNO | 1]);
    assert_eq!([of(398), of(0xf_0001), of(0xf_0002), of(0xf_0003)], [enosys, enosys, action::ALLOW, enosys]);
}

#[test]
fn several_conditions_and_rules_combine_as_in_runc() {
    let rule = |args: Value| json!({"names": ["prctl"], "action": "SCMP_ACT_ERRNO", "args": args});
    let equal = |index: u32, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let profile = |rules: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
    let refused = |rules: Value, arguments: &[u64]| {
        act(&profile(rules), &[X86_64], (X86_64, 157), arguments) == action::ERRNO | 1
    };
    let both = json!([rule(json!([equal(0, 1), equal(1, 2)]))]);
    assert!(refused(both.clone(), &[1, 2]) && !refused(both.clone(), &[1, 3]) && !refused(both, &[0, 2]));
    let one_argument = json!([rule(json!([equal(0, 1), equal(0, 2)]))]);
    assert!(refused(one_argument.clone(), &[1]) && refused(one_argument.clone(), &[2]) && !refused(one_argument, &[3]));
    let two = json!([rule(json!([equal(0, 1)])), rule(json!([equal(1, 2)]))]);
    assert!(refused(two.clone(), &[1, 0]) && refused(two.clone(), &[0, 2]) && !refused(two, &[0, 0]));
    let high = json!([rule(json!([equal(0, 1 << 32)]))]);
    assert!(refused(high.clone(), &[1 << 32]) && !refused(high, &[0]));
}

#[test]
fn bad_profiles_are_errors_that_name_the_place() {
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    let args = |arg: Value| rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [arg]}));
    for (profile, pointer) in [
        (json!({}), "/defaultAction"),
        (json!({"defaultAction": "ALLOW"}), "/defaultAction"),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}), "/defaultErrnoRet"),
        (json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}), "/defaultErrnoRet"),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["X86"]}), "/architectures/0"),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["", "x"]}), "/flags/0"),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}), "/listenerMetadata"),
        (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "/listenerPath"),
        (rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})), "/listenerPath"),
        (rule(json!({"names": [], "action": "SCMP_ACT_ERRNO"})), "/syscalls/0/names"),
        (rule(json!({"names": ["read", ""], "action": "SCMP_ACT_ERRNO"})), "/syscalls/0/names/1"),
        (rule(json!({"names": ["read"]})), "/syscalls/0/action"),
        (rule(json!({"names": ["read"], "action": "SCMP_ACT_LOG", "errnoRet": 0})), "/syscalls/0/errnoRet"),
        (args(json!({"index": 6, "value": 0, "op": "SCMP_CMP_EQ"})), "/syscalls/0/args/0/index"),
        (args(json!({"index": 0, "value": 0, "op": "=="})), "/syscalls/0/args/0/op"),
        (args(json!({"index": 0, "value": 0})), "/syscalls/0/args/0/op"),
    ] {
        let error = super::plan(&parse(&profile)).unwrap_err().to_string();
        assert!(error.contains(&format!("(config.json /linux/seccomp{pointer})")), "{profile}: {error}");
    }
}

#[test]
fn what_go_leaves_out_is_no_error() {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": null, "flags": null, "listenerPath": null,
        "syscalls": [{"names": null, "action": "SCMP_ACT_ERRNO", "args": null, "errnoRet": null},
            {"names": ["no_such_call"], "action": "SCMP_ACT_KILL"}]});
    let plan = super::plan(&parse(&profile)).unwrap();
    assert_eq!(plan.flags, profile::flag::SPEC_ALLOW);
    let flags = |flags: Value| {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags});
        super::plan(&parse(&profile)).unwrap().flags
    };
    assert_eq!(flags(json!([])), 0);
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"])), profile::flag::LOG);
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])), 0, "there is no listener");
}
