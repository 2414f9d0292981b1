//! Values on the command line: users, sizes, lists of CPUs, ids of containers, versions of kernels.

#![no_main]

use kelson::cli::exec::parse_user;
use kelson::cli::update::size;
use kelson::process::cpu_list;
use kelson::seccomp::engine;
use kelson::state::validate_id;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &str| {
    kelson_fuzz::watch();
    check_user(data);
    if let Some(size) = size(data) {
        assert!(size.as_i64().is_some_and(|size| size >= -1), "{data:?} is {size}");
    }
    if let Some(mask) = cpu_list::parse(data) {
        let numbers = || data.split([',', '-']).map(|number| number.trim().parse::<usize>().expect("a number"));
        assert!(numbers().all(|number| mask[number / 64] >> (number % 64) & 1 == 1), "{data:?} is {mask:x?}");
    }
    if validate_id(data).is_ok() {
        assert!(!data.contains('/') && data != ".." && std::path::Path::new(data).components().count() == 1);
    }
    std::hint::black_box(engine::release(data));
});

/// Only decimal numbers are users: what cannot be read must not become root.
fn check_user(data: &str) {
    let Ok((uid, gid)) = parse_user(data) else { return };
    let said = match (uid, gid) {
        (Some(uid), Some(gid)) => format!("{uid}:{gid}"),
        (Some(uid), None) => uid.to_string(),
        _ => panic!("{data:?} names no user"),
    };
    // As the input, but for leading zeros.
    let plain = |text: &str| {
        let parts = text.split(':').map(|part| part.trim_start_matches('0').to_owned()).collect::<Vec<_>>();
        parts.join(":")
    };
    assert_eq!(plain(&said), plain(data));
}
