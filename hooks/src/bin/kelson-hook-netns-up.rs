//! `kelson-hook-netns-up`: brings `lo` up in the container's network namespace. For the stages `createRuntime` and
//! `prestart`, which run in the runtime's own namespaces.

use kelson_hooks::{Result, during, read_state, run};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use serde_json::Value;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

/// The loopback device is the first of every network namespace.
const LOOPBACK_INDEX: i32 = 1;

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;
/// A netlink header (16 bytes) and an ifinfomsg (16 bytes).
const REQUEST_SIZE: usize = 32;

fn main() -> ExitCode {
    run("kelson-hook-netns-up", netns_up)
}

fn netns_up(args: &[OsString]) -> Result<()> {
    if !args.is_empty() {
        return Err("usage: kelson-hook-netns-up <STATE".into());
    }
    enter(container_pid(&read_state()?)?)?;
    loopback_up().map_err(during("bring lo up"))
}

fn container_pid(state: &Value) -> Result<u64> {
    let pid = state.get("pid").and_then(Value::as_u64).filter(|pid| *pid > 0);
    pid.ok_or_else(|| "the container's state names no process (\"pid\")".into())
}

fn enter(pid: u64) -> Result<()> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).map_err(during(format!("open {path}")))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(during(format!("enter {path}")))
}

fn loopback_up() -> nix::Result<()> {
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    send(netlink.as_raw_fd(), &set_up_request(LOOPBACK_INDEX), MsgFlags::empty())?;
    let mut answer = [0; 256];
    let size = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    acknowledgement(answer.get(..size).unwrap_or_default())
}

fn set_up_request(index: i32) -> Vec<u8> {
    let mut request = Vec::with_capacity(REQUEST_SIZE);
    request.extend((REQUEST_SIZE as u32).to_ne_bytes());
    request.extend(RTM_NEWLINK.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    request.extend([0; 8]); // sequence number, port
    request.extend([0; 4]); // address family, padding, device type
    request.extend(index.to_ne_bytes());
    request.extend(IFF_UP.to_ne_bytes()); // flags
    request.extend(IFF_UP.to_ne_bytes()); // which of them to change
    request
}

/// The kernel's answer: a netlink header, then the negative errno, or 0.
fn acknowledgement(answer: &[u8]) -> nix::Result<()> {
    let field = |at: usize| answer.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let kind = field(4).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    match (kind, field(16).map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(errno)) => Err(Errno::from_raw(-errno)),
        _ => Err(Errno::EBADMSG),
    }
}
