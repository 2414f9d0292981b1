//! Files of `exec --process`: a process of its own, and completed by a container's.

#![no_main]

use kelson::confinement;
use kelson::exec::{Changes, complete};
use kelson::process::plan;
use kelson::spec::{Linux, Process, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    kelson_fuzz::watch();
    let given = parse::<Process>(data);
    kelson_fuzz::show(&given);
    let Ok(given) = given else { return };
    kelson_fuzz::show(&plan(&given));
    kelson_fuzz::show(&confinement::plan(Some(&given), &Linux::default(), None, false));
    let mut process = complete(given, Process { cwd: "/".into(), ..Process::default() });
    let changes = Changes { env: vec!["A=b".into()], capabilities: vec!["CAP_KILL".into()], ..Changes::default() };
    kelson_fuzz::show(&changes.apply(&mut process).and_then(|()| plan(&process)));
});
