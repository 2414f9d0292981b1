//! `without CALL[=ERRNO][,CALL…] -- COMMAND [ARGUMENT…]`: runs COMMAND where some system calls fail, with ENOSYS if
//! no errno is given: a stand-in for an older kernel. Needs `CAP_SYS_ADMIN`, since it leaves `no_new_privs` alone.
#![cfg_attr(not(test), no_main)]

use kelson_conformance::{Result, during, entry, filter, sys};
use nix::unistd::execvp;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;

const USAGE: &str = "usage: without CALL[=ERRNO][,CALL...] -- COMMAND [ARGUMENT...]";

entry!("without", run);

fn run(args: &[OsString]) -> Result<i32> {
    let [_, list, dashes, command @ ..] = args else { return Err(USAGE.into()) };
    let command: Vec<CString> = command.iter().filter_map(|arg| CString::new(arg.as_bytes()).ok()).collect();
    let Some(program) = command.first().filter(|_| dashes == "--") else { return Err(USAGE.into()) };
    let missing = filter::parse(&list.to_string_lossy())?;
    sys::install_filter(&mut filter::program(&missing))
        .map_err(during("install the seccomp filter (which needs CAP_SYS_ADMIN)"))?;
    match execvp(program, &command) {
        Ok(never) => match never {},
        Err(errno) => Err(format!("run {}: {errno}", program.to_string_lossy())),
    }
}
