//! A connection to a manager of units: over its own socket where there is one, which takes neither a bus nor a
//! greeting, else over a bus. Everything has a deadline.

use std::collections::VecDeque;
use std::env;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::message::{self, Message, Parsed, Target};
use super::unit::host_uid;
use super::value::Value;
use crate::error::{Error, Result};

/// How long an answer, or the end of a job, is waited for.
const DEADLINE: Duration = Duration::from_secs(30);

const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const BUS: Target =
    Target { destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };
const JOB_REMOVED: &str = "JobRemoved";
const JOB_REMOVED_RULE: &str = "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// Without a name: the other side asks the kernel who this is, in its own user namespace.
const GREETING: &[u8] = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
/// Systemd reads the greeting 256 bytes at a time, and does not look at a call that these contain before more bytes
/// come. A call shorter than this is sent when the greeting was answered; a longer one along with it.
const SHORT: usize = 512;

/// How long a line of the greeting may be.
const MAX_LINE: usize = 512;
/// How many ended jobs are remembered: one's own may end before the answer that names it is read.
const MAX_ENDED: usize = 256;

/// The manager's "no", with the name of the error.
#[derive(Debug)]
pub struct Refusal {
    pub name: String,
    pub text: String,
}

impl Refusal {
    /// As an error about `what`.
    pub fn into_error(self, what: &str) -> Error {
        let text = if self.text.is_empty() { self.name } else { self.text };
        Error::new(format!("systemd refuses {what}: {}", text.trim_end_matches('.')))
    }
}

/// What the manager says to a call: its answer, or no.
pub type Answer<T> = std::result::Result<T, Refusal>;

/// An open connection.
#[derive(Debug)]
pub struct Bus {
    socket: OwnedFd,
    serial: u32,
    /// What goes out with the next call.
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    authenticated: bool,
    /// Jobs that have ended last, of anybody's, with their results.
    ended: VecDeque<(String, String)>,
    deadline: Duration,
}

impl Bus {
    /// Connects to the manager of the system, or of the user.
    pub fn connect(of_user: bool) -> Result<Self> {
        let mut refused = None;
        for (address, is_bus) in addresses(of_user) {
            match open(&address) {
                Ok(socket) => return Ok(Self::over(socket, is_bus, DEADLINE)),
                Err(errno) => refused = refused.or(Some((address, errno))),
            }
        }
        let (address, errno) = refused.unwrap_or((PathBuf::new(), Errno::ENOENT));
        Err(unreachable(of_user).path(address).errno(errno))
    }

    /// Speaks over a connected socket.
    fn over(socket: OwnedFd, is_bus: bool, deadline: Duration) -> Self {
        let (outgoing, incoming, ended) = Default::default();
        let mut bus = Self { socket, serial: 0, outgoing, incoming, authenticated: false, ended, deadline };
        if is_bus {
            bus.queue(&BUS, "Hello", &[]);
            bus.queue(&BUS, "AddMatch", &[Value::text(JOB_REMOVED_RULE)]);
            bus.queue(&MANAGER, "Subscribe", &[]);
        }
        bus
    }

    fn queue(&mut self, target: &Target, member: &str, body: &[Value]) -> u32 {
        self.serial += 1;
        self.outgoing.extend(message::call(target, member, body, self.serial));
        self.serial
    }

    /// Adds a call whose answer nobody waits for to the next one.
    pub fn also(&mut self, member: &str, body: &[Value]) {
        self.queue(&MANAGER, member, body);
    }

    /// Sends a call of the manager's; returns what its answer is asked for by.
    pub fn send(&mut self, member: &str, body: &[Value]) -> Result<u32> {
        let serial = self.queue(&MANAGER, member, body);
        let calls = std::mem::take(&mut self.outgoing);
        if self.authenticated {
            self.write(&calls)?;
        } else if calls.len() < SHORT {
            self.write(GREETING)?;
            self.wait_for_greeting(Instant::now())?;
            self.write(&calls)?;
        } else {
            self.write(&[GREETING, &calls].concat())?;
        }
        Ok(serial)
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            match send(self.socket.as_raw_fd(), left, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => left = &left[count..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(self.too_late()),
                Err(errno) => return Err(Error::new("cannot talk to systemd").errno(errno)),
            }
        }
        Ok(())
    }

    /// Waits for the answer to a call.
    pub fn answer(&mut self, to: u32) -> Result<Answer<Vec<Value>>> {
        let began = Instant::now();
        loop {
            match self.next(began)? {
                Message::Return { serial, body } if serial == to => return Ok(Ok(body)),
                Message::Error { serial, name, text } if serial == to => return Ok(Err(Refusal { name, text })),
                other => self.note(other),
            }
        }
    }

    /// Waits for the answer to a call that begins a job; returns the job.
    pub fn job(&mut self, to: u32) -> Result<Answer<String>> {
        Ok(match self.answer(to)? {
            Ok(body) => match body.into_iter().next() {
                Some(Value::Path(job)) => Ok(job),
                _ => return Err(nonsense()),
            },
            Err(refusal) => Err(refusal),
        })
    }

    /// Waits for the end of a job; returns its result, such as `done`.
    pub fn end_of(&mut self, job: &str) -> Result<String> {
        let began = Instant::now();
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(ended, _)| ended == job) {
                return Ok(result.clone());
            }
            let message = self.next(began)?;
            self.note(message);
        }
    }

    fn note(&mut self, message: Message) {
        let Message::Signal { body, .. } = message else { return };
        if let [Value::U32(_), Value::Path(job), Value::Text(_), Value::Text(result)] = &body[..] {
            if self.ended.len() == MAX_ENDED {
                self.ended.pop_front();
            }
            self.ended.push_back((job.clone(), result.clone()));
        }
    }

    fn next(&mut self, began: Instant) -> Result<Message> {
        self.wait_for_greeting(began)?;
        loop {
            match message::parse(&self.incoming, JOB_REMOVED) {
                Parsed::Message(message, length) => {
                    self.incoming.drain(..length);
                    return Ok(message);
                }
                Parsed::Nonsense => return Err(nonsense()),
                Parsed::Incomplete => self.receive(began)?,
            }
        }
    }

    /// Reads the lines that come before the messages: `DATA`, and `OK` with the server's id.
    fn wait_for_greeting(&mut self, began: Instant) -> Result<()> {
        while !self.authenticated {
            let Some(end) = self.incoming.windows(2).position(|pair| pair == b"\r\n") else {
                if self.incoming.len() > MAX_LINE {
                    return Err(nonsense());
                }
                self.receive(began)?;
                continue;
            };
            let line: Vec<u8> = self.incoming.drain(..end + 2).collect();
            self.authenticated = line.starts_with(b"OK");
            if !self.authenticated && !line.starts_with(b"DATA") {
                let line = String::from_utf8_lossy(&line).trim().chars().take(64).collect::<String>();
                return Err(Error::new(format!("systemd does not accept this user: {line}")));
            }
        }
        Ok(())
    }

    fn receive(&mut self, began: Instant) -> Result<()> {
        let left = self.deadline.checked_sub(began.elapsed()).filter(|left| !left.is_zero());
        let left = left.ok_or_else(|| self.too_late())?;
        let mut bytes = [0; 4096];
        let received = setsockopt(&self.socket, ReceiveTimeout, &time_value(left))
            .and_then(|()| recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()));
        match received {
            Ok(0) => Err(Error::new("systemd closed the connection")),
            Ok(count) => {
                self.incoming.extend(&bytes[..count]);
                Ok(())
            }
            Err(Errno::EINTR) => Ok(()),
            Err(Errno::EAGAIN) => Err(self.too_late()),
            Err(errno) => Err(Error::new("cannot listen to systemd").errno(errno)),
        }
    }

    fn too_late(&self) -> Error {
        Error::new(format!("systemd did not answer within {} s", self.deadline.as_secs()))
            .hint("is it busy or hung? `systemctl list-jobs` tells")
    }
}

fn nonsense() -> Error {
    Error::new("systemd's answer cannot be read")
}

fn unreachable(of_user: bool) -> Error {
    let error = Error::new("cannot reach systemd for the cgroups");
    if of_user {
        error.hint("a user needs a systemd of their own (`loginctl enable-linger`), and XDG_RUNTIME_DIR to find it; else use the cgroupfs driver")
    } else {
        error.hint("this host does not run systemd? use the cgroupfs driver: podman --cgroup-manager=cgroupfs, containerd SystemdCgroup = false")
    }
}

/// Where the manager may listen, and whether that is a bus.
fn addresses(of_user: bool) -> Vec<(PathBuf, bool)> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let bus = |name: &str| {
        let address = env::var(name).ok()?;
        address.split([';', ',']).find_map(|part| part.strip_prefix("unix:path=").map(PathBuf::from))
    };
    let (direct, named, usual) = if of_user {
        let run = variable("XDG_RUNTIME_DIR").map_or_else(|| format!("/run/user/{}", host_uid()).into(), PathBuf::from);
        (run.join("systemd/private"), bus("DBUS_SESSION_BUS_ADDRESS"), run.join("bus"))
    } else {
        ("/run/systemd/private".into(), bus("DBUS_SYSTEM_BUS_ADDRESS"), "/run/dbus/system_bus_socket".into())
    };
    let buses = named.into_iter().chain([usual]).map(|path| (path, true));
    [(direct, false)].into_iter().chain(buses).collect()
}

fn open(address: &Path) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // It holds for connecting too.
    setsockopt(&socket, SendTimeout, &time_value(DEADLINE))?;
    connect(socket.as_raw_fd(), &UnixAddr::new(address)?)?;
    Ok(socket)
}

/// At least a microsecond: zero means for ever.
fn time_value(duration: Duration) -> TimeVal {
    TimeVal::new(duration.as_secs() as i64, i64::from(duration.subsec_micros().max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;

    /// A manager that has read a call when it says `answer`, and then hangs.
    fn against(answer: &[u8], deadline: Duration) -> Result<Answer<Vec<Value>>> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let answer = answer.to_vec();
        let manager = thread::spawn(move || {
            let mut bytes = [0; 4096];
            let count = theirs.read(&mut bytes).unwrap();
            assert!(bytes.starts_with(GREETING) && count > GREETING.len());
            theirs.write_all(&answer).unwrap();
            theirs
        });
        let mut bus = Bus::over(ours.into(), false, deadline);
        let result = bus.send("Do", &[Value::text("x".repeat(SHORT))]).and_then(|serial| bus.answer(serial));
        drop(manager.join());
        result
    }

    #[test]
    fn a_manager_that_says_nothing_is_not_waited_for_for_ever() {
        for answer in [&b""[..], b"DATA\r\n", b"DATA\r\nOK 00\r\n", b"DATA\r\nOK 00\r\nl\x02\0\x01"] {
            let began = Instant::now();
            let error = against(answer, Duration::from_millis(50)).unwrap_err();
            assert!(error.to_string().contains("did not answer within"), "{error}");
            assert!(began.elapsed() < Duration::from_secs(5));
        }
    }

    #[test]
    fn one_that_refuses_or_talks_nonsense_is_an_error() {
        for (answer, wanted) in [
            (&b"REJECTED EXTERNAL\r\n"[..], "does not accept this user: REJECTED EXTERNAL"),
            (b"DATA\r\nOK 00\r\nHTTP/1.1 400 Bad Request", "cannot be read"),
            (&[b'x'; 600], "cannot be read"),
        ] {
            let error = against(answer, Duration::from_secs(5)).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }

    #[test]
    fn of_many_jobs_that_end_the_last_are_remembered() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut bus = Bus::over(ours.into(), false, Duration::from_millis(50));
        for number in 0..10_000 {
            let job = Value::Path(format!("/job/{number}"));
            let body = vec![Value::U32(number), job, Value::text("x.scope"), Value::text("done")];
            bus.note(Message::Signal { member: JOB_REMOVED.to_owned(), body });
        }
        assert_eq!(bus.ended.len(), MAX_ENDED);
        assert_eq!(bus.end_of("/job/9999").unwrap(), "done");
    }

    #[test]
    fn one_that_goes_away_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut bus = Bus::over(ours.into(), true, Duration::from_secs(5));
        assert!(bus.outgoing.len() > SHORT);
        let serial = bus.send("Do", &[]).unwrap();
        drop(theirs);
        let error = bus.answer(serial).unwrap_err().to_string();
        assert!(error.contains("systemd closed the connection") || error.contains("ECONNRESET"), "{error}");
        assert!(bus.send("Do", &[]).unwrap_err().to_string().contains("EPIPE"));
    }

    #[test]
    fn a_short_call_waits_for_the_answer_to_the_greeting() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let manager = thread::spawn(move || {
            let mut greeting = [0; 64];
            let count = theirs.read(&mut greeting).unwrap();
            assert_eq!(&greeting[..count], GREETING);
            theirs.write_all(b"DATA\r\nOK 00\r\n").unwrap();
            assert!(theirs.read(&mut greeting).unwrap() > 0);
        });
        Bus::over(ours.into(), false, Duration::from_secs(5)).send("Do", &[]).unwrap();
        manager.join().unwrap();
    }
}
