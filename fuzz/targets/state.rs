//! state.json: what can be read can be written, and is the same when read again.

#![no_main]

use kelson::state::State;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    kelson_fuzz::watch();
    let Ok(state) = serde_json::from_slice::<State>(data) else { return };
    let status = state.status();
    serde_json::from_slice::<serde_json::Value>(&state.to_oci(status)).expect("hooks get JSON");
    let written = serde_json::to_vec(&state).expect("a state can be written");
    let again: State = serde_json::from_slice(&written).expect("and read");
    assert_eq!(serde_json::to_vec(&again).ok(), Some(written));
});
