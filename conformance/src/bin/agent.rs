//! `agent SOCKET ANSWER`: the agent of a seccomp filter with `SCMP_ACT_NOTIFY`. Takes one connection on SOCKET, prints
//! the container process state that it gets, and then the number of each call that it is asked about. ANSWER is
//! `continue`, or the errno with which they fail. Ends when nobody has the filter any more.
#![cfg_attr(not(test), no_main)]

use kelson_conformance::{Result, during, entry, say, sys};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

const USAGE: &str = "usage: agent SOCKET (continue|ERRNO)";

entry!("agent", run);

fn run(args: &[OsString]) -> Result<i32> {
    let [_, socket, answer] = args else { return Err(USAGE.into()) };
    let errno = match answer.to_str() {
        Some("continue") => None,
        Some(errno) => Some(errno.parse().map_err(during(USAGE))?),
        None => return Err(USAGE.into()),
    };
    let socket = UnixListener::bind(socket).map_err(during("listen"))?;
    say("listening")?;
    let (state, listener) = receive(&socket)?;
    say(&state)?;
    serve(&listener, errno)
}

/// One connection, one message with one descriptor, and nothing after it.
fn receive(socket: &UnixListener) -> Result<(String, OwnedFd)> {
    let (mut connection, _) = socket.accept().map_err(during("accept"))?;
    let mut buffer = vec![0; 1 << 16];
    let received = sys::receive_with_descriptor(connection.as_fd(), &mut buffer).map_err(during("receive"))?;
    let (length, Some(descriptor)) = received else { return Err("no descriptor came with the state".into()) };
    let mut rest = Vec::new();
    connection.read_to_end(&mut rest).map_err(during("wait for the end of the connection"))?;
    buffer.truncate(length);
    buffer.extend(rest);
    Ok((String::from_utf8_lossy(&buffer).into_owned(), descriptor))
}

fn serve(listener: &OwnedFd, errno: Option<i32>) -> Result<i32> {
    loop {
        let mut events = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut events, PollTimeout::NONE).map_err(during("wait for calls"))?;
        if events[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
            return Ok(0);
        }
        let call = match sys::receive_notification(listener.as_fd()) {
            // The process has ended meanwhile.
            Err(Errno::ENOENT | Errno::EINTR) => continue,
            result => result.map_err(during("receive a call"))?,
        };
        say(call.number)?;
        match sys::answer_notification(listener.as_fd(), call.id, errno) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(format!("answer a call: {errno}")),
        }
    }
}
