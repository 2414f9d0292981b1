//! `kelson create`, and the flags that `run` shares with it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser};

use super::parser::given;
use super::{Global, Verb};
use crate::create::{Request, create};
use crate::error::{Error, Result};
use crate::plan::Settings;
use crate::state::Store;
use crate::sys::process::{close_on_exec_from, set_close_on_exec};

/// Create a container: everything but the start of its program
#[derive(Debug, Parser)]
#[command(name = "kelson create", args_override_self = true)]
pub struct Create {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    making: Making,
}

/// Where a new container comes from, and whom it is told to.
#[derive(Args, Debug)]
pub struct Places {
    /// Directory with config.json
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Write the id of the container's first process to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Socket that takes the terminal's descriptor
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
}

/// The flags of the verbs that make a container.
#[derive(Args, Debug)]
pub struct Making {
    #[command(flatten)]
    places: Places,
    /// Socket that takes a descriptor of the container's first process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Change the root without pivoting: for hosts that run from a ramdisk
    #[arg(long)]
    no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Pass this many descriptors from 3 on to the program
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Making {
    /// Guards the descriptors: while every open one is the caller's.
    pub fn prepare(&self) -> Result<()> {
        guard_descriptors(self.preserved()?)
    }

    /// How many descriptors from 3 on the program gets.
    fn preserved(&self) -> Result<u32> {
        let count = self.preserve_fds.checked_add(socket_activation()).filter(|count| *count < 65_536);
        count.ok_or_else(|| Error::new("too many descriptors are to be passed on").hint(WHO_PASSES))
    }

    /// The flags as a request.
    pub fn request(&self, global: &Global) -> Result<Request> {
        let listen_fds = socket_activation();
        let extra_env = match listen_fds {
            0 => Vec::new(),
            count => vec![format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()],
        };
        Ok(Request {
            id: self.id.clone(),
            bundle: self.places.bundle.clone(),
            settings: Settings {
                no_pivot: self.no_pivot,
                no_new_keyring: self.no_new_keyring,
                manager: global.manager()?,
            },
            pid_file: given(self.places.pid_file.as_ref()),
            console_socket: given(self.places.console_socket.as_ref()),
            pidfd_socket: given(self.pidfd_socket.as_ref()),
            preserve_fds: self.preserved()?,
            manager: notify_socket(),
            extra_env,
            ..Request::default()
        })
    }
}

/// What a descriptor may be passed on by.
const WHO_PASSES: &str = "--preserve-fds and, of `create` and `run`, LISTEN_FDS say how many there are from 3 on";

/// Nothing that the caller left open reaches a hook or the container by accident; what is to be passed on has to
/// be open now.
pub fn guard_descriptors(preserve_fds: u32) -> Result<()> {
    for number in 3..3 + preserve_fds.min(65_536) {
        set_close_on_exec(number as i32, true).map_err(|errno| {
            Error::new(format!("descriptor {number}, which is to be passed on, is not open"))
                .errno(errno)
                .hint(WHO_PASSES)
        })?;
    }
    if close_on_exec_from(3).is_err() {
        close_on_exec_one_by_one();
    }
    Ok(())
}

/// Before Linux 5.9 and 5.11.
fn close_on_exec_one_by_one() {
    let numbers = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        let _ = set_close_on_exec(number, true);
    }
}

/// Where the service manager of the caller's wants to be told of what it starts, sd_notify(3).
pub fn notify_socket() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty())
}

/// How many sockets were passed by systemd's protocol, sd_listen_fds(3), if they are meant for this process.
fn socket_activation() -> u32 {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") == Some(std::process::id()) { number("LISTEN_FDS").unwrap_or(0) } else { 0 }
}

impl Verb for Create {
    fn global(&self) -> &Global {
        &self.global
    }

    fn prepare(&self) -> Result<()> {
        self.making.prepare()
    }

    fn run(&self, store: &Store) -> Result<i32> {
        let request = self.making.request(&self.global)?;
        create(store, &Request { detached: true, ..request })?;
        Ok(0)
    }
}
