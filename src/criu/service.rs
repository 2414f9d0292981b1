//! criu's process, and the talk with it.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, send, socketpair,
};
use nix::unistd::{Pid, execv};

use super::message::{Message, Value, field};
use super::{Task, c_string, cgroup2};
use crate::error::{Context, Error, Result};
use crate::sys::child::wait;
use crate::sys::interrupt;
use crate::sys::poll::{Place, poll};
use crate::sys::process::{Forked, exit_or_crash, inherited, set_close_on_exec};
use crate::wire::{self, Wire};

const NOTIFY: u64 = 6;

/// criu in a process of its own, and this program's ends of the sockets to it.
pub struct Service {
    pub pid: Pid,
    pub pidfd: Option<OwnedFd>,
    socket: OwnedFd,
    /// As long as it is not criu yet.
    wire: Wire,
    /// To be put back at the end.
    cgroup2: Option<cgroup2::Options>,
}

impl Service {
    /// Makes the process by `fork`, which has it `prepare` itself with the files that come of that, and then become
    /// `program` with the descriptors `kept` under the numbers that they have.
    pub fn launch(
        program: &Path,
        kept: &[OwnedFd],
        fork: impl FnOnce() -> nix::Result<(Forked, Vec<OwnedFd>)>,
        prepare: impl FnOnce(&Wire, &[OwnedFd]) -> Result<()>,
    ) -> Result<Self> {
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (socket, theirs) = pair.context(|| "cannot make a socket pair")?;
        let (wire, wire_inside) = Wire::pair()?;
        let cgroup2 = cgroup2::Options::note();
        match fork().context(|| "cannot make a process for criu")? {
            (Forked::Parent { pid, pidfd }, _) => Ok(Self { pid, pidfd, socket, wire, cgroup2 }),
            (Forked::Child, files) => {
                drop((socket, wire));
                interrupt::release();
                let error = prepare(&wire_inside, &files).err().unwrap_or_else(|| become_criu(program, &theirs, kept));
                let _ = wire_inside.send(&wire::Message::Failed(error));
                exit_or_crash(1)
            }
        }
    }

    /// Lets a process go on that waits for it, and waits until it is criu.
    pub fn begin(&self, waits: bool) -> Result<()> {
        if waits {
            self.wire.send(&wire::Message::Go)?;
        }
        match self.wire.receive()? {
            Some(wire::Message::Failed(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits for its end, which comes when nobody is there any more to ask for anything.
    pub fn end(self) {
        drop((self.socket, self.wire));
        let _ = wait(Some(self.pid), 0);
        self.cgroup2.iter().for_each(cgroup2::Options::put_back);
    }

    /// Has criu do its `task`; the id of the restored process is returned. What criu tells meanwhile goes to `on`,
    /// whose failure ends the task.
    pub fn ask(&self, task: Task, options: &Message, on: &mut dyn FnMut(Notification) -> Result<()>) -> Result<i32> {
        let kind = task as u64;
        tell(&self.socket, &Message::default().number(request::TYPE, kind).message(request::OPTIONS, options))?;
        let mut failed = None;
        loop {
            let (bytes, descriptor) = match self.receive() {
                Ok(received) => received,
                Err(error) => return Err(failed.unwrap_or(error)),
            };
            let get = |number: u32| field(&bytes, number);
            let number = |of: u32| get(of).map_or(0, Value::number);
            let within = |outer: u32, inner: u32| get(outer).and_then(|value| field(value.bytes(), inner));
            let pid = |outer: u32, inner: u32| within(outer, inner).map_or(0, |value| value.number() as i32);
            if number(response::TYPE) == NOTIFY {
                let point =
                    within(response::NOTIFY, 1).map_or("".into(), |value| String::from_utf8_lossy(value.bytes()));
                let result = on(Notification { point: &point, pid: pid(response::NOTIFY, 2), descriptor });
                let answer =
                    Message::default().number(request::TYPE, NOTIFY).number(request::GOES_ON, result.is_ok().into());
                failed = failed.or(result.err());
                tell(&self.socket, &answer)?;
            } else if let Some(error) = failed {
                return Err(error);
            } else if number(response::SUCCESS) == 1 && number(response::TYPE) == kind {
                return Ok(pid(response::RESTORED, 1));
            } else {
                let what = if task == Task::Restore { "restore" } else { "checkpoint" };
                let error = Error::new(format!("criu could not {what} the container"));
                return Err(match number(response::ERRNO) as i32 {
                    0 => error,
                    errno => error.errno(Errno::from_raw(errno)),
                });
            }
        }
    }

    /// A packet of criu's, and the descriptor that came with it.
    fn receive(&self) -> Result<(Vec<u8>, Option<OwnedFd>)> {
        loop {
            let said = Place::new(Some(&self.socket), PollFlags::POLLIN);
            // The processes that it was making hold its end of the socket open after it has ended.
            let mut places = [said, Place::new(self.pidfd.as_ref(), PollFlags::POLLIN)];
            let polled = poll(&mut places, -1);
            match (polled, places.map(|place| place.is_ready())) {
                (Ok(()), [true, _]) => return receive(&self.socket),
                (Ok(()), [false, true]) => return Err(gone()),
                (Ok(()) | Err(Errno::EINTR), _) => {}
                (Err(errno), _) => return Err(Error::new("cannot wait for criu").errno(errno)),
            }
        }
    }
}

fn become_criu(program: &Path, socket: &OwnedFd, kept: &[OwnedFd]) -> Error {
    let run = || {
        kept.iter().chain([socket]).try_for_each(|file| set_close_on_exec(file.as_raw_fd(), false))?;
        crate::sys::signal::reset();
        let name = c_string(program.as_os_str().as_bytes())?;
        execv(&name, &[c_string(b"criu")?, c_string(b"swrk")?, c_string(socket.as_raw_fd().to_string().as_bytes())?])
    };
    let errno = run().err().unwrap_or(Errno::UnknownErrno);
    Error::new("cannot execute criu").path(program).errno(errno)
}

/// Where criu is in its work, and what it passes on.
pub struct Notification<'a> {
    /// Such as `post-restore`.
    pub point: &'a str,
    pub pid: i32,
    pub descriptor: Option<OwnedFd>,
}

mod request {
    pub const TYPE: u32 = 1;
    pub const OPTIONS: u32 = 2;
    pub const GOES_ON: u32 = 3;
}

mod response {
    pub const TYPE: u32 = 1;
    pub const SUCCESS: u32 = 2;
    pub const RESTORED: u32 = 4;
    pub const NOTIFY: u32 = 5;
    pub const ERRNO: u32 = 7;
}

fn tell(socket: &OwnedFd, message: &Message) -> Result<()> {
    send(socket.as_raw_fd(), message.as_bytes(), MsgFlags::MSG_NOSIGNAL).context(|| "cannot speak to criu").map(drop)
}

fn receive(socket: &OwnedFd) -> Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; 64 * 1024];
    let mut control = nix::cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC);
    let received = received.context(|| "cannot hear criu")?;
    let mut descriptor = None;
    for part in received.cmsgs().context(|| "cannot hear criu")? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            descriptor = numbers.first().and_then(|number| inherited(*number).ok());
        }
    }
    let length = received.bytes;
    if length == 0 {
        return Err(gone());
    }
    bytes.truncate(length);
    Ok((bytes, descriptor))
}

fn gone() -> Error {
    Error::new("criu ended without an answer")
}
