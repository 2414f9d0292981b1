//! The steps of a container's story, by name: errors tell which failed, and `--trace FILE` how long each took, in the
//! format of Chrome's tracing, which <https://ui.perfetto.dev> shows.
//!
//! What the runtime forks tells its steps through a pipe: it needs no file of the host open for that.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::error::{Context, Result};

/// Who takes a step. What goes on in the container's program, the runtime sees as its own waiting.
#[derive(Clone, Copy, Debug)]
pub enum Process {
    Runtime,
    Stage,
    Init,
}

struct Trace {
    process: Process,
    /// When the program began: the zero of all times, in nanoseconds since 1970. No other clock is the same in a time
    /// namespace.
    began: u64,
    /// The end of the step before.
    last: u64,
    writer: File,
    /// The pipe's other end and the file, in the runtime alone.
    output: Option<(File, File)>,
}

static TRACE: Mutex<Option<Trace>> = Mutex::new(None);

/// Nanoseconds since 1970.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or_default()
}

/// Begins a trace of a program that has run since `began`.
pub fn begin(path: &Path, began: u64) -> Result<()> {
    let file = File::create(path).on_path("cannot open the trace", path)?;
    let (reader, writer) =
        pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).context(|| "cannot make a pipe for the trace")?;
    let (reader, writer) = (File::from(reader), File::from(writer));
    let mut trace = Trace { process: Process::Runtime, began, last: began, writer, output: Some((reader, file)) };
    trace.introduce();
    trace.mark("begin");
    *lock() = Some(trace);
    Ok(())
}

/// Names the step that an error is of; the step ends here.
pub fn step<T>(name: &str, result: Result<T>) -> Result<T> {
    mark(name);
    result.map_err(|error| error.step(name))
}

/// Ends a step that began where the last one ended.
pub fn mark(name: &str) {
    if let Some(trace) = lock().as_mut() {
        trace.mark(name);
    }
}

/// What is traced from here on is another process, which was forked.
pub fn enter(process: Process) {
    if let Some(trace) = lock().as_mut() {
        trace.process = process;
        trace.output = None;
        trace.last = now();
        trace.introduce();
    }
}

/// Tells no more: of a process that outlives the runtime, or must hold nothing of it.
pub fn leave() {
    *lock() = None;
}

/// The pipe's end that steps are told through, while there are any to tell.
pub fn descriptor() -> Option<i32> {
    lock().as_ref().map(|trace| trace.writer.as_raw_fd())
}

/// Writes the file, at the runtime's end.
pub fn finish() -> Result<()> {
    let Some(Trace { output: Some((mut reader, mut file)), .. }) = lock().take() else { return Ok(()) };
    let mut events = Vec::new();
    // It ends with EAGAIN where a process that was forked still has its end.
    let _ = reader.read_to_end(&mut events);
    let events = events.strip_suffix(b",\n").unwrap_or(&events);
    let array = [b"[\n", events, b"\n]\n"].concat();
    file.write_all(&array).context(|| "cannot write the trace")
}

fn lock() -> MutexGuard<'static, Option<Trace>> {
    TRACE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trace {
    fn introduce(&mut self) {
        let name = match self.process {
            Process::Runtime => "runtime",
            Process::Stage => "stage",
            Process::Init => "init",
        };
        self.tell(r#""name":"thread_name","ph":"M""#, &format!(r#""args":{{"name":"{name}"}}"#));
    }

    fn mark(&mut self, name: &str) {
        let now = now();
        let (since, length) = (self.last.saturating_sub(self.began), now.saturating_sub(self.last));
        self.tell(
            &format!(r#""name":"{name}","ph":"X""#),
            &format!(r#""ts":{},"dur":{}"#, Micros(since), Micros(length)),
        );
        self.last = now;
    }

    /// Writes an event: one object in one write, which a pipe keeps whole. One that has no room is left out.
    fn tell(&mut self, what: &str, rest: &str) {
        let event = format!("{{{what},\"pid\":0,\"tid\":{},{rest}}},\n", self.process as u8);
        let _ = self.writer.write_all(event.as_bytes());
    }
}

/// Nanoseconds, written as microseconds.
struct Micros(u64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}
