//! kelson's programs beside libseccomp's. Skipped without libseccomp; conformance/seccomp-figures runs them with it:
//! KELSON_LIBSECCOMP is conformance/libseccomp/compile.c, built; KELSON_RANDOM says how many profiles to make.

use super::libseccomp::{Made, Other};
use super::profiles::{self, Random};
use super::{arches_of, arguments, conditions_of, numbers, program, pseudo, read, run};
use crate::seccomp::arch::{ARCHES, Arch, X32_BIT, multiplexed_syscalls, native};
use crate::seccomp::interpreter::Call;
use crate::seccomp::profile::{self, Condition, Profile, Rule};
use crate::seccomp::tables::{ARM_PRIVATE, Syscall};

/// The names that this libseccomp knows by the same numbers.
fn common_names(other: &mut Other, arches: &[&Arch]) -> Vec<&'static str> {
    let multiplexed: Vec<_> = multiplexed_syscalls().iter().map(|it| it.syscall).collect();
    let mut same = |syscall: Syscall, arch: &Arch| {
        let theirs = other.number(syscall, arch);
        arch.has_multiplexers && multiplexed.contains(&syscall)
            || arch.number(syscall).map_or(theirs < 0, |ours| theirs == i64::from(ours))
    };
    let all = Syscall::all().filter(|syscall| arches.iter().all(|arch| same(*syscall, arch)));
    all.map(Syscall::name).collect()
}

/// How many calls were compared, and how many of them differ.
#[derive(Debug, Default)]
struct Count {
    calls: usize,
    /// libseccomp's program does not do what libseccomp's rules say.
    program_against_rules: usize,
    /// libseccomp's rules do not do what the profile says, which is beyond doubt.
    rules_against_profile: usize,
    /// The profile contradicts itself, so that the order of its rules decides.
    contradictions: usize,
    /// libseccomp decides otherwise on such a call.
    decided_otherwise: usize,
}

/// Compares the action for every number; beyond the newest number that is named, kelson's ENOSYS is its own.
fn compare(profile: &Profile, arches: &[&Arch], theirs: &Made, random: &mut Random, count: &mut Count) {
    let ours = program(profile, arches);
    let shares = arches.iter().any(|arch| arch.base == X32_BIT);
    for arch in arches {
        let named = profile.rules.iter().flat_map(|rule| &rule.syscalls).filter_map(|syscall| arch.number(*syscall));
        let named = named.filter(|number| *number < ARM_PRIVATE || arch.base >= ARM_PRIVATE);
        let newest = named.max().filter(|_| profile.hides_new_syscalls()).unwrap_or(u32::MAX);
        for number in numbers(arch) {
            let is_x86_64 = arch.audit == X86_64;
            let is_others = is_x86_64 && (arch.base == X32_BIT) != (number >= X32_BIT);
            let is_setup = profile.hides_new_syscalls() && arch.hides_unknown_numbers_behind(number);
            if is_setup || number > newest || shares && is_others {
                continue;
            }
            let mut call = Call { arch: arch.audit, number, arguments: [0; 6] };
            let reads = [&ours, &theirs.program].map(|it| run(it, &call, arch.is_big_endian).has_read_arguments);
            let mut many = || arguments(random, &conditions_of(profile, arch, number));
            for arguments in if reads == [false; 2] { vec![[0; 6]] } else { many() } {
                call.arguments = arguments;
                let [one, two] = [&ours, &theirs.program].map(|it| run(it, &call, arch.is_big_endian).action);
                // What x32 without x32 comes to is not among the rules.
                let right = if is_others { two } else { pseudo::action(&theirs.rules, profile, arch, &call) };
                let meant = super::reference::actions(profile, arches, &call);
                assert!(meant.contains(&one), "{call:x?}: {one:x} by {:x?}", about(profile, arch, number));
                count.calls += 1;
                // In long programs for machines of the other byte order it leaves some returns in this machine's.
                let is_swapped = arch.is_big_endian != native().is_big_endian && two.swap_bytes() == right;
                count.program_against_rules += usize::from(two != right && !is_swapped);
                count.rules_against_profile += usize::from(!meant.contains(&right));
                if meant.len() > 1 {
                    count.contradictions += 1;
                    count.decided_otherwise += usize::from(one != right);
                }
            }
        }
    }
}

/// The rules for a number, for a message.
fn about<'a>(profile: &'a Profile, arch: &Arch, number: u32) -> Vec<(u32, &'a [Vec<Condition>])> {
    let names = |rule: &&Rule| rule.syscalls.iter().any(|syscall| arch.number(*syscall) == Some(number));
    profile.rules.iter().filter(names).map(|rule| (rule.action, &rule.alternatives[..])).collect()
}

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;

/// kelson does what the profile says in every call, or the test fails. What libseccomp does otherwise is counted and not
/// copied: its program contradicts its own rules (1 of 1000 calls), its rules lose some of the profile's (1 of 15,000),
/// and where a profile contradicts itself it decides otherwise (1 of 120 such calls).
#[test]
fn random_profiles_are_compiled_alike() {
    let Some(mut other) = Other::start() else { return };
    let count: u64 = std::env::var("KELSON_RANDOM").map_or(2000, |text| text.parse().unwrap());
    let x86 = arches_of("SCMP_ARCH_X86_64");
    let mut sets: Vec<Vec<&Arch>> = vec![x86[..1].to_vec(), x86.clone()];
    sets.extend(ARCHES.iter().filter(|arch| !x86.iter().any(|it| it.name == arch.name)).map(|arch| vec![arch]));
    let (mut compared, mut refused) = (Count::default(), 0);
    let sets: Vec<_> = sets.into_iter().map(|set| (common_names(&mut other, &set), set)).collect();
    for seed in 0..count {
        let mut random = Random::new(seed);
        let (names, arches) = &sets[if seed % 2 == 0 { seed as usize / 2 % 2 } else { seed as usize / 2 % sets.len() }];
        // Few names, so that rules meet.
        let few: Vec<_> = (0..12).map(|_| random.of(names)).collect();
        let plain = random.one_in(2);
        let profile = read(&profiles::random(&mut random, &few, plain));
        match other.compile(&profile, arches, 0) {
            Some(theirs) => compare(&profile, arches, &theirs, &mut random, &mut compared),
            None => refused += 1,
        }
    }
    println!("{count} profiles, of which libseccomp refused {refused}: {compared:?}");
}

/// The profiles that engines and the specification ship, on every machine.
#[test]
fn shipped_profiles_are_compiled_alike_on_every_machine() {
    let Some(mut other) = Other::start() else { return };
    let mut random = Random::new(1);
    for machine in &ARCHES {
        let arches = arches_of(machine.name);
        let common = common_names(&mut other, &arches);
        for (name, profile) in profiles::shipped(machine) {
            let mut profile = profile::read(&profile).unwrap();
            for rule in &mut profile.rules {
                rule.syscalls.retain(|syscall| common.contains(&syscall.name()));
            }
            let mut count = Count::default();
            for optimize in [0, 2] {
                let Some(theirs) = other.compile(&profile, &arches, optimize) else { continue };
                compare(&profile, &arches, &theirs, &mut random, &mut count);
            }
            println!("{name} on {}: {count:?}", machine.name);
            if count.calls == 0 {
                println!("  this libseccomp does not know the architecture");
            }
            let differing = count.program_against_rules + count.rules_against_profile + count.decided_otherwise;
            assert_eq!(differing, 0, "{name} on {}: {count:?}", machine.name);
        }
    }
}
