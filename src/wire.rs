//! The messages between the runtime and a container's init: one socket of packets, one message a packet.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, recvmsg,
    sendmsg, shutdown, socketpair,
};
use nix::unistd::{Pid, read, write};

use crate::error::{Context, Error, Result};
use crate::sys::poll::{Place, poll};
use crate::sys::process;

/// The longest message: an error with long paths.
const MAX_LENGTH: usize = 8 * 1024;

/// What one side tells the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// To init: go on (the id maps are written, the stage is known to be gone, or the container is started).
    Go,
    /// To the runtime: write the id maps of the stage's new user namespace.
    MapIds,
    /// To the runtime: the stage has made the process, whose id this is. Back from it, in `exec`: go on.
    Init(i32),
    /// To the runtime: everything is mounted; run the hooks that belong to the runtime's namespaces.
    RunHooks,
    /// To init: they have run; and the process id that it has on the host, for the state that its own hooks get.
    HooksRan(i32),
    /// To the runtime: everything but the program's start is done.
    Ready,
    /// To the runtime: something that does not stop the start, for the log.
    Warning(String),
    /// Either way: this went wrong.
    Failed(Error),
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Go => b"g".to_vec(),
            Self::MapIds => b"m".to_vec(),
            Self::Init(pid) => [b"i", pid.to_string().as_bytes()].concat(),
            Self::RunHooks => b"h".to_vec(),
            Self::HooksRan(pid) => [b"s", pid.to_string().as_bytes()].concat(),
            Self::Ready => b"r".to_vec(),
            Self::Warning(text) => [b"w", text.as_bytes()].concat(),
            Self::Failed(error) => {
                let mut bytes = [b"f", error.to_bytes().as_slice()].concat();
                bytes.truncate(MAX_LENGTH);
                bytes
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match kind {
            b'g' => Some(Self::Go),
            b'm' => Some(Self::MapIds),
            b'i' => std::str::from_utf8(rest).ok()?.parse().ok().map(Self::Init),
            b'h' => Some(Self::RunHooks),
            b's' => std::str::from_utf8(rest).ok()?.parse().ok().map(Self::HooksRan),
            b'r' => Some(Self::Ready),
            b'w' => Some(Self::Warning(String::from_utf8_lossy(rest).into_owned())),
            b'f' => Some(Self::Failed(Error::from_bytes(rest))),
            _ => None,
        }
    }
}

/// One end of the socket.
pub struct Wire(OwnedFd);

impl Wire {
    /// Both ends.
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .context(|| "cannot make a socket pair")?;
        Ok((Self(one), Self(other)))
    }

    /// An end that is there already, such as an accepted connection.
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Sends a message.
    pub fn send(&self, message: &Message) -> Result<()> {
        // Not send(2): a seccomp filter that is loaded already may forbid what belongs to sockets. SIGPIPE is ignored.
        write(&self.0, &message.encode()).map(drop).context(|| "cannot send to the other side of the container's start")
    }

    /// Tells the runtime of the process that was made for it. One that it does not know of would wait for it, and the
    /// runtime for that: it is ended where this fails.
    pub fn hand_over(&self, pid: Pid) -> Result<()> {
        self.send(&Message::Init(pid.as_raw())).inspect_err(|_| {
            let _ = process::kill(pid, libc::SIGKILL);
        })
    }

    /// Waits for a message; nothing when the other end is closed.
    pub fn receive(&self) -> Result<Option<Message>> {
        let mut buffer = [0; MAX_LENGTH];
        loop {
            return match read(&self.0, &mut buffer) {
                Err(Errno::EINTR) => continue,
                Ok(0) | Err(Errno::ECONNRESET) => Ok(None),
                Ok(length) => Message::decode(&buffer[..length])
                    .map(Some)
                    .ok_or_else(|| Error::new("a message from the container's start is not understood")),
                Err(errno) => Err(Error::new("cannot receive from the container's start").errno(errno)),
            };
        }
    }

    /// The same, and nothing either when `sender` has ended: whom it has left behind may hold the other end, and learns
    /// so that nobody goes on.
    pub fn receive_from(&self, sender: Option<&OwnedFd>) -> Result<Option<Message>> {
        let mut places = [Place::new(Some(self), PollFlags::POLLIN), Place::new(sender, PollFlags::POLLIN)];
        while poll(&mut places, -1) == Err(Errno::EINTR) {}
        if !places[0].is_ready() {
            // What it has said just before its end comes first.
            let _ = poll(&mut places[..1], 0);
            if !places[0].is_ready() {
                let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
            }
        }
        self.receive()
    }

    /// Waits for the other side's word to go on.
    pub fn wait_for_go(&self) -> Result<()> {
        match self.receive()? {
            Some(Message::Go) => Ok(()),
            Some(Message::Failed(error)) => Err(error),
            _ => Err(Error::new("the runtime ended before the container was made")),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends descriptors with a payload (at least one byte) over a Unix socket.
pub fn send_descriptors(socket: impl AsFd, payload: &[u8], descriptors: &[RawFd]) -> nix::Result<()> {
    let control = [ControlMessage::ScmRights(descriptors)];
    let socket = socket.as_fd().as_raw_fd();
    sendmsg::<UnixAddr>(socket, &[IoSlice::new(payload)], &control, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Receives the one descriptor that was sent over a Unix socket; nothing at its end.
pub fn receive_descriptor(socket: impl AsFd) -> nix::Result<Option<RawFd>> {
    let mut payload = [0; 4096];
    let mut parts = [std::io::IoSliceMut::new(&mut payload)];
    let mut control = nix::cmsg_space!(RawFd);
    let socket = socket.as_fd().as_raw_fd();
    let message = recvmsg::<UnixAddr>(socket, &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            return Ok(descriptors.first().copied());
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives() {
        let (one, other) = Wire::pair().unwrap();
        let failure = Error::new("no").pointer("/process/args").errno(Errno::ENOEXEC);
        for message in [
            Message::Go,
            Message::MapIds,
            Message::Init(42),
            Message::RunHooks,
            Message::HooksRan(43),
            Message::Ready,
            Message::Warning("w".into()),
            Message::Failed(failure),
        ] {
            one.send(&message).unwrap();
            assert_eq!(other.receive().unwrap(), Some(message));
        }
        drop(one);
        assert_eq!(other.receive().unwrap(), None);
    }

    #[test]
    fn an_overlong_failure_is_cut_and_still_read() {
        let (one, other) = Wire::pair().unwrap();
        one.send(&Message::Failed(Error::new("x".repeat(100_000)))).unwrap();
        assert!(matches!(other.receive().unwrap(), Some(Message::Failed(_))));
    }
}
