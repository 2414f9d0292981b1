//! Values of the annotations `org.systemd.property.*`: what is read can be written to the bus and read back.

#![no_main]

use kelson::cgroup::systemd::text;
use kelson::cgroup::systemd::value::{Reader, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    kelson_fuzz::watch();
    // What the bus itself sends, whatever it is.
    for signature in ["a{sv}", "(sa(yv)t)", "v"] {
        std::hint::black_box(Reader::new(data).all(signature));
    }
    let Ok(data) = std::str::from_utf8(data) else { return };
    let value = text::parse(data);
    kelson_fuzz::show(&value);
    let Ok(value) = value else { return };
    let mut bytes = Vec::new();
    value.write(&mut bytes);
    let read = Reader::new(&bytes).all(&value.signature()).expect("what was written can be read");
    // Not by value: a double may be NaN.
    assert_eq!(format!("{read:?}"), format!("{:?}", [&value]), "it is what was written");
    std::hint::black_box(Value::Variant(Box::new(value)).signature());
});
