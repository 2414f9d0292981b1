//! The agent that decides on calls with `SCMP_ACT_NOTIFY`: it gets a descriptor of the filter, with the container
//! process state (config-linux.md, "The Container Process State"), one of each for a connection.
//!
//! The descriptor exists from the moment that the filter holds, and the filter may leave the very calls that would
//! pass it on to the agent, who does not have it yet. So a second thread, to which the filter does not apply,
//! sends it, while the first waits without any call.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_socket, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{Listener, refused};
use crate::error::{Context, Error, Result};
use crate::spec::VERSION_MAX;
use crate::sys;
use crate::wire::send_descriptors;

/// How long an agent has to take a connection, in seconds.
const DEADLINE: i64 = 10;

/// How long the sender sleeps between two looks.
const NAP: Duration = Duration::from_micros(20);

const POINTER: &str = "/linux/seccomp/listenerPath";

/// Connects to the agent.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    let connected = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).and_then(|socket| {
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(DEADLINE))?;
        connect_socket(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(socket)
    });
    connected
        .on_path("cannot connect to the seccomp agent", path)
        .map_err(|error| error.pointer(POINTER).hint("an agent has to listen there on a Unix stream socket"))
}

impl Listener {
    /// The container process state; `state` is the container's, as runtime.md has it.
    pub(super) fn message(&self, state: &[u8], pid: Option<i32>) -> Result<Vec<u8>> {
        let state: serde_json::Value = serde_json::from_slice(state)
            .map_err(|error| Error::new(format!("the container's state is not known: {error}")).pointer(POINTER))?;
        let mut message = serde_json::json!({
            "ociVersion": VERSION_MAX,
            "fds": ["seccompFd"],
            "pid": pid.map_or_else(|| state["pid"].clone(), Into::into),
            "state": state,
        });
        if !self.metadata.is_empty() {
            message["metadata"] = self.metadata.as_str().into();
        }
        Ok(message.to_string().into_bytes())
    }
}

/// What the two threads tell each other, once each.
struct Exchange {
    /// The sender is at work.
    ready: AtomicBool,
    /// The filter's descriptor, or minus an errno.
    loaded: AtomicI32,
    /// 0, or an errno.
    sent: AtomicI32,
}

/// Neither a descriptor nor an errno.
const NOT_YET: i32 = i32::MIN;

/// Loads the filter into this thread by `load`, and sends its descriptor with `message` to the agent.
pub fn load_and_send(load: impl FnOnce() -> nix::Result<i32>, agent: OwnedFd, message: Vec<u8>) -> Result<()> {
    let (ready, loaded, sent) = (AtomicBool::new(false), AtomicI32::new(NOT_YET), AtomicI32::new(NOT_YET));
    let exchange = Arc::new(Exchange { ready, loaded, sent });
    let theirs = Arc::clone(&exchange);
    let sender = std::thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(move || send(&theirs, agent, &message))
        .context(|| "cannot make a thread to send to the seccomp agent")?;
    while !exchange.ready.load(Ordering::Acquire) {
        std::thread::sleep(NAP);
    }
    let loaded = load();
    exchange.loaded.store(loaded.unwrap_or_else(|errno| -(errno as i32)), Ordering::Release);
    // No call from here on, not even to sleep: the filter may leave it to the agent.
    let sent = loop {
        match exchange.sent.load(Ordering::Acquire) {
            NOT_YET => std::hint::spin_loop(),
            sent => break sent,
        }
    };
    // To join or detach the thread may be a call; it has ended, and execve(2) ends what is left of it.
    std::mem::forget(sender);
    loaded.map_err(refused)?;
    match sent {
        0 => Ok(()),
        errno => Err(Error::new("cannot send to the seccomp agent").errno(Errno::from_raw(errno)).pointer(POINTER)),
    }
}

/// Loads the filter by `load`, and sends its descriptor with `message` to the agent, from this very thread: the filter
/// must not leave that to the agent.
pub fn load_then_send(load: impl FnOnce() -> nix::Result<i32>, agent: &OwnedFd, message: &[u8]) -> Result<()> {
    let descriptor = sys::seccomp::listener(load().map_err(refused)?);
    send_descriptors(agent, message, &[descriptor.as_raw_fd()])
        .context(|| "cannot send to the seccomp agent")
        .map_err(|error| error.pointer(POINTER))
}

/// The sender's part. What it has, it closes before it says that it is done.
fn send(exchange: &Exchange, agent: OwnedFd, message: &[u8]) {
    // The other waits for this one at work, maybe with real-time priority and on one processor: the kernel leaves ordinary
    // ones a share of that, and none to its equals.
    let _ = sys::sched::become_ordinary();
    exchange.ready.store(true, Ordering::Release);
    let number = loop {
        match exchange.loaded.load(Ordering::Acquire) {
            NOT_YET => std::thread::sleep(NAP),
            number => break number,
        }
    };
    let sent = match u32::try_from(number) {
        Err(_) => Ok(()),
        Ok(_) => send_descriptors(&agent, message, &[sys::seccomp::listener(number).as_raw_fd()]),
    };
    drop(agent);
    exchange.sent.store(sent.map_or_else(|errno| errno as i32, |()| 0), Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_the_specs() {
        let listener = Listener { path: "/agent".into(), metadata: "who".to_owned(), hears_itself: false };
        let message =
            listener.message(br#"{"ociVersion":"1.3.0","id":"a","status":"creating","pid":7}"#, None).unwrap();
        let message: serde_json::Value = serde_json::from_slice(&message).unwrap();
        assert_eq!(message["fds"], serde_json::json!(["seccompFd"]));
        assert_eq!(message["pid"], 7);
        assert_eq!(message["metadata"], "who");
        assert_eq!(message["state"]["status"], "creating");
        assert!(listener.message(b"", None).is_err());
    }

    #[test]
    fn the_agent_gets_a_descriptor_and_one_message() {
        let (ours, agent) = std::os::unix::net::UnixStream::pair().unwrap();
        let load = || Ok(std::os::fd::IntoRawFd::into_raw_fd(std::fs::File::open("/dev/null").unwrap()));
        load_and_send(load, agent.into(), b"state".to_vec()).unwrap();
        assert!(crate::wire::receive_descriptor(&ours).unwrap().is_some());
        assert!(crate::wire::receive_descriptor(&ours).unwrap().is_none());
    }

    #[test]
    fn an_agent_that_is_gone_is_an_error() {
        let (ours, agent) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(ours);
        let load = || Ok(std::os::fd::IntoRawFd::into_raw_fd(std::fs::File::open("/dev/null").unwrap()));
        let error = load_and_send(load, agent.into(), b"state".to_vec()).unwrap_err();
        assert_eq!(error.os_error(), Some(Errno::EPIPE));
        let (_ours, agent) = std::os::unix::net::UnixStream::pair().unwrap();
        let error = load_and_send(|| Err(Errno::EINVAL), agent.into(), Vec::new()).unwrap_err();
        assert_eq!(error.os_error(), Some(Errno::EINVAL));
    }
}
