//! Finding the program, in the container and as its user.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{SFlag, stat};
use nix::unistd::{AccessFlags, faccessat};

use super::ProcessPlan;
use crate::error::{Error, Result};

/// What execvp(3) searches where the environment has no PATH.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Where the program of `args[0]` is, by the rules of execvp(3).
///
/// The words of the errors are those that engines look for (ENGINES.md): a missing program ends as exit code 127
/// there, and one that may not be executed as 126.
pub fn find(process: &ProcessPlan) -> Result<CString> {
    let Some(name) = process.args.first() else { return Err(Error::new("no program to run").pointer("/process/args")) };
    if name.is_empty() {
        return Err(not_found(name));
    }
    if name.to_bytes().contains(&b'/') {
        return executable(Path::new(OsStr::from_bytes(name.to_bytes())))
            .map(|()| name.clone())
            .map_err(|errno| refused(name, errno));
    }
    let mut denied = None;
    for directory in process.variable("PATH").unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(directory) };
        let candidate: PathBuf = Path::new(directory).join(OsStr::from_bytes(name.to_bytes()));
        match executable(&candidate) {
            Ok(()) => {
                return CString::new(candidate.into_os_string().into_encoded_bytes()).map_err(|_| not_found(name));
            }
            Err(Errno::EACCES) => denied = Some(refused(name, Errno::EACCES).path(&candidate)),
            Err(_) => {}
        }
    }
    Err(denied.unwrap_or_else(|| not_found(name)))
}

/// Whether the file can be executed: with the rights that the process will have, not those of a real user.
fn executable(path: &Path) -> nix::Result<()> {
    let mode = stat(path)?.st_mode;
    if mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
        return Err(Errno::EISDIR);
    }
    match faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        // A seccomp filter that is loaded already may not know the call: execve(2) will tell.
        Err(Errno::EPERM | Errno::ENOSYS) if mode & 0o111 != 0 => Ok(()),
        result => result,
    }
}

fn not_found(name: &CStr) -> Error {
    Error::new(format!("exec: {:?}: executable file not found in $PATH", name.to_string_lossy()))
        .pointer("/process/args/0")
}

/// An error about the program itself, in the kernel's words.
pub fn refused(name: &CStr, errno: Errno) -> Error {
    let reason = match errno {
        Errno::ENOENT => "no such file or directory",
        Errno::EACCES | Errno::EPERM => "permission denied",
        Errno::EISDIR => "is a directory",
        Errno::ENOTDIR => "not a directory",
        Errno::ENOEXEC => "exec format error",
        Errno::ETXTBSY => "text file busy",
        Errno::ELOOP => "too many levels of symbolic links",
        Errno::E2BIG => "argument list too long",
        Errno::ENOMEM => "cannot allocate memory",
        other => {
            return Error::new(format!("exec {:?}", name.to_string_lossy())).errno(other).pointer("/process/args/0");
        }
    };
    Error::new(format!("exec: {:?}: {reason}", name.to_string_lossy())).pointer("/process/args/0")
}
