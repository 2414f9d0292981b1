//! Hooks: programs that config.json wants run at points of a container's life (config.md, "POSIX-platform Hooks").

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::sys::child::{Child, Program};
use crate::sys::fs::open;
use crate::sys::interrupt::Awaited;
use crate::sys::process::SEALED;

/// How much of a hook's output an error quotes, in bytes.
const QUOTED: usize = 512;

/// One hook.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Hook {
    pub path: PathBuf,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Without it a hook has the runtime's, as with runc and crun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// The hooks by the point at which they run, in the order of the list.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// Whether init has to stop for hooks of the runtime, or to be told the state for its own.
    pub fn are_needed_by_init(&self) -> bool {
        [&self.prestart, &self.create_runtime, &self.create_container, &self.start_container]
            .iter()
            .any(|hooks| !hooks.is_empty())
    }
}

/// Reads `hooks`.
#[allow(deprecated)] // prestart: deprecated by the spec, and used by every engine
pub fn plan(hooks: Option<&oci_spec::runtime::Hooks>) -> Result<Hooks> {
    let Some(hooks) = hooks else { return Ok(Hooks::default()) };
    Ok(Hooks {
        prestart: list("prestart", hooks.prestart().as_deref())?,
        create_runtime: list("createRuntime", hooks.create_runtime().as_deref())?,
        create_container: list("createContainer", hooks.create_container().as_deref())?,
        start_container: list("startContainer", hooks.start_container().as_deref())?,
        poststart: list("poststart", hooks.poststart().as_deref())?,
        poststop: list("poststop", hooks.poststop().as_deref())?,
    })
}

fn list(name: &str, hooks: Option<&[oci_spec::runtime::Hook]>) -> Result<Vec<Hook>> {
    let read = |(index, hook): (usize, &oci_spec::runtime::Hook)| {
        let wrong = |field: &str, message: &str| Error::new(message).pointer(format!("/hooks/{name}/{index}/{field}"));
        if !hook.path().is_absolute() {
            return Err(wrong("path", "a hook's path has to be absolute").path(hook.path()));
        }
        let timeout = match hook.timeout() {
            None => None,
            Some(seconds) => match u64::try_from(seconds) {
                Ok(seconds @ 1..) => Some(seconds),
                _ => return Err(wrong("timeout", "a hook's timeout is above zero")),
            },
        };
        Ok(Hook {
            path: hook.path().clone(),
            args: hook.args().clone().unwrap_or_default(),
            env: hook.env().clone(),
            timeout,
        })
    };
    hooks.unwrap_or_default().iter().enumerate().map(read).collect()
}

/// Runs the hooks of one point in their order, each with the container's state on its standard input and in `directory`
/// if that can be entered; the first that fails ends it.
pub fn run_all(name: &str, hooks: &[Hook], state: &[u8], directory: &Path) -> Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        run(hook, state, directory).map_err(|error| describe(error, name, index))?;
    }
    Ok(())
}

/// Runs the poststop hooks: each, whatever became of those before it; the failures are returned as warnings.
pub fn run_each(name: &str, hooks: &[Hook], state: &[u8], directory: &Path) -> Vec<Error> {
    let failed = |(index, hook)| run(hook, state, directory).err().map(|error| describe(error, name, index));
    hooks.iter().enumerate().filter_map(failed).collect()
}

fn describe(error: Error, name: &str, index: usize) -> Error {
    error.step(name).pointer(format!("/hooks/{name}/{index}"))
}

fn run(hook: &Hook, state: &[u8], directory: &Path) -> Result<()> {
    let began = Instant::now();
    let nothing = open("/dev/null", OFlag::O_WRONLY).on_path("cannot open", "/dev/null")?;
    let (mut child, pipes) = start(hook, nothing.as_fd(), directory).on_path("cannot run a hook", &hook.path)?;
    let _awaited = Awaited::new(child.pidfd.as_ref());
    let deadline = hook.timeout.map(|seconds| began + Duration::from_secs(seconds));
    let Some((end, output)) = watch(&mut child, pipes, state, deadline) else {
        child.kill();
        let seconds = hook.timeout.unwrap_or_default();
        return Err(Error::new(format!("a hook did not end within its timeout of {seconds} s")).path(&hook.path));
    };
    let end = end.on_path("cannot run a hook", &hook.path)?;
    let how = match (end.code(), end.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    };
    let said = String::from_utf8_lossy(&output);
    let said = said.trim().replace('\n', "; ").replace(char::is_control, "?");
    let told = if said.is_empty() { String::new() } else { format!("; it said: {said}") };
    let elapsed = began.elapsed().as_secs_f32();
    Err(Error::new(format!("a hook ended with {how} after {elapsed:.1} s{told}")).path(&hook.path))
}

/// The other ends of a hook's standard input and standard error.
struct Pipes {
    input: File,
    output: File,
}

/// Starts a hook, whose standard output nobody reads.
fn start(hook: &Hook, stdout: BorrowedFd<'_>, directory: &Path) -> nix::Result<(Child, Pipes)> {
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL);
    let path = text(hook.path.as_os_str())?;
    let arguments: Vec<_> = hook.args.iter().map(|argument| text(argument.as_ref())).collect::<nix::Result<_>>()?;
    let arguments = if arguments.is_empty() { vec![path.clone()] } else { arguments };
    let (stdin, input) = pipe2(OFlag::O_CLOEXEC)?;
    let (output, stderr) = pipe2(OFlag::O_CLOEXEC)?;
    for pipe in [&input, &output] {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let child = Child::start(&Program {
        path: &path,
        arguments: &arguments,
        environment: &environment(hook)?,
        directory: &text(directory.as_os_str())?,
        stdio: [stdin.as_fd(), stdout, stderr.as_fd()],
    })?;
    Ok((child, Pipes { input: input.into(), output: output.into() }))
}

/// A hook's own environment, or the runtime's. Of a name that is there twice the last counts.
fn environment(hook: &Hook) -> nix::Result<Vec<CString>> {
    let pair = |(name, value): (&str, &str)| (OsString::from(name), OsString::from(value));
    let mut variables: BTreeMap<_, _> = match &hook.env {
        Some(env) => env.iter().filter_map(|variable| variable.split_once('=')).map(pair).collect(),
        None => std::env::vars_os().collect(),
    };
    variables.remove(OsStr::new(SEALED));
    let line = |(name, value): (OsString, OsString)| {
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).map_err(|_| Errno::EINVAL)
    };
    variables.into_iter().map(line).collect()
}

/// Waits for a hook's end, telling it the state and keeping what it says meanwhile; nothing when the deadline passes. A
/// process that the hook leaves behind may hold the pipes open: only the hook itself is waited for.
fn watch(
    child: &mut Child,
    Pipes { input, output }: Pipes,
    mut state: &[u8],
    deadline: Option<Instant>,
) -> Option<(nix::Result<ExitStatus>, Vec<u8>)> {
    let mut tail = Vec::new();
    let (mut input, mut output) = (Some(input), Some(output));
    loop {
        // Closed as soon as all is told.
        input = input.filter(|pipe| !feed(pipe, &mut state));
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return None;
        }
        // Without pidfds (before Linux 5.3) the end is noticed by asking.
        let pause = if child.pidfd.is_some() { left } else { Some(Duration::from_millis(5)) };
        let timeout = pause.map_or(PollTimeout::NONE, |pause| {
            PollTimeout::try_from(pause.as_millis().clamp(1, 60_000) as i32).unwrap_or(PollTimeout::MAX)
        });
        let mut waited: Vec<PollFd<'_>> =
            child.pidfd.iter().map(|pidfd| PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)).collect();
        waited.extend(output.iter().map(|output| PollFd::new(output.as_fd(), PollFlags::POLLIN)));
        waited.extend(input.iter().map(|input| PollFd::new(input.as_fd(), PollFlags::POLLOUT)));
        let _ = poll(&mut waited, timeout);
        if let Some(pipe) = &mut output {
            if drain(pipe, &mut tail) {
                output = None;
            }
        }
        if let Some(end) = child.try_wait().transpose() {
            if let Some(pipe) = &mut output {
                drain(pipe, &mut tail);
            }
            return Some((end, tail));
        }
    }
}

/// Writes what the pipe takes; true once there is nothing left to write, or nobody who reads: a hook may end without
/// that. SIGPIPE is ignored in this program.
fn feed(mut pipe: &File, text: &mut &[u8]) -> bool {
    while !text.is_empty() {
        match pipe.write(text) {
            Ok(length) => *text = &text[length..],
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
    true
}

/// Reads what there is, keeping the end of it; true once the pipe is closed.
fn drain(pipe: &mut File, tail: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 1024];
    // Not without end: there is a deadline.
    for _ in 0..64 {
        match pipe.read(&mut buffer) {
            Ok(0) => return true,
            Ok(length) => {
                tail.extend_from_slice(&buffer[..length]);
                let excess = tail.len().saturating_sub(QUOTED);
                tail.drain(..excess);
            }
            Err(_) => break,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn run(hook: &Hook, state: &[u8]) -> Result<()> {
        super::run(hook, state, Path::new("/nowhere"))
    }

    fn shell(script: &str, timeout: Option<u64>) -> Hook {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        Hook { path: "/bin/sh".into(), args, env: Some(vec!["A=b".into()]), timeout }
    }

    #[test]
    fn a_hook_gets_the_state_and_its_environment_only() {
        let script = "test \"$(cat)\" = state && test \"$A\" = b && test -z \"$HOME\"";
        run(&shell(script, None), b"state").unwrap();
    }

    #[test]
    fn a_hook_without_an_environment_has_the_runtimes() {
        let hook = Hook { env: None, ..shell("test \"$(cat)\" = state && test -n \"$PATH\" && test -z \"$A\"", None) };
        run(&hook, b"state").unwrap();
    }

    #[test]
    fn a_failure_quotes_the_hook() {
        let error =
            run_all("createRuntime", &[shell("exit 0", None), shell("echo no >&2; exit 3", None)], b"", Path::new("/"))
                .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status 3") && text.contains("it said: no"), "{text}");
        assert!(text.contains("/hooks/createRuntime/1"), "{text}");
    }

    #[test]
    fn the_signal_that_ended_a_hook_is_named() {
        for signal in ["9", "35"] {
            let text = run(&shell(&format!("kill -{signal} $$"), None), b"").unwrap_err().to_string();
            assert!(text.contains(&format!("signal {signal} ")), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_run_is_told_by_its_errno() {
        let hook = Hook { path: "/nowhere/hook".into(), ..shell("", None) };
        assert_eq!(run(&hook, b"").unwrap_err().os_error(), Some(Errno::ENOENT));
        let hook = Hook { path: "/bin/s\0h".into(), ..shell("", None) };
        assert_eq!(run(&hook, b"").unwrap_err().os_error(), Some(Errno::EINVAL));
    }

    /// Of the program itself there is one thread only, but a start that needs a lock hangs the tests for ever.
    #[test]
    fn a_start_needs_no_lock_of_another_threads() {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::black_box(vec![0_u8; 100]);
                }
            });
            for _ in 0..300 {
                run(&shell("exit 0", None), b"").unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_hook_that_does_not_read_is_no_error() {
        run(&shell("exec 0<&-; exit 0", None), &vec![b'x'; 1 << 20]).unwrap();
        let text = run(&shell("sleep 100 & exec sleep 100", Some(1)), &vec![b'x'; 1 << 20]).unwrap_err().to_string();
        assert!(text.contains("timeout of 1 s"), "{text}");
    }

    #[test]
    fn a_timeout_ends_a_hook_and_a_left_behind_child_does_not_hold_it() {
        let text = run(&shell("exec sleep 100", Some(1)), b"").unwrap_err().to_string();
        assert!(text.contains("timeout of 1 s"), "{text}");
        run(&shell("sleep 2 & exit 0", None), b"").unwrap();
    }

    #[test]
    fn poststop_hooks_all_run() {
        let warnings = run_each(
            "poststop",
            &[shell("exit 1", None), shell("exit 0", None), shell("kill -9 $$", None)],
            b"",
            Path::new("/"),
        );
        assert_eq!(warnings.len(), 2);
        assert!(warnings[1].to_string().contains("signal 9"));
    }
}
