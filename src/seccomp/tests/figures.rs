//! What a profile's filter costs, beside libseccomp's: no assertions. conformance/seccomp-figures runs it, once for each
//! profile (KELSON_PROFILE), so that the first compilation is the first of the process.

use std::time::Instant;

use seccompiler::{BpfProgram, sock_filter};

use super::libseccomp::Other;
use super::profiles::{self, Random};
use super::{arguments, conditions_of, program, run};
use crate::seccomp::arch::native;
use crate::seccomp::compile::{ARGUMENTS, LOAD};
use crate::seccomp::interpreter::Call;
use crate::seccomp::profile::{self, Profile, flag};
use crate::seccomp::rules;
use crate::seccomp::tables::Syscall;
use crate::sys;

#[test]
fn figures_of_a_profile() {
    let Some(file) = std::env::var_os("KELSON_PROFILE") else {
        return println!("skipped: KELSON_PROFILE names no profile");
    };
    let Some(mut other) = Other::start() else { return };
    let spec = profiles::load(file.as_ref(), native()).expect("a profile");
    let compile = || nanoseconds(|| drop(crate::seccomp::plan(&spec).unwrap()));
    let first = compile();
    let ours = [first, median(compile)];

    let profile = profile::read(&spec).unwrap();
    let arches = profile.arches_on(native());
    let mut programs = vec![program(&profile, &arches)];
    let mut times = vec![ours];
    for optimize in [0, 2] {
        let mut fresh = Other::start().unwrap();
        let made = fresh.compile(&profile, &arches, optimize).unwrap();
        times.push([made.nanoseconds, median(|| fresh.compile(&profile, &arches, optimize).unwrap().nanoseconds)]);
        programs.push(made.program);
    }

    // Below the name of the test, which the runner leaves unended.
    println!("\n| | kelson | libseccomp {} | optimised |\n|---|---|---|---|", other.version());
    row("instructions", programs.iter().map(|it| it.len().to_string()));
    for name in ["read", "write", "futex", "epoll_wait", "clock_gettime", "openat", "ioctl"] {
        let number = native().number(Syscall::find(name).unwrap()).unwrap();
        row(&format!("executed for {name}"), programs.iter().map(|it| executed(it, number, [0; 6]).to_string()));
    }
    let (plain, conditional) = calls(&profile);
    let each = |program: &BpfProgram| plain.iter().map(|number| executed(program, *number, [0; 6])).collect::<Vec<_>>();
    row("executed at worst, no conditions", programs.iter().map(|it| each(it).into_iter().max().unwrap().to_string()));
    row("executed on average, no conditions", programs.iter().map(|it| mean(&each(it))));
    row("executed at worst, any call", programs.iter().map(|it| worst(it, &profile, &plain, &conditional).to_string()));
    row("first compilation, µs", times.iter().map(|[first, _]| microseconds(*first)));
    row("later compilations, median, µs", times.iter().map(|[_, later]| microseconds(*later)));
    row("loading, median, µs", programs.iter().map(|it| microseconds(median(|| under(Some(it), || 0).0))));
    let getppid = || per_call(|| _ = nix::unistd::getppid());
    let personality = || per_call(|| _ = nix::sys::personality::get());
    row("getppid, ns", programs.iter().map(|it| under(Some(it), getppid).1.to_string()));
    let defeated: Vec<_> = programs.iter().map(looking_at_an_argument).collect();
    row("getppid, not remembered, ns", defeated.iter().map(|it| under(Some(it), getppid).1.to_string()));
    row("personality, ns", programs.iter().map(|it| under(Some(it), personality).1.to_string()));
    println!(
        "\nWithout a filter: getppid {} ns, personality {} ns.",
        under(None, getppid).1,
        under(None, personality).1
    );
}

fn row(title: &str, cells: impl Iterator<Item = String>) {
    println!("| {title} | {} |", cells.collect::<Vec<_>>().join(" | "));
}

/// The machine's own calls: those that depend on the number alone, and the others.
fn calls(profile: &Profile) -> (Vec<u32>, Vec<u32>) {
    let numbers = Syscall::all().filter_map(|syscall| native().number(syscall));
    let is_plain =
        |number: &u32| rules::about(profile, native(), *number).0.iter().all(|entry| entry.check.conditions.is_empty());
    numbers.partition(is_plain)
}

fn executed(program: &BpfProgram, number: u32, arguments: [u64; 6]) -> usize {
    run(program, &Call { arch: native().audit, number, arguments }, native().is_big_endian).instructions
}

fn worst(program: &BpfProgram, profile: &Profile, plain: &[u32], conditional: &[u32]) -> usize {
    let mut random = Random::new(9);
    let with = |number: &u32| {
        let many = arguments(&mut random, &conditions_of(profile, native(), *number));
        many.into_iter().map(|arguments| executed(program, *number, arguments)).max()
    };
    let without = plain.iter().map(|number| executed(program, *number, [0; 6])).max();
    conditional.iter().filter_map(with).max().max(without).unwrap()
}

/// The program made one that the kernel cannot remember the answers of.
fn looking_at_an_argument(program: &BpfProgram) -> BpfProgram {
    let mut changed = vec![sock_filter { code: LOAD, jt: 0, jf: 0, k: ARGUMENTS }];
    changed.extend(program.iter().cloned());
    changed
}

/// Measures under a filter, in a thread of its own: how long it took to load, and what was measured.
fn under(program: Option<&BpfProgram>, measure: impl Fn() -> u64 + Send) -> (u64, u64) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            sys::process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).unwrap();
            let load = |program: &BpfProgram| sys::seccomp::load_filter(flag::SPEC_ALLOW, program).unwrap();
            let took = nanoseconds(|| _ = program.map(load));
            (took, measure())
        });
        thread.join().unwrap()
    })
}

/// Nanoseconds for one call: the best of several rounds.
fn per_call(call: impl Fn()) -> u64 {
    const CALLS: u64 = 20_000;
    let round = || nanoseconds(|| (0..CALLS).for_each(|_| call())) / CALLS;
    (0..70).map(|_| round()).min().unwrap()
}

fn nanoseconds(work: impl FnOnce()) -> u64 {
    let began = Instant::now();
    work();
    began.elapsed().as_nanos() as u64
}

fn median(mut measure: impl FnMut() -> u64) -> u64 {
    let mut all: Vec<_> = (0..51).map(|_| measure()).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

fn microseconds(nanoseconds: u64) -> String {
    ((nanoseconds + 500) / 1000).to_string()
}

fn mean(all: &[usize]) -> String {
    let tenths = 10 * all.iter().sum::<usize>() / all.len();
    format!("{}.{}", tenths / 10, tenths % 10)
}
