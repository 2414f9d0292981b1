//! sd_notify(3) out of a container: what its program says of itself on a socket of its own is passed on to the
//! service manager on the host, by systemd's protocol.
//!
//! The container is not trusted: of its messages only the fields that concern itself go through, the process id that
//! it may give is replaced by the one that the host knows, and of its descriptors only a barrier's pipe goes along.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, send, socket};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Pid, pipe2};
use oci_spec::runtime::MountBuilder;

use crate::error::{Context, Error, Result};
use crate::safepath::{descriptor_path, file_type};
use crate::spec::Spec;
use crate::sys::poll::Place;
use crate::sys::process::pidfd_open;
use crate::wire::send_descriptors;
use crate::{log, sys};

/// In the container's directory, and below /run in the container.
const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";

/// How long the manager has to say that it has read everything, as in runc and crun.
const BARRIER_DEADLINE: Duration = Duration::from_secs(30);

/// The fields that go through: those that say something of the container itself.
const FIELDS: &[&str] =
    &["READY", "RELOADING", "STOPPING", "STATUS", "ERRNO", "WATCHDOG", "MONOTONIC_USEC", "EXTEND_TIMEOUT_USEC"];

/// Gives the container what it needs to find its socket; `directory` is its own below `--root`.
pub fn add_to(spec: &mut Spec, directory: &Path) -> Result<()> {
    let Some(process) = &mut spec.process else { return Ok(()) };
    let source = std::path::absolute(directory.join(DIRECTORY)).on_path("cannot find", directory)?;
    let options = ["bind", "nosuid", "nodev", "noexec", "ro"].map(str::to_owned).to_vec();
    let mount = MountBuilder::default().destination("/run/notify").typ("bind").source(source).options(options).build();
    spec.mounts.push(mount.map_err(|error| Error::new(format!("cannot describe a mount: {error}")))?);
    process.env.push(format!("NOTIFY_SOCKET=/run/{DIRECTORY}/{SOCKET}"));
    Ok(())
}

/// Makes the directory that the container sees. The socket comes with the start.
pub fn make_directory(directory: &Path) -> Result<()> {
    let path = directory.join(DIRECTORY);
    let made = DirBuilder::new().mode(0o755).create(&path);
    made.and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755))).on_path("cannot make", path)
}

/// Removes the directory, whatever a container with the privilege to has put there.
#[allow(clippy::disallowed_methods)] // which follows no links, and the directory is kelson's own
pub fn remove_directory(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory.join(DIRECTORY)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.on_path("cannot remove", directory.join(DIRECTORY)),
    }
}

/// How many messages are passed on before anything else is looked at.
const AT_ONCE: usize = 64;
/// How long the manager has to take a message, in milliseconds.
const PATIENCE: i32 = 2000;

/// The container's socket, and a connection to the manager.
pub struct Proxy {
    socket: OwnedFd,
    manager: OwnedFd,
    /// Whether the manager did not take the last message in time: then it is not waited for again.
    hangs: Cell<bool>,
}

impl Proxy {
    /// Listens for a container that was made with [`make_directory`]; nothing for another. A manager that cannot be
    /// reached keeps no container from its start.
    pub fn open(directory: &Path, address: &OsStr) -> Result<Option<Self>> {
        let Ok(place) = sys::fs::open(&directory.join(DIRECTORY), OFlag::O_PATH | OFlag::O_DIRECTORY) else {
            return Ok(None);
        };
        let manager = match dial(address) {
            Ok(manager) => manager,
            Err(errno) => {
                let error = Error::new("notifications are not passed on to NOTIFY_SOCKET").path(address).errno(errno);
                log::warn(error.to_string());
                return Ok(None);
            }
        };
        let socket = listen(&place).on_path("cannot listen for notifications", directory.join(DIRECTORY))?;
        Ok(Some(Self { socket, manager, hangs: Cell::new(false) }))
    }

    /// Passes on what has come in, with `main` as the process that the manager has to watch. True once the container
    /// has said that it is ready.
    pub fn pass_on(&self, main: Pid) -> bool {
        let mut is_ready = false;
        let mut buffer = [0; 4096];
        for _ in 0..AT_ONCE {
            let Ok((length, descriptor)) = self.receive(&mut buffer) else { break };
            let message = &buffer[..length];
            if is_barrier(message) {
                self.pass_on_barrier(descriptor);
                continue;
            }
            is_ready |= fields(message).any(|field| field == b"READY=1");
            let passed = rewritten(message, main);
            if !passed.is_empty() && self.manager_takes() {
                let _ = send(self.manager.as_raw_fd(), &passed, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
            }
        }
        is_ready
    }

    /// Passes on until the container is ready or its init has ended, and then waits until the manager has read it: it
    /// has to know the sender, which ends.
    pub fn wait_until_ready(&self, init: Pid, has_ended: impl Fn() -> bool) {
        let pidfd = pidfd_open(init).ok();
        // Without pidfds (before Linux 5.3) the end is noticed by asking.
        let pause = if pidfd.is_some() { -1 } else { 100 };
        loop {
            let ended = has_ended();
            if self.pass_on(init) {
                return self.wait_for_manager();
            }
            if ended {
                return;
            }
            let mut places =
                [Place::new(Some(&self.socket), PollFlags::POLLIN), Place::new(pidfd.as_ref(), PollFlags::POLLIN)];
            let _ = sys::poll::poll(&mut places, pause);
        }
    }

    /// A message, and the descriptor that came with it: more than one are none.
    fn receive(&self, buffer: &mut [u8]) -> nix::Result<(usize, Option<OwnedFd>)> {
        let (length, [one, more]) = sys::socket::receive(&self.socket, buffer)?;
        Ok((length, one.filter(|_| more.is_none())))
    }

    /// Whether the manager's socket has room, in time. What it does not take is lost, as datagrams are: a manager that
    /// hangs must not keep signals from the container.
    fn manager_takes(&self) -> bool {
        let mut places = [Place::new(Some(&self.manager), PollFlags::POLLOUT)];
        let patience = if self.hangs.get() { 0 } else { PATIENCE };
        while sys::poll::poll(&mut places, patience) == Err(Errno::EINTR) {}
        self.hangs.set(!places[0].is_ready());
        places[0].is_ready()
    }

    /// The sender waits until all copies of its pipe are closed: the manager gets one. Nothing else is passed on, for
    /// the manager might have to wait when it closes that.
    fn pass_on_barrier(&self, pipe: Option<OwnedFd>) {
        let is_pipe = |file: &OwnedFd| fstat(file).is_ok_and(|stat| file_type(&stat) == SFlag::S_IFIFO);
        if let Some(pipe) = pipe.filter(is_pipe).filter(|_| self.manager_takes()) {
            let _ = send_descriptors(&self.manager, b"BARRIER=1", &[pipe.as_raw_fd()]);
        }
    }

    /// sd_notify_barrier(3): the manager closes its end of a pipe when it has come to it.
    fn wait_for_manager(&self) {
        let Ok((ours, theirs)) = pipe2(OFlag::O_CLOEXEC) else { return };
        if send_descriptors(&self.manager, b"BARRIER=1", &[theirs.as_raw_fd()]).is_err() {
            return;
        }
        drop(theirs);
        let end = Instant::now() + BARRIER_DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now()).as_millis() as i32;
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(ours.as_fd(), PollFlags::POLLIN)], timeout) {
                Err(Errno::EINTR) => {}
                Ok(0) => return log::warn("the manager did not say within 30 s that it has read the notifications"),
                _ => return,
            }
        }
    }
}

impl AsFd for Proxy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A connection to `address`: a path, or with a leading `@` a name of the network namespace's, unix(7).
fn dial(address: &OsStr) -> nix::Result<OwnedFd> {
    let address = match address.as_bytes() {
        [b'/', ..] => UnixAddr::new(address)?,
        [b'@', name @ ..] => UnixAddr::new_abstract(name)?,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// Binds the container's socket, which any of its users may write to, in place of an earlier one.
fn listen(place: &OwnedFd) -> nix::Result<OwnedFd> {
    let path = format!("{}/{SOCKET}", descriptor_path(place));
    let _ = nix::unistd::unlinkat(place, SOCKET, nix::unistd::UnlinkatFlags::NoRemoveDir);
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path.as_str())?)?;
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o777);
    nix::sys::stat::fchmodat(place, SOCKET, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)?;
    Ok(socket)
}

fn fields(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    message.split(|byte| *byte == b'\n').filter(|field| !field.is_empty())
}

fn is_barrier(message: &[u8]) -> bool {
    fields(message).eq([&b"BARRIER=1"[..]])
}

/// What of a message goes through. With the news that it is ready, or its own idea of its main process, goes the id
/// that this has on the host.
fn rewritten(message: &[u8], main: Pid) -> Vec<u8> {
    // It never grows: a container may send without end, and what grows is not given back (sys::alloc).
    let mut passed = Vec::with_capacity(message.len() + 32);
    let mut names_main = false;
    for field in fields(message) {
        let name = field.split(|byte| *byte == b'=').next().unwrap_or_default();
        names_main |= field == b"READY=1" || name == b"MAINPID";
        if FIELDS.iter().any(|known| known.as_bytes() == name) {
            passed.extend_from_slice(field);
            passed.push(b'\n');
        }
    }
    if names_main {
        let _ = writeln!(passed, "MAINPID={main}");
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(message: &str) -> String {
        String::from_utf8(rewritten(message.as_bytes(), Pid::from_raw(77))).unwrap()
    }

    #[test]
    fn the_process_id_is_the_hosts() {
        assert_eq!(passed("READY=1"), "READY=1\nMAINPID=77\n");
        assert_eq!(passed("STATUS=up\nREADY=1\nMAINPID=1\n"), "STATUS=up\nREADY=1\nMAINPID=77\n");
        assert_eq!(passed("MAINPID=4"), "MAINPID=77\n");
        assert_eq!(passed("READY=0"), "READY=0\n");
    }

    #[test]
    fn what_is_not_the_containers_to_say_does_not_go_through() {
        for message in ["NOTIFYACCESS=all", "FDSTORE=1\nFDNAME=x", "BUSERROR=x", "X", "", "\n\n", "BARRIER=1\nREADY"] {
            assert!(!passed(message).contains('='), "{message}: {}", passed(message));
        }
        assert!(is_barrier(b"BARRIER=1") && is_barrier(b"BARRIER=1\n") && !is_barrier(b"BARRIER=1\nREADY=1"));
    }
}
