//! `fault TRACE WHERE PID -- COMMAND [ARGUMENT…]`: runs COMMAND, lets one system call fail, and writes all of them down.
//!
//! COMMAND is followed with all processes that it makes, each until it executes a program (COMMAND itself to its end).
//! TRACE gets a line `PROCESS NUMBER CALL` for each call: PROCESS is 0 for COMMAND, 0.1 for the first process that it
//! makes, and so on; NUMBER counts the calls of the process. WHERE is `PROCESS:NUMBER=ERRNO` for a call that fails (but
//! close(2), which closes also when it fails), `PROCESS:NUMBER=KILL` for one before which the process is killed, or `-`;
//! with `CALL/NUMBER` only the calls of that name are counted.
//! With a PID other than `-` that process is followed instead, as 0, while COMMAND runs. On x86_64 only.
#![cfg_attr(not(test), no_main)]
// nix's waitpid is fine here: what is followed is ended by no real-time signal.
#![allow(clippy::disallowed_methods)]

use kelson_conformance::{Result, during, entry, names, sys, syscalls};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, execvp, pipe2, read, write};
use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

const USAGE: &str = "usage: fault TRACE (-|PROCESS:[CALL/]NUMBER=(ERRNO|KILL)) (-|PID) -- COMMAND [ARGUMENT...]";

entry!("fault", run);

fn run(args: &[OsString]) -> Result<i32> {
    let [_, trace, place, pid, dashes, command @ ..] = args else { return Err(USAGE.into()) };
    let command: Vec<CString> = command.iter().filter_map(|arg| CString::new(arg.as_bytes()).ok()).collect();
    if command.is_empty() || dashes != "--" {
        return Err(USAGE.into());
    }
    let trace = File::create(trace).map_err(during("make the trace"))?;
    let fault = Fault::parse(&place.to_string_lossy())?;
    let mut tracer = Tracer { trace, fault, tracees: BTreeMap::new(), early: Vec::new() };
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(during("make a pipe"))?;
    let main = sys::spawn(|| {
        let _ = read(&reader, &mut [0]);
        execvp(&command[0], &command).map_or(127, |never| match never {})
    });
    let main = main.map_err(during("fork"))?;
    match pid.to_str() {
        Some("-") => tracer.follow(main, true)?,
        text => {
            let other = text.and_then(|text| text.parse().ok()).map(Pid::from_raw).ok_or(USAGE)?;
            tracer.follow(other, false)?;
            ptrace::interrupt(other).map_err(during("interrupt"))?;
        }
    }
    write(&writer, b" ").map_err(during("let it go"))?;
    let status = tracer.until_end_of(main)?;
    tracer.let_go();
    match status {
        WaitStatus::Signaled(_, signal, _) => sys::end_by(signal as i32).map(|()| 1).map_err(during("end")),
        WaitStatus::Exited(_, code) => Ok(code),
        _ => Err("it went away".into()),
    }
}

/// The call that fails.
#[derive(Clone, Debug, PartialEq)]
struct Fault {
    process: String,
    /// Nothing: calls of any name count.
    call: Option<String>,
    number: u32,
    /// None: the process is killed.
    errno: Option<i32>,
}

impl Fault {
    fn parse(text: &str) -> Result<Option<Self>> {
        if text == "-" {
            return Ok(None);
        }
        let parts = text.split_once(':').and_then(|(process, rest)| Some((process, rest.split_once('=')?)));
        let (process, (number, how)) = parts.ok_or(USAGE)?;
        let errno = match how {
            "KILL" => None,
            name => Some(names::errno(name).ok_or_else(|| format!("unknown errno '{name}'"))?),
        };
        let (call, number) = number.split_once('/').map_or((None, number), |(call, number)| (Some(call), number));
        let number = number.parse().map_err(during(USAGE))?;
        Ok(Some(Self { process: process.to_owned(), call: call.map(str::to_owned), number, errno }))
    }
}

/// A process that is followed.
#[derive(Default)]
struct Tracee {
    name: String,
    children: u32,
    calls: u32,
    /// How many of them have the name that [`Fault::call`] gives.
    of_name: u32,
    /// Whether it is COMMAND: its calls count from its execution on, and it may execute itself again.
    is_command: bool,
    counts: bool,
    /// Whether it is in a call, and the errno that this will return.
    inside: bool,
    errno: Option<i32>,
}

struct Tracer {
    trace: File,
    fault: Option<Fault>,
    tracees: BTreeMap<Pid, Tracee>,
    /// New ones that stopped before their parent's stop was seen.
    early: Vec<Pid>,
}

/// The event of a stop that is none of the process's own (linux/ptrace.h).
const EVENT_STOP: i32 = 128;

impl Tracer {
    fn follow(&mut self, pid: Pid, is_command: bool) -> Result<()> {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options).map_err(during("trace"))?;
        self.tracees.insert(pid, Tracee { name: "0".to_owned(), is_command, counts: !is_command, ..Tracee::default() });
        Ok(())
    }

    fn until_end_of(&mut self, main: Pid) -> Result<WaitStatus> {
        loop {
            let status = waitpid(None, Some(WaitPidFlag::__WALL)).map_err(during("wait"))?;
            match status {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    self.tracees.remove(&pid);
                    if pid == main {
                        return Ok(status);
                    }
                }
                // One that is killed meanwhile is seen to end next.
                _ => match self.stopped(status) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(format!("trace: {status:?}: {errno}")),
                },
            }
        }
    }

    fn stopped(&mut self, status: WaitStatus) -> nix::Result<()> {
        match status {
            WaitStatus::PtraceSyscall(pid) => self.at_call(pid)?,
            WaitStatus::PtraceEvent(pid, _, EVENT_STOP) => {
                if !self.tracees.contains_key(&pid) {
                    self.early.push(pid);
                    return Ok(());
                }
            }
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => {
                match self.tracees.get_mut(&pid).filter(|tracee| tracee.is_command) {
                    // The stop after the execution comes next, whether or not the one before it was seen.
                    Some(tracee) => (tracee.counts, tracee.inside) = (true, true),
                    None => {
                        self.tracees.remove(&pid);
                        return ptrace::detach(pid, None);
                    }
                }
            }
            WaitStatus::PtraceEvent(pid, ..) => self.made_child(pid)?,
            WaitStatus::Stopped(pid, signal) => return ptrace::syscall(pid, signal),
            _ => return Ok(()),
        }
        status.pid().map_or(Ok(()), |pid| ptrace::syscall(pid, None))
    }

    fn made_child(&mut self, parent: Pid) -> nix::Result<()> {
        let child = Pid::from_raw(ptrace::getevent(parent)? as i32);
        let Some(tracee) = self.tracees.get_mut(&parent) else { return Ok(()) };
        tracee.children += 1;
        let name = format!("{}.{}", tracee.name, tracee.children);
        self.tracees.insert(child, Tracee { name, counts: true, ..Tracee::default() });
        if let Some(place) = self.early.iter().position(|pid| *pid == child) {
            self.early.remove(place);
            ptrace::syscall(child, None)?;
        }
        Ok(())
    }

    /// The stop before a call, or the one after it.
    fn at_call(&mut self, pid: Pid) -> nix::Result<()> {
        let Some(tracee) = self.tracees.get_mut(&pid) else { return Ok(()) };
        tracee.inside = !tracee.inside;
        if !tracee.counts {
            return Ok(());
        }
        if !tracee.inside {
            return tracee.errno.take().map_or(Ok(()), |errno| registers::set_result(pid, errno));
        }
        tracee.calls += 1;
        let call = registers::call(pid)?;
        let name = syscalls::name(call);
        let wanted = self.fault.as_ref().and_then(|fault| fault.call.as_ref());
        tracee.of_name += u32::from(wanted == Some(&name));
        let count = match wanted {
            Some(wanted) if *wanted == name => tracee.of_name,
            Some(_) => 0,
            None => tracee.calls,
        };
        let fault = self.fault.as_ref().filter(|fault| fault.number == count && fault.process == tracee.name);
        let mark = if fault.is_some() { " *" } else { "" };
        let _ = writeln!(self.trace, "{} {} {}{mark}", tracee.name, tracee.calls, name);
        match fault {
            None => Ok(()),
            Some(Fault { errno: None, .. }) => kill(pid, Signal::SIGKILL),
            Some(Fault { errno, .. }) => {
                tracee.errno = *errno;
                if call == libc::SYS_close { Ok(()) } else { registers::skip_call(pid) }
            }
        }
    }

    /// Lets what is still followed go on by itself.
    fn let_go(&self) {
        for pid in self.tracees.keys() {
            if ptrace::interrupt(*pid).is_err() {
                continue;
            }
            match waitpid(*pid, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Stopped(_, signal)) => drop(ptrace::detach(*pid, signal)),
                _ => drop(ptrace::detach(*pid, None)),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod registers {
    use nix::Result;
    use nix::sys::ptrace::{getregs, setregs};
    use nix::unistd::Pid;

    /// The number of the call that is about to be made.
    pub fn call(pid: Pid) -> Result<libc::c_long> {
        Ok(getregs(pid)?.orig_rax as libc::c_long)
    }

    pub fn skip_call(pid: Pid) -> Result<()> {
        let registers = getregs(pid)?;
        setregs(pid, libc::user_regs_struct { orig_rax: u64::MAX, ..registers })
    }

    pub fn set_result(pid: Pid, errno: i32) -> Result<()> {
        let registers = getregs(pid)?;
        setregs(pid, libc::user_regs_struct { rax: -i64::from(errno) as u64, ..registers })
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod registers {
    use nix::Result;
    use nix::errno::Errno;
    use nix::unistd::Pid;

    pub fn call(_: Pid) -> Result<libc::c_long> {
        Err(Errno::ENOSYS)
    }

    pub fn skip_call(_: Pid) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    pub fn set_result(_: Pid, _: i32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_a_process_a_number_and_an_error() {
        let fault = |call, errno| Some(Fault { process: "0.1".into(), call, number: 12, errno });
        assert_eq!(Fault::parse("0.1:12=EIO"), Ok(fault(None, Some(5))));
        assert_eq!(Fault::parse("0.1:close/12=KILL"), Ok(fault(Some("close".into()), None)));
        assert_eq!(Fault::parse("-"), Ok(None));
        assert!(Fault::parse("0.1:12=EMOON").is_err() && Fault::parse("12=EIO").is_err());
    }
}
