//! rtnetlink: requests and answers as byte slices (netlink(7), rtnetlink(7)).
//!
//! Every length is checked on the way out and on the way in. An attribute's length has 16 bits: a value that
//! wraps it would be read as attributes of the value's own making (CVE-2021-43784).

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::c_int;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvmsg, sendto, setsockopt, socket,
};

use crate::error::{Context, Error, Result};

/// Size of `struct nlmsghdr`, bytes.
const HEADER: usize = 16;
/// Size of `struct nlattr`, bytes.
const ATTRIBUTE_HEADER: usize = 4;
/// The kernel's datagrams are no larger, but for a link that has hundreds of alternative names.
const DATAGRAM: usize = 8192;
/// How often a dump that a change interrupted is begun anew.
const DUMP_ATTEMPTS: u32 = 10;
/// Of `enum nlmsgerr_attrs`: the kernel's own words.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A request: its header, the fixed part of its kind, and attributes.
#[derive(Clone, Debug)]
pub struct Request(Vec<u8>);

impl Request {
    /// A request of `kind` (`RTM_…`), with `flags` (`NLM_F_…`) beside `NLM_F_REQUEST`.
    pub fn new(kind: u16, flags: c_int, body: &[u8]) -> Self {
        let flags = (libc::NLM_F_REQUEST | flags) as u16;
        let mut bytes = [0; HEADER].to_vec();
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    /// Appends an attribute; one that is longer than its 16-bit length can say is an error.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Result<Self> {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len())
            .map_err(|_| Error::new(format!("a netlink attribute of {} bytes is too long", value.len())))?;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(align(self.0.len()), 0);
        Ok(self)
    }

    /// The bytes to send, numbered `sequence`.
    fn finish(mut self, sequence: u32) -> Result<Vec<u8>> {
        let length = u32::try_from(self.0.len()).map_err(|_| Error::new("a netlink request is too long"))?;
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(self.0)
    }
}

/// One message of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// `RTM_…`, or `NLMSG_DONE` or `NLMSG_ERROR` for the last.
    pub kind: u16,
    /// What follows the header.
    pub payload: Vec<u8>,
    flags: c_int,
    sequence: u32,
}

impl Message {
    /// Whether this ends the answer.
    fn is_last(&self) -> bool {
        [libc::NLMSG_DONE, libc::NLMSG_ERROR].contains(&c_int::from(self.kind))
    }

    /// What the last message says: success, or the kernel's errno and its words about it.
    fn outcome(&self, what: &str) -> Result<()> {
        let code = u32_at(&self.payload, 0).ok_or_else(malformed)? as i32;
        match code {
            0 => Ok(()),
            _ => Err(Error::new(self.reason(what)).errno(Errno::from_raw(code.wrapping_neg()))),
        }
    }

    fn reason(&self, what: &str) -> String {
        match self.kernels_text() {
            Some(text) => format!("{what}: the kernel says {text:?}"),
            None => what.to_owned(),
        }
    }

    /// The extended acknowledgement: attributes behind the errno and, in an error, the request sent back.
    fn kernels_text(&self) -> Option<String> {
        let request = match (c_int::from(self.kind), self.flags & libc::NLM_F_CAPPED != 0) {
            (libc::NLMSG_DONE, _) => 0,
            (_, true) => HEADER,
            (_, false) => align(u32_at(&self.payload, 4)? as usize),
        };
        let extra = self.payload.get(request.checked_add(4)?..).filter(|_| self.flags & libc::NLM_F_ACK_TLVS != 0)?;
        let (_, text) = attributes(extra).ok()?.into_iter().find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
        Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
    }
}

#[derive(Clone)]
struct ExtendedAck;
nix::setsockopt_impl!(ExtendedAck, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, bool, nix::sys::socket::sockopt::SetBool);

/// An rtnetlink socket. It belongs for good to the network namespace that its maker was in.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// A socket in the caller's network namespace.
    pub fn open() -> Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
            .context(|| "cannot open a netlink socket")?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Asks for the kernel's own words with its errors; without them (before Linux 4.12) the errno must do.
    pub fn with_texts(self) -> Self {
        let _ = setsockopt(&self.fd, ExtendedAck, &true);
        self
    }

    /// Sends `request` and collects the answer; an error says `what` was being done.
    pub fn talk(&mut self, request: Request, what: &str) -> Result<Vec<Message>> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence)?;
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.fd.as_raw_fd(), &bytes, &kernel, MsgFlags::empty()).context(|| what)?;
        let mut answer = Vec::new();
        loop {
            for message in self.receive(what)?.into_iter().filter(|message| message.sequence == self.sequence) {
                let outcome = message.is_last().then(|| message.outcome(what));
                answer.push(message);
                if let Some(outcome) = outcome {
                    return outcome.map(|()| answer);
                }
            }
        }
    }

    /// Like [`Socket::talk`], for a listing: anew while changes make it inconsistent.
    pub fn dump(&mut self, request: &Request, what: &str) -> Result<Vec<Message>> {
        for _ in 0..DUMP_ATTEMPTS {
            let answer = self.talk(request.clone(), what)?;
            if answer.iter().all(|message| message.flags & libc::NLM_F_DUMP_INTR == 0) {
                return Ok(answer);
            }
        }
        Err(Error::new(format!("{what}: it changes all the time")).errno(Errno::EAGAIN))
    }

    /// The messages of one datagram. The kernel works within sendto(2) and recvmsg(2): there is nothing to wait for.
    fn receive(&self, what: &str) -> Result<Vec<Message>> {
        let mut buffer = [0; DATAGRAM];
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let received = recvmsg::<NetlinkAddr>(self.fd.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT)
                .context(|| what)?;
            let (length, flags) = (received.bytes, received.flags);
            // A process of the container can write to this socket, too, where the namespace is not a new one.
            if received.address.is_none_or(|sender| sender.pid() != 0) {
                continue;
            }
            if flags.contains(MsgFlags::MSG_TRUNC) {
                return Err(Error::new(format!("{what}: the answer is too long")).errno(Errno::EMSGSIZE));
            }
            return messages(&buffer[..length]);
        }
    }
}

fn messages(mut datagram: &[u8]) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    while !datagram.is_empty() {
        let (message, rest) = split_message(datagram).ok_or_else(malformed)?;
        messages.push(message);
        datagram = rest;
    }
    Ok(messages)
}

fn split_message(bytes: &[u8]) -> Option<(Message, &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    let message = Message {
        kind: u16_at(bytes, 4)?,
        payload: bytes.get(HEADER..length)?.to_vec(),
        flags: c_int::from(u16_at(bytes, 6)?),
        sequence: u32_at(bytes, 8)?,
    };
    Some((message, bytes.get(align(length)..).unwrap_or_default()))
}

/// An attribute: its kind, without flag bits, and its value.
pub type Attribute<'a> = (u16, &'a [u8]);

/// The attributes that follow a message's fixed part.
pub fn attributes(mut bytes: &[u8]) -> Result<Vec<Attribute<'_>>> {
    let mut attributes = Vec::new();
    while !bytes.is_empty() {
        let (attribute, rest) = split_attribute(bytes).ok_or_else(malformed)?;
        attributes.push(attribute);
        bytes = rest;
    }
    Ok(attributes)
}

fn split_attribute(bytes: &[u8]) -> Option<(Attribute<'_>, &[u8])> {
    let length = usize::from(u16_at(bytes, 0)?);
    let kind = u16_at(bytes, 2)? & libc::NLA_TYPE_MASK as u16;
    Some(((kind, bytes.get(ATTRIBUTE_HEADER..length)?), bytes.get(align(length)..).unwrap_or_default()))
}

/// The number at `offset`, if `bytes` is that long.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..offset + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// Messages and attributes begin at multiples of four bytes.
fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The error for an answer whose lengths do not fit together.
pub fn malformed() -> Error {
    Error::new("the kernel's netlink answer is malformed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: c_int, flags: c_int, payload: &[u8]) -> Message {
        Message { kind: kind as u16, payload: payload.to_vec(), flags, sequence: 7 }
    }

    fn bytes(message: &Message) -> Vec<u8> {
        let mut bytes = Request::new(message.kind, message.flags, &message.payload).finish(message.sequence).unwrap();
        bytes[6..8].copy_from_slice(&(message.flags as u16).to_ne_bytes());
        bytes
    }

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let request = Request::new(16, libc::NLM_F_ACK, &[9; 4]).attribute(3, b"lo\0").unwrap();
        let mut expected = 28_u32.to_ne_bytes().to_vec();
        expected.extend(16_u16.to_ne_bytes());
        expected.extend(5_u16.to_ne_bytes());
        expected.extend(2_u32.to_ne_bytes());
        expected.extend([0, 0, 0, 0, 9, 9, 9, 9]);
        expected.extend(7_u16.to_ne_bytes());
        expected.extend(3_u16.to_ne_bytes());
        expected.extend(b"lo\0\0");
        assert_eq!(request.finish(2).unwrap(), expected);
    }

    #[test]
    fn an_attribute_length_does_not_wrap() {
        let request = || Request::new(16, 0, &[]);
        assert!(request().attribute(3, &vec![0; 0xffff - 4]).is_ok());
        assert!(request().attribute(3, &vec![0; 0xffff - 3]).is_err());
        assert!(request().attribute(3, &vec![0; 0x10000]).is_err());
    }

    #[test]
    fn messages_and_attributes_are_read_back() {
        let request = Request::new(16, 0, &[]).attribute(3, b"abc\0").unwrap().attribute(0x8004, &[1, 2, 3]).unwrap();
        let sent = request.finish(7).unwrap();
        let done = message(libc::NLMSG_DONE, libc::NLM_F_DUMP_INTR, &[0; 4]);
        let read = messages(&[sent, bytes(&done)].concat()).unwrap();
        assert_eq!(attributes(&read[0].payload).unwrap(), [(3, b"abc\0".as_slice()), (4, &[1, 2, 3])]);
        assert_eq!(read[1], done);
        assert!(read[1].is_last() && !read[0].is_last());
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let whole = bytes(&message(16, 0, &[1; 8]));
        for length in [0, 1, 15, 25, u32::MAX] {
            let mut broken = whole.clone();
            broken[0..4].copy_from_slice(&length.to_ne_bytes());
            assert!(messages(&broken).is_err(), "{length}");
        }
        assert!(messages(&whole[..10]).is_err());
        for broken in [&[0, 0, 3, 0][..], &[3, 0, 3, 0], &[9, 0, 3, 0, 1, 2, 3, 4], &[4, 0]] {
            assert!(attributes(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn the_outcome_is_the_errno_and_the_kernels_text() {
        let text = Request::new(0, 0, &[]).attribute(NLMSGERR_ATTR_MSG, b"no way\0").unwrap().0.split_off(HEADER);
        let errno = (-(Errno::EINVAL as i32)).to_ne_bytes();
        let sent_back = Request::new(16, 0, &[0; 8]).finish(7).unwrap();
        let expected = Error::new("move eth0: the kernel says \"no way\"").errno(Errno::EINVAL);
        let with_text = libc::NLM_F_ACK_TLVS;
        for (kind, flags, request) in [
            (libc::NLMSG_ERROR, with_text, &sent_back[..]),
            (libc::NLMSG_ERROR, with_text | libc::NLM_F_CAPPED, &sent_back[..HEADER]),
            (libc::NLMSG_DONE, with_text, &[]),
        ] {
            let last = message(kind, flags, &[&errno[..], request, &text].concat());
            assert_eq!(last.outcome("move eth0").unwrap_err(), expected);
        }
        let bare = message(libc::NLMSG_ERROR, 0, &[&errno[..], &sent_back].concat());
        assert_eq!(bare.outcome("move eth0").unwrap_err(), Error::new("move eth0").errno(Errno::EINVAL));
        assert_eq!(message(libc::NLMSG_ERROR, 0, &[0; 20]).outcome("move eth0"), Ok(()));
        assert!(message(libc::NLMSG_ERROR, 0, &[0; 3]).outcome("move eth0").is_err());
        let hostile = message(libc::NLMSG_ERROR, with_text, &[errno, [0xff; 4]].concat());
        assert_eq!(hostile.outcome("move eth0").unwrap_err(), Error::new("move eth0").errno(Errno::EINVAL));
    }
}
