//! One call of kelson, or of anything else, with a deadline.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::seconds;

/// In seconds.
const DEADLINE: u64 = 30;

/// What a call came to.
#[derive(Debug)]
pub struct Output {
    /// The exit code, or the negative number of the signal that ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Asserts success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Asserts `exec`'s exit code for an error, and `text` in what it said.
    #[track_caller]
    pub fn exec_fails_with(self, text: &str) -> Self {
        assert_eq!(self.code, 255, "{self:?}");
        assert!(self.stderr.contains(text), "{text:?} is not in {self:?}");
        self
    }

    /// Asserts kelson's exit code for an error, and `text` in what it said.
    #[track_caller]
    pub fn fails_with(self, text: &str) -> Self {
        assert_eq!(self.code, 1, "{self:?}");
        assert!(self.stderr.contains(text), "{text:?} is not in {self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// A call before it is made. It gets an environment of its own: only PATH.
///
/// Its output goes to files, not pipes: a container that outlives the call may hold it open.
#[derive(Clone)]
pub struct Call {
    words: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    directory: PathBuf,
    stdin: Option<Vec<u8>>,
    temp: PathBuf,
}

impl Call {
    pub fn new(temp: &Path, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let words = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let path = ("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
        Self { words, env: vec![path], directory: temp.to_owned(), stdin: None, temp: temp.to_owned() }
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// The directory to be called in; otherwise the test's temporary one.
    pub fn directory(mut self, path: impl AsRef<Path>) -> Self {
        path.as_ref().clone_into(&mut self.directory);
        self
    }

    /// What is on standard input; otherwise that is /dev/null.
    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = Some(bytes.as_ref().to_vec());
        self
    }

    /// A command in front: it runs the rest, as `without openat2 --` or `setpriv` do.
    pub fn before(mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let front: Vec<_> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self.words.splice(0..0, front);
        self
    }

    /// More arguments at the end.
    pub fn with(mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Calls and waits for the end: 30 s at most.
    #[track_caller]
    pub fn run(&self) -> Output {
        self.spawn().wait()
    }

    /// Calls without waiting.
    pub fn spawn(&self) -> Running {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| self.temp.join(format!("call-{count}.{name}"));
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        let input = match &self.stdin {
            None => Stdio::null(),
            Some(bytes) => {
                fs::write(file("stdin"), bytes).expect("a file for standard input");
                File::open(file("stdin")).expect("standard input").into()
            }
        };
        let append = |path: &Path| File::options().append(true).create(true).open(path).expect("a file for output");
        let child = Command::new(&self.words[0])
            .args(&self.words[1..])
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(input)
            .stdout(append(&stdout))
            .stderr(append(&stderr))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot call {:?}: {error}", self.words));
        Running { child, words: self.words.clone(), stdout, stderr, ended: false }
    }
}

/// A call that was made. Dropped, it is killed.
pub struct Running {
    child: Child,
    words: Vec<OsString>,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: bool,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What was written to standard output so far, by containers too.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// Sends a signal to the called process itself.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal);
    }

    #[track_caller]
    pub fn wait(mut self) -> Output {
        let status = self.wait_for_end();
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let output = |status: ExitStatus| Output {
            code: status.code().unwrap_or_else(|| -status.signal().unwrap_or_default()),
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
        };
        match status {
            Some(status) => output(status),
            None => {
                let (words, said) = (&self.words, output(ExitStatus::default()));
                panic!("{words:?} did not end in {} s; it said {said:?}", seconds(DEADLINE).as_secs())
            }
        }
    }

    /// None when the deadline passes.
    fn wait_for_end(&mut self) -> Option<ExitStatus> {
        let (began, deadline) = (Instant::now(), seconds(DEADLINE));
        while began.elapsed() < deadline {
            if let Some(status) = self.child.try_wait().expect("the call's status") {
                self.ended = true;
                return Some(status);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
