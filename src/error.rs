//! The one error type: typed, returned, and printed once, by `main`.
//!
//! An error names the step of the container's story that failed, what was being done, the place in
//! config.json, the path, the errno by *name*, and a hint where we know one. The errno's text is left
//! out on purpose: engines take "No such file or directory" anywhere in a message for a missing program
//! (ENGINES.md, "Error classification"), so those words appear only where they are about the program.

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// A result with kelson's error.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, where, and what to do about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Error(Box<Parts>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    message: String,
    step: String,
    pointer: String,
    /// What the pointer points into, where that is not config.json.
    file: PathBuf,
    path: PathBuf,
    errno: Option<Errno>,
    hint: String,
}

impl Error {
    /// An error that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Parts { message: message.into(), ..Parts::default() }))
    }

    /// The step of the story, as in `create.rs` and `init.rs`. The innermost step stays.
    #[must_use]
    pub fn step(mut self, step: &str) -> Self {
        if self.0.step.is_empty() {
            self.0.step.push_str(step);
        }
        self
    }

    /// The JSON pointer (RFC 6901) into config.json, such as `/mounts/3/destination`. The innermost stays.
    #[must_use]
    pub fn pointer(mut self, pointer: impl Into<String>) -> Self {
        if self.0.pointer.is_empty() {
            self.0.pointer = pointer.into();
        }
        self
    }

    /// The path that was being worked on.
    #[must_use]
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        if self.0.path.as_os_str().is_empty() {
            path.as_ref().clone_into(&mut self.0.path);
        }
        self
    }

    /// The place is in another file than config.json, which is what config.json has at `root`: so the pointer becomes
    /// the fragment of the file's path (RFC 6901, 6).
    #[must_use]
    pub fn in_file(mut self, file: &Path, root: &str) -> Self {
        let pointer = std::mem::take(&mut self.0.pointer);
        let place = pointer.strip_prefix(root).unwrap_or(&pointer);
        self.0.path = format!("{}#{place}", file.display()).into();
        self
    }

    /// A place below `root` is in `file`, which has on its own what config.json has there.
    #[must_use]
    pub fn of_file(mut self, file: &Path, root: &str) -> Self {
        match self.0.pointer.strip_prefix(root).map(str::to_owned) {
            None => self,
            Some(place) if place.is_empty() => self.path(file),
            Some(place) => {
                self.0.pointer = place;
                file.clone_into(&mut self.0.file);
                self
            }
        }
    }

    /// What config.json has at `root` was given by a flag.
    #[must_use]
    pub fn of_flag(mut self, flag: &str, root: &str) -> Self {
        let place = self.0.pointer.strip_prefix(root);
        if place.is_some_and(|place| place.is_empty() || place.starts_with('/')) {
            self.0.pointer.clear();
            self.0.message = format!("{flag}: {}", self.0.message);
        }
        self
    }

    /// The kernel's answer.
    #[must_use]
    pub fn errno(mut self, errno: Errno) -> Self {
        self.0.errno = Some(errno);
        self
    }

    /// What the reader can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if self.0.hint.is_empty() {
            self.0.hint = hint.into();
        }
        self
    }

    /// The kernel's answer, where the error has one.
    pub fn os_error(&self) -> Option<Errno> {
        self.0.errno
    }

    /// Whether it is an error of this step.
    pub fn is_of_step(&self, step: &str) -> bool {
        self.0.step == step
    }

    /// The parts by name, for the JSON log; empty ones are left out.
    pub fn details(&self) -> Vec<(&'static str, String)> {
        let parts = &self.0;
        [
            ("step", parts.step.clone()),
            ("pointer", parts.pointer.clone()),
            ("file", parts.file.display().to_string()),
            ("path", parts.path.display().to_string()),
            ("errno", parts.errno.map(errno_name).unwrap_or_default()),
            ("hint", parts.hint.clone()),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect()
    }

    /// For the wire between init and the runtime: the parts, each ended by a NUL.
    pub fn to_bytes(&self) -> Vec<u8> {
        let parts = &self.0;
        let errno = parts.errno.map_or(0, |errno| errno as i32).to_string();
        let path = parts.path.to_string_lossy();
        [parts.message.as_str(), &parts.step, &parts.pointer, &path, &errno, &parts.hint]
            .iter()
            .flat_map(|part| part.bytes().filter(|byte| *byte != 0).chain([0]))
            .collect()
    }

    /// The reverse of [`Error::to_bytes`]; parts that are not there stay empty.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut parts = bytes.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
        let mut next = || parts.next().unwrap_or_default();
        Self(Box::new(Parts {
            message: next(),
            step: next(),
            pointer: next(),
            path: next().into(),
            errno: next().parse().ok().filter(|number| *number != 0).map(Errno::from_raw),
            hint: next(),
            file: PathBuf::new(),
        }))
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let parts = &self.0;
        if !parts.step.is_empty() {
            write!(f, "{}: ", parts.step)?;
        }
        f.write_str(&parts.message)?;
        if !parts.path.as_os_str().is_empty() {
            write!(f, ": {}", parts.path.display())?;
        }
        if let Some(errno) = parts.errno {
            write!(f, ": {}", errno_name(errno))?;
        }
        if !parts.pointer.is_empty() {
            let is_config = parts.file.as_os_str().is_empty();
            let file = if is_config { Path::new("config.json") } else { &parts.file };
            write!(f, " ({} {})", file.display(), parts.pointer)?;
        }
        if !parts.hint.is_empty() {
            write!(f, "; hint: {}", parts.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The errno's name, such as `ENOENT`.
pub fn errno_name(errno: Errno) -> String {
    match errno {
        Errno::UnknownErrno => "unknown errno".to_owned(),
        known => format!("{known:?}"),
    }
}

/// Turns a failed system call into an [`Error`] that says what was being done.
pub trait Context<T> {
    /// Says what was being done; the errno is kept.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;

    /// Says what was being done to which path; the errno is kept.
    fn on_path<M: Into<String>>(self, message: M, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> Context<T> for nix::Result<T> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|errno| Error::new(message()).errno(errno))
    }

    fn on_path<M: Into<String>>(self, message: M, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|errno| Error::new(message).path(path).errno(errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| from_io(&error, message()))
    }

    fn on_path<M: Into<String>>(self, message: M, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|error| from_io(&error, message).path(path))
    }
}

fn from_io(error: &std::io::Error, message: impl Into<String>) -> Error {
    match error.raw_os_error() {
        Some(number) => Error::new(message).errno(Errno::from_raw(number)),
        None => Error::new(format!("{}: {error}", message.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Error {
        Error::new("cannot mount proc")
            .step("mounts")
            .pointer("/mounts/0")
            .path("/proc")
            .errno(Errno::EPERM)
            .hint("try")
    }

    #[test]
    fn an_error_reads_as_one_line() {
        assert_eq!(full().to_string(), "mounts: cannot mount proc: /proc: EPERM (config.json /mounts/0); hint: try");
    }

    #[test]
    fn another_file_has_its_places_as_fragments() {
        let text = |error: Error| error.in_file(Path::new("p.json"), "/linux/seccomp").to_string();
        assert_eq!(text(Error::new("no").pointer("/linux/seccomp/flags/0")), "no: p.json#/flags/0");
        assert_eq!(text(Error::new("no").pointer("/archMap")), "no: p.json#/archMap");
        assert_eq!(text(Error::new("no")), "no: p.json#");
    }

    #[test]
    fn a_part_of_config_json_in_a_file_of_its_own() {
        let at = |pointer: &str| Error::new("no").pointer(pointer).of_file(Path::new("r.json"), "/linux/resources");
        assert_eq!(at("/linux/resources/cpu").to_string(), "no (r.json /cpu)");
        assert_eq!(at("/linux/seccomp").to_string(), "no (config.json /linux/seccomp)");
        assert_eq!(Error::new("no").of_file(Path::new("-"), "").to_string(), "no: -");
        assert_eq!(at("/linux/resources/cpu").details().last(), Some(&("file", "r.json".to_owned())));
    }

    #[test]
    fn a_flag_in_place_of_config_json() {
        let text = |pointer: &str| Error::new("no").pointer(pointer).of_flag("--env", "/process/env").to_string();
        assert_eq!(text("/process/env/3"), "--env: no");
        assert_eq!(text("/process/environment"), "no (config.json /process/environment)");
    }

    #[test]
    fn the_errno_text_that_engines_match_is_not_printed() {
        assert_eq!(Error::new("open").errno(Errno::ENOENT).to_string(), "open: ENOENT");
    }

    #[test]
    fn the_innermost_step_and_pointer_stay() {
        let error = full().step("outer").pointer("/outer");
        assert_eq!(error, full());
    }

    #[test]
    fn an_error_survives_the_wire() {
        assert_eq!(Error::from_bytes(&full().to_bytes()), full());
        assert_eq!(Error::from_bytes(b""), Error::default());
        let hostile = Error::new("a\0b");
        assert_eq!(Error::from_bytes(&hostile.to_bytes()).to_string(), "ab");
    }
}
