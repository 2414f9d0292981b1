//! Terminals: the pty that a container gets, its console, and the relay of a foreground `run`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, read, setsid, write};

use crate::error::{Context, Error, Result};
use crate::safepath::{Leaf, Root, open_within};
use crate::spec::ConsoleSize;
use crate::sys;
use crate::wire::send_descriptors;

/// Connects to an engine's console socket, or pidfd socket.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    UnixStream::connect(path).on_path("cannot connect to a socket", path).map(OwnedFd::from)
}

/// Where the process sends its terminal's master, and before it where the runtime receives it if that is itself.
pub fn console(
    terminal: bool,
    console_socket: Option<&Path>,
    detached: bool,
) -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    let wrong = |message: &str| Err(Error::new(message).pointer("/process/terminal"));
    match (terminal, console_socket) {
        (true, None) if detached => wrong("cannot allocate a terminal: a detached container needs --console-socket"),
        (false, Some(_)) => wrong("--console-socket is given, but the process has no terminal"),
        (true, Some(path)) => Ok((None, Some(connect(path)?))),
        (true, None) => {
            let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
            pair.map(|(ours, theirs)| (Some(ours), Some(theirs))).context(|| "cannot make a socket pair")
        }
        (false, None) => Ok((None, None)),
    }
}

/// The terminal of a container: like [`add`], and bound to /dev/console.
pub fn create(root: &Root, socket: &OwnedFd, size: Option<ConsoleSize>) -> Result<OwnedFd> {
    let (master, peer) = open(root, size)?;
    bind_console(root, &peer)?;
    send(socket, &master)?;
    Ok(peer)
}

/// Makes a pty in the container's devpts, and sends its master over `socket`. Returns the container's end.
pub fn add(root: &Root, socket: &OwnedFd, size: Option<ConsoleSize>) -> Result<OwnedFd> {
    let (master, peer) = open(root, size)?;
    send(socket, &master)?;
    Ok(peer)
}

fn send(socket: &OwnedFd, master: &OwnedFd) -> Result<()> {
    send_descriptors(socket, b"/dev/ptmx", &[master.as_raw_fd()]).context(|| "cannot send the terminal's descriptor")
}

/// A pty of the container's devpts: the master, and the other end.
fn open(root: &Root, size: Option<ConsoleSize>) -> Result<(OwnedFd, OwnedFd)> {
    let path = Path::new("/dev/pts");
    let refused = |errno: Errno| {
        Error::new("cannot open a terminal in the container")
            .path(path)
            .errno(errno)
            .pointer("/process/terminal")
            .hint("a terminal needs a devpts mount on /dev/pts")
    };
    let directory = root.open(path).map_err(refused)?;
    let magic = sys::fs::file_system_magic(&directory).context(|| "cannot look at the container's devpts")?;
    if magic != DEVPTS_SUPER_MAGIC {
        return Err(Error::new("not devpts").path(path).pointer("/process/terminal"));
    }
    // What a running container may have put over its own files is not even opened.
    let master = open_within(&directory, "ptmx", OFlag::O_RDWR | OFlag::O_NOCTTY).map_err(refused)?;
    // Until it is unlocked a pty has no other end, pts(4).
    sys::fs::unlock_pty(&master).context(|| "cannot unlock the terminal")?;
    if let Some(ConsoleSize { height, width }) = size.filter(|size| size.height != 0 || size.width != 0) {
        sys::fs::set_window_size(&master, (height, width)).context(|| "cannot set the terminal's size")?;
    }
    let peer = sys::fs::pty_peer(&master).context(|| "cannot open the other end of the terminal")?;
    Ok((master, peer))
}

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Binds the terminal to /dev/console, by descriptor (CVE-2025-52565).
fn bind_console(root: &Root, peer: &OwnedFd) -> Result<()> {
    let path = Path::new("/dev/console");
    let place = root.open_or_create_plain(path, Leaf::File).on_path("cannot make a place for the console", path)?;
    match sys::mount::clone_tree(peer, c"", false) {
        Ok(tree) => sys::mount::move_mount(&tree, &place),
        Err(Errno::ENOSYS) => {
            let (source, target) = (crate::safepath::descriptor_path(peer), crate::safepath::descriptor_path(&place));
            let none: Option<&str> = None;
            nix::mount::mount(Some(source.as_str()), target.as_str(), none, nix::mount::MsFlags::MS_BIND, none)
        }
        Err(errno) => Err(errno),
    }
    .on_path("cannot bind the console", path)
}

/// Makes `terminal` the controlling terminal and the standard streams of the calling session leader.
pub fn take(terminal: &OwnedFd) -> Result<()> {
    take_control(terminal)?;
    use_as_streams(terminal)
}

/// Makes `terminal` the controlling terminal of the calling session leader.
pub fn take_control(terminal: impl AsFd) -> Result<()> {
    sys::fs::set_controlling_terminal(terminal).context(|| "cannot take the terminal")
}

/// Makes `terminal` the standard streams.
pub fn use_as_streams(terminal: &OwnedFd) -> Result<()> {
    dup2_stdin(terminal)
        .and_then(|()| dup2_stdout(terminal))
        .and_then(|()| dup2_stderr(terminal))
        .context(|| "cannot make the terminal the standard streams")
}

/// Begins a session without a controlling terminal.
pub fn begin_session() -> Result<()> {
    match setsid() {
        Ok(_) | Err(Errno::EPERM) => Ok(()),
        Err(errno) => Err(Error::new("cannot begin a session").errno(errno)),
    }
}

/// The caller's terminal in raw mode, and the container's master; both as they were once dropped.
pub struct Relay {
    master: OwnedFd,
    saved: Option<Termios>,
    /// Whether the caller's input has not ended yet.
    input: bool,
}

impl Relay {
    /// Begins to relay between the standard streams and `master`.
    pub fn begin(master: OwnedFd) -> Result<Self> {
        // The host's terminal adds carriage returns already.
        if let Ok(mut settings) = tcgetattr(&master) {
            settings.output_flags.remove(OutputFlags::ONLCR);
            tcsetattr(&master, SetArg::TCSANOW, &settings).context(|| "cannot set up the container's terminal")?;
        }
        let saved = tcgetattr(std::io::stdin()).ok();
        if let Some(saved) = &saved {
            let mut raw = saved.clone();
            cfmakeraw(&mut raw);
            // It is this terminal that adds the carriage returns.
            raw.output_flags.insert(OutputFlags::OPOST);
            tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).context(|| "cannot set the terminal to raw mode")?;
        }
        let relay = Self { master, saved, input: true };
        relay.resize();
        Ok(relay)
    }

    /// Passes the size of the caller's terminal on.
    pub fn resize(&self) {
        if let Ok(size) = sys::fs::window_size(std::io::stdin()) {
            let _ = sys::fs::set_window_size(&self.master, size);
        }
    }

    /// Waits for input, output, or something readable on `signals`, and moves what there is. False once the
    /// container's end is closed.
    pub fn turn(&mut self, signals: impl AsFd) -> bool {
        let stdin = std::io::stdin();
        let input = if self.input { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut waited = [
            PollFd::new(self.master.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), input),
        ];
        let count = if self.input { 3 } else { 2 };
        if poll(&mut waited[..count], PollTimeout::NONE).is_err() {
            return true;
        }
        let ready = |place: &PollFd<'_>| place.revents().is_some_and(|events| !events.is_empty());
        let (output, typed) = (ready(&waited[0]), count == 3 && ready(&waited[2]));
        if typed && !copy(&stdin, &self.master) {
            self.input = false;
        }
        !output || copy(&self.master, std::io::stdout())
    }

    /// Passes on what the container wrote before it ended.
    pub fn finish(&self) {
        let mut waited = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        while poll(&mut waited, PollTimeout::ZERO).is_ok_and(|ready| ready == 1)
            && copy(&self.master, std::io::stdout())
        {}
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, saved);
        }
    }
}

/// Moves one buffer; false at the end of `from`.
fn copy(from: impl AsFd, to: impl AsFd) -> bool {
    let mut buffer = [0; 4096];
    let length = match read(from, &mut buffer) {
        Ok(0) => return false,
        Ok(length) => length,
        Err(errno) => return matches!(errno, Errno::EINTR | Errno::EAGAIN),
    };
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        match write(&to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let _ = poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(_) => return false,
        }
    }
    true
}
