//! Profiles to programs: run on every number, with arguments at which something changes, a program does what a plain
//! reading of its profile says.

#![no_main]
// What the tests have besides.
#![allow(dead_code)]

use kelson::{seccomp, spec};
use libfuzzer_sys::fuzz_target;

#[path = "../../src/seccomp/tests/compare.rs"]
mod compare;
#[path = "../../src/seccomp/tests/profiles.rs"]
mod profiles;
#[path = "../../src/seccomp/tests/reference.rs"]
mod reference;

fuzz_target!(|data: &[u8]| {
    kelson_fuzz::watch();
    let Ok(config) = spec::parse::<spec::seccomp::Seccomp>(data) else { return };
    kelson_fuzz::show(&seccomp::plan(&config));
    let Ok(profile) = seccomp::profile::read(&config) else { return };
    let machines = [seccomp::arch::native(), &seccomp::arch::ARCHES[data.len() % seccomp::arch::ARCHES.len()]];
    for machine in machines {
        let arches = profile.arches_on(machine);
        if arches.is_empty() || seccomp::compile::compile(&profile, &arches).is_err() {
            continue;
        }
        compare::compare(&profile, &arches, &mut profiles::Random::new(data.len() as u64));
    }
});
