//! What the programs of the conformance package share.

pub mod filter;
pub mod names;
pub mod probe;
pub mod sys;
pub mod syscalls;

use std::fmt::Display;
use std::io::{self, Write};

/// The outcome of a step; the error is the text for the program's user.
pub type Result<T> = std::result::Result<T, String>;

/// Puts what was being done before the error of doing it.
pub fn during<E: Display>(what: impl Display) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Prints a line on stdout at once: nothing flushes it later (see [`entry!`]).
pub fn say(line: impl Display) -> Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(during("write to stdout"))
}

/// The exit status for what `program` came to: an error becomes one line on stderr and status 1.
pub fn status(program: &str, outcome: Result<i32>) -> i32 {
    outcome.unwrap_or_else(|text| {
        let _ = writeln!(io::stderr(), "{program}: {text}");
        1
    })
}

/// Makes `$run` the entry point of `$program`, below Rust's own.
///
/// Rust's start-up ignores SIGPIPE, opens closed standard descriptors and handles SIGSEGV: a probe would report
/// those as its container's, and a wrapper hand them on. The binary needs `#![cfg_attr(not(test), no_main)]` too.
#[macro_export]
macro_rules! entry {
    ($program:literal, $run:path) => {
        #[cfg(not(test))]
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn main(count: std::ffi::c_int, vector: *const *const std::ffi::c_char) -> std::ffi::c_int {
            // SAFETY: the C library calls main with the arguments that the kernel made.
            let args = unsafe { $crate::sys::arguments(count, vector) };
            $crate::status($program, $run(&args))
        }

        #[cfg(test)]
        const _: fn(&[OsString]) -> $crate::Result<i32> = $run;
    };
}
