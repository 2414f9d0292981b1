//! A seccomp filter that makes single system calls fail: an older kernel, as far as a program can tell.

use crate::{Result, names, syscalls};
use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, sock_filter};

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Where a filter finds the call's number and the architecture in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// A system call that is to fail.
#[derive(Debug, PartialEq)]
pub struct Missing {
    number: u32,
    errno: u32,
}

/// Reads `CALL[=ERRNO][,CALL…]`; without an ERRNO a call fails with ENOSYS, as one does that the kernel lacks.
pub fn parse(list: &str) -> Result<Vec<Missing>> {
    list.split(',').map(parse_one).collect()
}

fn parse_one(item: &str) -> Result<Missing> {
    let (call, errno) = item.split_once('=').unwrap_or((item, "ENOSYS"));
    let number = syscalls::number(call)
        .ok_or_else(|| format!("unknown system call '{call}' (one without a name here can be given by its number)"))?;
    let errno = names::errno(errno).ok_or_else(|| format!("unknown errno '{errno}'"))?;
    Ok(Missing { number, errno: errno as u32 })
}

/// The filter: a comparison and a return for each call. Calls of another architecture pass.
pub fn program(missing: &[Missing]) -> Vec<sock_filter> {
    let native = sock_filter { code: JUMP_IF_EQUAL, jt: 1, jf: 0, k: AUDIT_ARCH };
    let mut program = vec![
        statement(LOAD_WORD, ARCHITECTURE),
        native,
        statement(RETURN, SECCOMP_RET_ALLOW),
        statement(LOAD_WORD, NUMBER),
    ];
    program.extend(missing.iter().flat_map(|call| {
        let is_it = sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: call.number };
        [is_it, statement(RETURN, SECCOMP_RET_ERRNO | call.errno)]
    }));
    program.push(statement(RETURN, SECCOMP_RET_ALLOW));
    program
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_take_an_errno_of_their_own() {
        let found = parse("openat2,pidfd_open=EPERM,435=22");
        let expected = [(437, libc::ENOSYS), (434, libc::EPERM), (435, libc::EINVAL)]
            .map(|(number, errno)| Missing { number, errno: errno as u32 });
        assert_eq!(found, Ok(expected.into()));
        assert!(parse("no_such_call").is_err());
        assert!(parse("openat2=ENONSENSE").is_err());
    }
}
