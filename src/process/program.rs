//! Finding the program, in the container and as its user; and what is said of one that cannot be executed.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{SFlag, stat};
use nix::unistd::{AccessFlags, faccessat};

use super::ProcessPlan;
use super::explain::explain;
use crate::error::{Error, Result};

/// What execvp(3) searches where the environment has no PATH.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Where the program of `args[0]` is, by the rules of execvp(3); but not relative to the working directory because of a
/// PATH with a relative or empty part, which nobody means (runc refuses such a program, too).
///
/// The words of the errors are those that engines look for (ENGINES.md): a missing program ends as exit code 127
/// there, and one that may not be executed as 126.
pub fn find(process: &ProcessPlan) -> Result<CString> {
    let Some(name) = process.args.first() else { return Err(Error::new("no program to run").pointer("/process/args")) };
    let path = process.variable("PATH").unwrap_or(DEFAULT_PATH);
    let not_found = || not_found(name, path);
    if name.is_empty() {
        return Err(not_found());
    }
    if name.to_bytes().contains(&b'/') {
        return executable(as_path(name)).map(|()| name.clone()).map_err(|errno| refused(name, name, errno));
    }
    let mut denied = None;
    for directory in path.split(|byte| *byte == b':').filter(|directory| directory.starts_with(b"/")) {
        let candidate = Path::new(OsStr::from_bytes(directory)).join(as_path(name));
        let candidate = CString::new(candidate.into_os_string().into_encoded_bytes()).map_err(|_| not_found())?;
        match executable(as_path(&candidate)) {
            Ok(()) => return Ok(candidate),
            Err(Errno::EACCES) if denied.is_none() => denied = Some(candidate),
            Err(_) => {}
        }
    }
    Err(denied.map_or_else(not_found, |candidate| refused(name, &candidate, Errno::EACCES)))
}

fn as_path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

/// Whether the file can be executed: with the rights that the process will have, not those of a real user.
fn executable(path: &Path) -> nix::Result<()> {
    // A seccomp filter that is loaded already may not know these calls: execve(2) will tell.
    let unless_filtered = |result| match result {
        Err(Errno::EPERM | Errno::ENOSYS) => Ok(()),
        result => result,
    };
    unless_filtered(stat(path).and_then(|stat| match stat.st_mode {
        mode if mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() => Err(Errno::EISDIR),
        mode if mode & 0o111 == 0 => Err(Errno::EACCES),
        _ => Ok(()),
    }))?;
    unless_filtered(faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS))
}

fn not_found(name: &CStr, path: &[u8]) -> Error {
    Error::new(format!("{:?}: executable file not found in $PATH", name.to_string_lossy()))
        .step("exec")
        .hint(format!("PATH is {}", String::from_utf8_lossy(path)))
}

/// The error for the program called `name`, at `path`: in the kernel's words, and with what can be found out.
pub fn refused(name: &CStr, path: &CStr, errno: Errno) -> Error {
    let reason = match errno {
        Errno::ENOENT => "no such file or directory",
        // Of a directory execve(2) says EACCES; engines make 126 of it.
        Errno::EACCES | Errno::EPERM | Errno::EISDIR => "permission denied",
        Errno::ENOTDIR => "not a directory",
        Errno::ENOEXEC => "exec format error",
        Errno::ETXTBSY => "text file busy",
        Errno::ELOOP => "too many levels of symbolic links",
        Errno::E2BIG => "argument list too long",
        Errno::ENOMEM => "cannot allocate memory",
        Errno::ELIBBAD => "accessing a corrupted shared library",
        _ => "cannot be executed",
    };
    let finding = explain(as_path(path), errno);
    let found = finding.as_ref().map_or(String::new(), |finding| format!(": {}", finding.text));
    let mut error = Error::new(format!("{:?}: {reason}{found}", name.to_string_lossy())).step("exec");
    if reason == "cannot be executed" {
        error = error.errno(errno);
    }
    if name != path {
        error = error.path(as_path(path));
    }
    error.hint(finding.map(|finding| finding.hint).unwrap_or_default())
}
