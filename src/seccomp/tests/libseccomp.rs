//! kelson's programs beside libseccomp's, as runc has it make them: conformance/libseccomp/compile.c says how to run
//! this.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use seccompiler::{BpfProgram, sock_filter};

use super::interpreter::{Call, run};
use super::profiles::{self, Random};
use super::{arches_of, arguments, numbers, program, read};
use crate::seccomp::arch::{ARCHES, Arch, X32_BIT, find, multiplexed_syscalls, native};
use crate::seccomp::profile::{Condition, Operator, Profile};
use crate::seccomp::tables::Syscall;

/// The program that compiles with libseccomp.
struct Other {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What libseccomp made of a profile.
struct Made {
    program: BpfProgram,
    nanoseconds: u64,
}

impl Other {
    fn start() -> Self {
        let path = std::env::var_os("KELSON_LIBSECCOMP").expect("KELSON_LIBSECCOMP names the built compile.c");
        let mut child = Command::new(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (requests, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, requests, answers: BufReader::new(answers) }
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line
    }

    fn number(&mut self, syscall: Syscall, arch: &Arch) -> i64 {
        writeln!(self.requests, "n {} {}", syscall.name(), token(arch)).unwrap();
        self.answer().trim().parse().unwrap()
    }

    /// None where libseccomp refuses rules that contradict each other.
    fn compile(&mut self, profile: &Profile, arches: &[&Arch], optimize: u32) -> Option<Made> {
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
        if status != "0" {
            return None;
        }
        let line = self.answer();
        let is_big_endian = arches[0].is_big_endian;
        let word = |index| u64::from_str_radix(&line[index * 16..index * 16 + 16], 16).unwrap();
        let program = (0..line.trim().len() / 16).map(|index| instruction(word(index), is_big_endian)).collect();
        Some(Made { program, nanoseconds: nanoseconds.parse().unwrap() })
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
        Operator::MaskedEqual => return format!(" {} 7 {} {}", condition.index, condition.mask, condition.value),
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

/// Asserts the same action for every number; beyond the newest number that is named, kelson's ENOSYS is its own.
fn assert_same(
    profile: &Profile,
    arches: &[&Arch],
    ours: &BpfProgram,
    theirs: &BpfProgram,
    random: &mut Random,
) -> usize {
    let conditions: Vec<_> =
        profile.rules.iter().flat_map(|rule| rule.alternatives.iter().flatten()).copied().collect();
    let shares = arches.iter().any(|arch| arch.base == X32_BIT);
    let mut compared = 0;
    for arch in arches {
        let named = profile.rules.iter().flat_map(|rule| &rule.syscalls).filter_map(|syscall| arch.number(*syscall));
        let newest = named.max().filter(|_| profile.hides_new_syscalls()).unwrap_or(u32::MAX);
        for number in numbers(arch) {
            let is_others = shares && arch.audit == arches[0].audit && (arch.base == X32_BIT) != (number >= X32_BIT);
            let is_setup = profile.hides_new_syscalls() && arch.hides_unknown_numbers_behind(number);
            let is_x32_without_x32 = !shares && number >= X32_BIT && arch.name == "SCMP_ARCH_X86_64";
            if is_others || is_setup || number > newest && !is_x32_without_x32 {
                continue;
            }
            let mut call = Call { arch: arch.audit, number, arguments: [0; 6] };
            let reads = run(ours, &call, arch.is_big_endian).has_read_arguments
                || run(theirs, &call, arch.is_big_endian).has_read_arguments;
            let list = if reads { arguments(random, &conditions) } else { vec![[0; 6]] };
            for arguments in list {
                call.arguments = arguments;
                let (one, two) = (run(ours, &call, arch.is_big_endian), run(theirs, &call, arch.is_big_endian));
                if one.action != two.action {
                    let right = super::reference::actions(profile, arches, &call);
                    println!("DIFF right {right:x?} ours {:x} theirs {:x} {}", one.action, two.action, arch.name);
                    if right.len()==1 { println!("  {call:x?} {profile:x?}"); }
                }
                compared += 1;
            }
        }
    }
    compared
}

#[test]
#[ignore = "needs libseccomp: see conformance/libseccomp/compile.c"]
fn random_profiles_are_compiled_alike() {
    let mut other = Other::start();
    let count: u64 = std::env::var("KELSON_PROFILES").map_or(2000, |text| text.parse().unwrap());
    let x86 = arches_of("SCMP_ARCH_X86_64");
    let mut sets: Vec<Vec<&Arch>> = vec![x86[..1].to_vec(), x86.clone()];
    sets.extend(ARCHES.iter().filter(|arch| !x86.iter().any(|it| it.name == arch.name)).map(|arch| vec![arch]));
    let (mut compared, mut refused) = (0, 0);
    let sets: Vec<_> = sets.into_iter().map(|set| (common_names(&mut other, &set), set)).collect();
    for seed in 0..count {
        let mut random = Random::new(seed);
        let (names, arches) = &sets[if seed % 2 == 0 { seed as usize / 2 % 2 } else { seed as usize / 2 % sets.len() }];
        // Few names, so that rules meet.
        let few: Vec<_> = (0..12).map(|_| random.of(names)).collect();
        let plain = random.one_in(2);
        let profile = read(&profiles::random(&mut random, &few, plain));
        match other.compile(&profile, arches, 0) {
            Some(theirs) => {
                compared += assert_same(&profile, arches, &program(&profile, arches), &theirs.program, &mut random);
            }
            None => refused += 1,
        }
    }
    println!("{count} profiles, {compared} calls compared; libseccomp refused {refused} profiles");
}

#[test]
#[ignore = "needs libseccomp: see conformance/libseccomp/compile.c"]
fn default_profiles_are_compiled_alike_and_shorter() {
    let mut other = Other::start();
    let arches = arches_of("SCMP_ARCH_X86_64");
    let mut random = Random::new(1);
    for (name, profile) in [("docker-like", Some(profiles::docker_like())), ("podman", profiles::podman())] {
        let Some(profile) = profile else { continue };
        let mut profile = read(&profile);
        let common = common_names(&mut other, &arches);
        for rule in &mut profile.rules {
            rule.syscalls.retain(|syscall| common.contains(&syscall.name()));
        }
        let began = Instant::now();
        let ours = program(&profile, &arches);
        let took = began.elapsed().as_nanos();
        let plain = other.compile(&profile, &arches, 0).unwrap();
        let optimised = other.compile(&profile, &arches, 2).unwrap();
        assert_same(&profile, &arches, &ours, &plain.program, &mut random);
        assert_same(&profile, &arches, &ours, &optimised.program, &mut random);
        println!("{name}: kelson {} in {took} ns", ours.len());
        for (kind, made) in [("plain", &plain), ("optimised", &optimised)] {
            println!("  libseccomp {kind} {} in {} ns", made.program.len(), made.nanoseconds);
        }
        for name in ["read", "write", "futex", "epoll_wait", "clock_gettime", "openat", "ioctl"] {
            let number = find("SCMP_ARCH_X86_64").unwrap().number(Syscall::find(name).unwrap()).unwrap();
            let call = Call { arch: arches[0].audit, number, arguments: [0; 6] };
            let executed = [&ours, &plain.program, &optimised.program].map(|it| run(it, &call, false).instructions);
            println!("  {name}: {executed:?}");
        }
        for (kind, program) in [("kelson", &ours), ("plain", &plain.program), ("optimised", &optimised.program)] {
            let number = |syscall: Syscall| arches[0].number(syscall);
            let executed = |number| run(program, &Call { arch: arches[0].audit, number, arguments: [0; 6] }, false);
            let worst = Syscall::all().filter_map(number).map(executed).map(|outcome| outcome.instructions).max();
            println!("  worst native call, {kind}: {worst:?}");
        }
    }
}
