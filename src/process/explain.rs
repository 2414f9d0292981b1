//! Why a program cannot be executed: what the file, its interpreter and the mount that it is on say about it.
//!
//! Runs as the process that was to become the program: in the container's root and with the rights of its user, so
//! nothing is read here that the program could not have read. Only regular files are opened, and a bounded part of
//! them is read.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, readlink};
use nix::sys::stat::{FileStat, SFlag, stat};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, faccessat, geteuid};

use super::binary::{self, Content, Elf};
use crate::safepath::file_type;
use crate::sys;

/// How many interpreters of interpreters the kernel follows.
const MAX_DEPTH: u8 = 5;

/// What was found, to be put behind the kernel's word for it; and what helps, where that is known.
///
/// The words that engines look for stay out of the text: they are the kernel's (see [`super::program::refused`]).
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub text: String,
    pub hint: String,
}

/// A path as it can be printed: what is no letter is escaped.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}

#[allow(clippy::unnecessary_wraps)] // what every look at the file returns
fn found(text: impl Into<String>, hint: impl Into<String>) -> Option<Finding> {
    Some(Finding { text: text.into(), hint: hint.into() })
}

/// Explains why execve(2) of the file at `path` failed with `errno`; nothing where nothing is found.
pub fn explain(path: &Path, errno: Errno) -> Option<Finding> {
    let program = Examined { path, name: "it".into(), depth: 0, errno };
    program.look().or_else(|| match errno {
        Errno::ETXTBSY => found("it is open for writing", "whatever writes it has to close it first"),
        Errno::EPERM => refused_privileges(path),
        Errno::EACCES => refused_by_a_module(),
        _ => None,
    })
}

/// The program, or an interpreter that it needs.
struct Examined<'a> {
    path: &'a Path,
    /// What it is called.
    name: String,
    depth: u8,
    errno: Errno,
}

impl Examined<'_> {
    fn look(&self) -> Option<Finding> {
        let name = &self.name;
        let stat = match stat(self.path) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return self.missing(),
            Err(Errno::EACCES) => return closed_directory(self.path),
            Err(_) => return None,
        };
        if file_type(&stat) != SFlag::S_IFREG {
            let is_directory = file_type(&stat) == SFlag::S_IFDIR;
            let kind = if is_directory { "a directory" } else { "not a regular file" };
            return found(format!("{name} is {kind}"), "");
        }
        if faccessat(AT_FDCWD, self.path, AccessFlags::X_OK, AtFlags::AT_EACCESS).is_err() {
            return self.on_a_mount_without_execution().or_else(|| self.without_permission(&stat));
        }
        self.judge(&binary::read(&beginning(self.path, binary::HEAD)?))
    }

    fn missing(&self) -> Option<Finding> {
        let name = &self.name;
        if let Ok(target) = readlink(self.path) {
            return found(format!("{name} is a symbolic link to {}, which is missing", quoted(target.as_ref())), "");
        }
        let path = self.path.as_os_str().as_bytes();
        let is_for = |part: &[u8]| path.windows(part.len()).any(|window| window == part);
        let hint = if is_for(b"/ld-musl") {
            "the program was linked against musl libc, which the image lacks: use one that has it, or link statically"
        } else if is_for(b"/ld-") {
            "the program was linked against glibc, which the image lacks: use one that has it, or link statically"
        } else {
            "add it to the image"
        };
        if self.depth == 0 { None } else { found(format!("{name} is missing"), hint) }
    }

    fn without_permission(&self, stat: &FileStat) -> Option<Finding> {
        let (name, mode, user) = (&self.name, stat.st_mode & 0o7777, geteuid());
        match mode & 0o111 {
            0 => found(format!("{name} has no execute permission (mode {mode:04o})"), "chmod +x it in the image"),
            // Not a matter of permissions.
            0o111 => None,
            _ => {
                let owner = format!("{}:{}", stat.st_uid, stat.st_gid);
                found(format!("user {user} may not execute it: {name} has mode {mode:04o} and owner {owner}"), "")
            }
        }
    }

    fn on_a_mount_without_execution(&self) -> Option<Finding> {
        let mount = mount_without_execution(self.path)?;
        let hint = if mount == Path::new("/") {
            "the rootfs is on a file system that the host has mounted with noexec"
        } else {
            "remove noexec from the options of that mount"
        };
        found(format!("{} is on the mount {}, which has noexec", self.name, mount.display()), hint)
    }

    fn judge(&self, content: &Content) -> Option<Finding> {
        let name = &self.name;
        match content {
            Content::Script { interpreter } => self.judge_script(interpreter),
            Content::Elf(elf) => self.judge_elf(elf),
            _ if self.errno != Errno::ENOEXEC => None,
            Content::Empty => found(format!("{name} is empty"), ""),
            Content::Text { has_mark: true } => {
                found(format!("{name} has a byte order mark before its #!"), "save it as UTF-8 without one")
            }
            Content::Text { has_mark: false } => found(
                format!("{name} is text whose first line names no interpreter"),
                "begin it with #!/bin/sh, or have its interpreter run it",
            ),
            Content::BrokenElf => found(format!("{name} is a damaged ELF file"), ""),
            Content::Foreign(what) => found(format!("{name} is {what}"), ""),
            Content::Unknown => found(format!("{name} is no program that this kernel knows"), ""),
        }
    }

    fn judge_script(&self, interpreter: &Path) -> Option<Finding> {
        let name = &self.name;
        let text = interpreter.as_os_str().as_bytes();
        if text.is_empty() {
            return found(format!("{name} is a script whose first line names no interpreter"), "as in #!/bin/sh");
        }
        if text.ends_with(b"\r") {
            return found(
                format!(
                    "{name} is a script whose lines end in CRLF, which makes its interpreter {}",
                    quoted(interpreter)
                ),
                "convert it to Unix line ends, as dos2unix does",
            );
        }
        self.needed(interpreter, "interpreter")
    }

    /// Examines a file that the kernel runs in the place of this one.
    fn needed(&self, path: &Path, what: &str) -> Option<Finding> {
        if self.depth == MAX_DEPTH {
            return found(format!("scripts follow each other as interpreters, more than {MAX_DEPTH} in a row"), "");
        }
        let name = match self.depth {
            0 => format!("its {what} {}", quoted(path)),
            _ => format!("the {what} {} of {}", quoted(path), quoted(self.path)),
        };
        Examined { path, name, depth: self.depth + 1, errno: self.errno }.look()
    }

    fn judge_elf(&self, elf: &Elf) -> Option<Finding> {
        let name = &self.name;
        let is_refused = matches!(self.errno, Errno::ENOEXEC | Errno::ELIBBAD);
        if !elf.is_program() {
            return found(format!("{name} is an ELF file that is no program: an object, or a core dump"), "");
        }
        if let Some(other) = elf.other_machine().filter(|_| is_refused) {
            return found(
                format!("{name} is for {other}, and this machine is {}", binary::own_machine()),
                "use an image for this machine, or have binfmt_misc run an emulator (qemu-user-static)",
            );
        }
        match loader(self.path, elf) {
            Some(loader) => self.needed(&loader, "loader"),
            None if is_refused => found(format!("{name} is a damaged ELF file"), ""),
            None => None,
        }
    }
}

/// The beginning of a regular file.
fn beginning(path: &Path, length: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    open(path)?.take(length as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Opens a regular file; anything else might wait, or do something by being opened.
fn open(path: &Path) -> Option<File> {
    let is_regular = |mode| SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    if !is_regular(stat(path).ok()?.st_mode) {
        return None;
    }
    File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()
}

/// The path of the loader that an ELF file names.
fn loader(path: &Path, elf: &Elf) -> Option<PathBuf> {
    let file = open(path)?;
    let read = |(offset, length): (u64, usize)| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
    };
    let text = read(elf.loader(&read(elf.headers())?)?)?;
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    (!text.is_empty()).then(|| OsStr::from_bytes(text).into())
}

/// The first directory on the way to `path` that the user may not enter.
fn closed_directory(path: &Path) -> Option<Finding> {
    let mut above: Vec<_> = path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    let is_closed = |path: &&&Path| faccessat(AT_FDCWD, **path, AccessFlags::X_OK, AtFlags::AT_EACCESS).is_err();
    let closed = above.iter().find(is_closed)?;
    found(format!("user {} may not enter the directory {}", geteuid(), quoted(closed)), "")
}

/// The place of the mount with noexec that `path` is on.
fn mount_without_execution(path: &Path) -> Option<PathBuf> {
    let path = std::fs::canonicalize(path).ok()?;
    let device = |path: &Path| stat(path).map(|stat| stat.st_dev).ok();
    let own = device(&path);
    let is_on_it = |above: &&Path| {
        let forbids = statvfs(*above).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_NOEXEC));
        forbids && device(above) == own
    };
    path.ancestors().take_while(is_on_it).last().map(Path::to_owned)
}

/// EPERM for a file that access(2) allows: file capabilities, or a filter.
fn refused_privileges(path: &Path) -> Option<Finding> {
    if sys::fs::has_attribute(path, c"security.capability") {
        return found(
            "it has file capabilities that the process may not get",
            "add them to /process/capabilities/bounding, or take them from the file (setcap -r)",
        );
    }
    let status = beginning(Path::new("/proc/self/status"), 4096)?;
    let is_filtered = status.split(|byte| *byte == b'\n').any(|line| line == b"Seccomp:\t2");
    if is_filtered { found("a seccomp profile is in force that may forbid execve(2)", "") } else { None }
}

/// EACCES where neither permissions nor a mount forbid it.
fn refused_by_a_module() -> Option<Finding> {
    let read = |file: &str| {
        let text = beginning(&Path::new("/proc/self/attr").join(file), 4096)?;
        let text = String::from_utf8_lossy(&text).trim_end_matches(['\0', '\n']).to_owned();
        (!text.is_empty() && text != "unconfined").then_some(text)
    };
    // What the program was to run as, else what this process does.
    match read("exec").or_else(|| read("current")) {
        Some(label) => found(
            format!("neither its mode nor its mount forbids it, so the host's security module does, for {label:?}"),
            "the host's audit log says why (dmesg, ausearch -m avc)",
        ),
        None => found(
            "neither its mode nor its mount forbids it",
            "a security module of the host may: its audit log says so (dmesg, ausearch)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    struct Files(PathBuf);

    impl Files {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("kelson-explain-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn make(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        }
    }

    impl Drop for Files {
        #[allow(clippy::disallowed_methods)]
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn text(path: &Path, errno: Errno) -> String {
        explain(path, errno).map(|finding| finding.text).unwrap_or_default()
    }

    #[test]
    fn a_script_is_followed_through_its_interpreters() {
        let files = Files::new("scripts");
        let missing = files.make("missing", "#!/no/such/interpreter\n");
        assert_eq!(text(&missing, Errno::ENOENT), "its interpreter \"/no/such/interpreter\" is missing");
        let outer = files.make("outer", format!("#!{}\n", missing.display()));
        let told = text(&outer, Errno::ENOENT);
        assert_eq!(told, format!("the interpreter \"/no/such/interpreter\" of {missing:?} is missing"));
        let crlf = files.make("crlf", "#!/bin/sh\r\necho\r\n");
        assert!(text(&crlf, Errno::ENOENT).ends_with("CRLF, which makes its interpreter \"/bin/sh\\r\""));
        let own = files.0.join("own");
        files.make("own", format!("#!{}\n", own.display()));
        assert!(text(&own, Errno::ELOOP).contains("more than 5 in a row"));
    }

    #[test]
    fn what_is_no_program_is_named_only_where_the_kernel_says_so() {
        let files = Files::new("content");
        let plain = files.make("plain", "echo hi\n");
        assert!(text(&plain, Errno::ENOEXEC).contains("names no interpreter"));
        assert_eq!(text(&plain, Errno::E2BIG), "");
        assert_eq!(text(&files.make("empty", ""), Errno::ENOEXEC), "it is empty");
    }

    #[test]
    fn nothing_but_regular_files_is_opened() {
        let files = Files::new("fifo");
        let fifo = files.0.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(text(&fifo, Errno::EACCES), "it is not a regular file");
        assert!(open(&fifo).is_none() && open(Path::new("/dev/null")).is_none());
    }

    #[test]
    fn the_words_of_engines_stay_out_of_findings() {
        let source = include_str!("explain.rs").split("mod tests").next().unwrap_or_default().to_lowercase();
        for word in ["no such file", "permission denied", "not permitted", "not found", "not a directory"] {
            let said = source.lines().filter(|line| !line.trim_start().starts_with("//"));
            assert_eq!(said.filter(|line| line.contains(word)).count(), 0, "{word}");
        }
    }
}
