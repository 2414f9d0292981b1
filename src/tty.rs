//! Terminals: the pty that a container gets, its console, and the relay of a foreground `run`.

use std::io::{Stdin, stderr, stdin, stdout};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::{FileStat, SFlag, fstat, makedev};
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, isatty, read, setsid, write};

use crate::error::{Context, Error, Result};
use crate::safepath::{Leaf, Root, file_type, open_within};
use crate::spec::ConsoleSize;
use crate::sys;
use crate::sys::poll::Place;
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

/// Replaces standard streams that lead to the host's `/dev/null` by the container's, where that is one: a checkpoint
/// cannot hold a file of the host's.
pub fn use_own_null() -> Result<()> {
    let is_null = |file: &dyn AsFd| fstat(file).is_ok_and(|stat| stat.st_rdev == makedev(1, 3) && is_character(&stat));
    let [input, output, error] = [is_null(&stdin()), is_null(&stdout()), is_null(&stderr())];
    if !(input || output || error) {
        return Ok(());
    }
    // Not opened for use before it is known: an image may have anything there.
    let place = sys::fs::open("/dev/null", OFlag::O_PATH | OFlag::O_NOFOLLOW).ok().filter(|place| is_null(place));
    let null = place.and_then(|_| sys::fs::open("/dev/null", OFlag::O_RDWR).ok()).filter(|null| is_null(null));
    let Some(null) = null else { return Ok(()) };
    let replace = |is_null: bool, dup: fn(&OwnedFd) -> nix::Result<()>| if is_null { dup(&null) } else { Ok(()) };
    replace(input, |null| dup2_stdin(null))
        .and_then(|()| replace(output, |null| dup2_stdout(null)))
        .and_then(|()| replace(error, |null| dup2_stderr(null)))
        .context(|| "cannot take the container's /dev/null for a standard stream")
}

fn is_character(stat: &FileStat) -> bool {
    file_type(stat) == SFlag::S_IFCHR
}

/// Begins a session without a controlling terminal.
pub fn begin_session() -> Result<()> {
    match setsid() {
        Ok(_) | Err(Errno::EPERM) => Ok(()),
        Err(errno) => Err(Error::new("cannot begin a session").errno(errno)),
    }
}

/// The caller's terminal in raw mode, and the container's master; the former as it was once dropped.
pub struct Relay {
    master: OwnedFd,
    saved: Option<Termios>,
    /// From standard input to the master.
    typed: Flow,
    /// From the master to standard output.
    shown: Flow,
    output: OwnedFd,
    /// Whether nobody reads that any more. The container goes on.
    is_unread: bool,
    /// Whether nobody has the container's end open. Somebody may open it again.
    hung_up: bool,
}

impl Relay {
    /// Begins to relay between the standard streams and `master`.
    pub fn begin(master: OwnedFd) -> Result<Self> {
        // The host's terminal adds carriage returns already.
        if let Ok(mut settings) = tcgetattr(&master) {
            settings.output_flags.remove(OutputFlags::ONLCR);
            tcsetattr(&master, SetArg::TCSANOW, &settings).context(|| "cannot set up the container's terminal")?;
        }
        // A container that does not read must not keep signals from it.
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))
            .context(|| "cannot set up the container's terminal")?;
        let saved = tcgetattr(stdin()).ok();
        if let Some(saved) = &saved {
            restore_on_panic(saved.clone());
            let mut raw = saved.clone();
            cfmakeraw(&mut raw);
            // It is this terminal that adds the carriage returns.
            raw.output_flags.insert(OutputFlags::OPOST);
            tcsetattr(stdin(), SetArg::TCSANOW, &raw).context(|| "cannot set the terminal to raw mode")?;
        }
        let output = own_output().context(|| "cannot use the standard output")?;
        let (typed, shown) = (Flow::default(), Flow::default());
        let relay = Self { master, saved, typed, shown, output, is_unread: false, hung_up: false };
        relay.resize();
        Ok(relay)
    }

    /// Passes the size of the caller's terminal on, whichever of the standard streams that is.
    pub fn resize(&self) {
        let size = sys::fs::window_size(stdin())
            .or_else(|_| sys::fs::window_size(stdout()))
            .or_else(|_| sys::fs::window_size(stderr()));
        if let Ok(size) = size {
            let _ = sys::fs::set_window_size(&self.master, size);
        }
    }

    /// What it waits for: the master, standard input, standard output.
    pub fn places<'a>(&'a self, input: &'a Stdin) -> [Place<'a>; 3] {
        let (typed, shown) = (&self.typed, &self.shown);
        let mut master = PollFlags::empty();
        master.set(PollFlags::POLLIN, shown.is_empty() && !self.hung_up);
        master.set(PollFlags::POLLOUT, !typed.is_empty() && !self.hung_up);
        let if_so = |is_so, events| if is_so { events } else { PollFlags::empty() };
        [
            Place::new(Some(&self.master), master),
            Place::new(Some(input), if_so(typed.is_empty() && !typed.ended, PollFlags::POLLIN)),
            Place::new(Some(&self.output), if_so(!shown.is_empty(), PollFlags::POLLOUT)),
        ]
    }

    /// For how many milliseconds it waits at most: a terminal that nobody has open is looked at now and then.
    pub fn patience(&self) -> i32 {
        if self.hung_up { 200 } else { -1 }
    }

    /// Moves what there is, by what is ready of [`Relay::places`].
    pub fn turn(&mut self, [_, input, output]: [bool; 3]) {
        if input {
            self.typed.fill(stdin());
        }
        self.typed.drain(&self.master);
        if output && !self.shown.drain(&self.output) {
            self.is_unread = true;
            self.shown.forget();
        }
        if self.shown.is_empty() {
            self.hung_up = !self.shown.fill(&self.master);
        }
        if self.is_unread {
            self.shown.forget();
        }
    }

    /// Passes on what the container wrote before it ended; `is_interrupted` is asked while the output is not taken.
    pub fn finish(&mut self, is_interrupted: impl Fn() -> bool) {
        // As much as terminals hold, for others may go on to write.
        for _ in 0..64 {
            while !self.shown.is_empty() {
                let mut places = [Place::new(Some(&self.output), PollFlags::POLLOUT)];
                let _ = sys::poll::poll(&mut places, 50);
                let is_taken = places[0].is_ready();
                if is_taken && !self.shown.drain(&self.output) || !is_taken && is_interrupted() {
                    return;
                }
            }
            if self.is_unread || !self.shown.fill(&self.master) || self.shown.is_empty() {
                return;
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, saved);
        }
    }
}

/// The standard output, where a write to it does not wait: a terminal that is full must not keep signals from the
/// container. The caller's own description of it stays as it is.
fn own_output() -> std::io::Result<OwnedFd> {
    // To open a pty's master is to make another one, and other devices may do something, too.
    let is_end =
        |stat: &FileStat| is_character(stat) && stat.st_rdev != makedev(5, 2) && isatty(stdout()).unwrap_or(false);
    let may_fill = fstat(stdout()).is_ok_and(|stat| file_type(&stat) == SFlag::S_IFIFO || is_end(&stat));
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let own = if may_fill { sys::fs::open("/proc/self/fd/1", flags).ok() } else { None };
    own.map_or_else(|| stdout().as_fd().try_clone_to_owned(), Ok)
}

/// A panic ends the program, and nothing is dropped then.
fn restore_on_panic(saved: Termios) {
    let (saved, report) = (Mutex::new(saved), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        if let Ok(saved) = saved.lock() {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, &saved);
        }
        report(panic);
    }));
}

/// One direction, with what was read and not yet written.
struct Flow {
    buffer: [u8; 4096],
    waiting: Range<usize>,
    /// Whether there is nothing more to read.
    ended: bool,
}

impl Default for Flow {
    fn default() -> Self {
        Self { buffer: [0; 4096], waiting: 0..0, ended: false }
    }
}

impl Flow {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn forget(&mut self) {
        self.waiting = 0..0;
    }

    /// Reads once; false at the end.
    fn fill(&mut self, from: impl AsFd) -> bool {
        match read(from, &mut self.buffer) {
            Ok(length) if length > 0 => self.waiting = 0..length,
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            _ => {
                self.ended = true;
                return false;
            }
        }
        true
    }

    /// Writes once; false where nobody reads any more.
    fn drain(&mut self, to: impl AsFd) -> bool {
        if self.is_empty() {
            return true;
        }
        match write(to, &self.buffer[self.waiting.clone()]) {
            Ok(length) => self.waiting.start += length,
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => return false,
        }
        true
    }
}
