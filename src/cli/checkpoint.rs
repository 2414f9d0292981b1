//! `kelson checkpoint`, and the flags that `restore` shares with it.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, Parser};

use super::create::guard_descriptors;
use super::parser::given;
use super::{Global, Verb};
use crate::checkpoint::{Request, checkpoint};
use crate::criu::message::Message;
use crate::criu::option;
use crate::error::{Error, Result};
use crate::state::Store;
use crate::sys::process::{inherited, set_close_on_exec};

/// Write the processes of a container to files, with criu
#[derive(Debug, Parser)]
#[command(name = "kelson checkpoint", args_override_self = true)]
pub struct Checkpoint {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    imaging: Imaging,
    /// Let the container go on afterwards
    #[arg(long)]
    leave_running: bool,
    /// Write only the memory, and let the container go on: what does not change need not be written again
    #[arg(long)]
    pre_dump: bool,
    /// Leave out what is under way on TCP connections
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Give files that were deleted a name again
    #[arg(long)]
    link_remap: bool,
    /// Send the pages of memory to the page server at this address
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    /// Descriptor that gets a byte when pages of memory can be asked for
    #[arg(long, value_name = "N", requires = "lazy_pages")]
    status_fd: Option<i32>,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// The flags of the verbs that run criu. Most are options of criu's of the same name.
#[derive(Args, Debug)]
pub struct Imaging {
    /// Directory of the image files
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    pub image_path: PathBuf,
    /// Directory for the log, if not that of the images
    #[arg(long, value_name = "DIR")]
    pub work_path: Option<PathBuf>,
    /// Directory of earlier images of the memory, relative to that of the images
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Keep TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Close TCP connections
    #[arg(long)]
    tcp_close: bool,
    /// Keep Unix sockets whose other end is outside
    #[arg(long)]
    ext_unix_sk: bool,
    /// Keep the terminal of a session that began outside
    #[arg(long)]
    shell_job: bool,
    /// Keep locks of files
    #[arg(long)]
    file_locks: bool,
    /// Transfer pages of memory when they are used
    #[arg(long)]
    lazy_pages: bool,
    /// Write no page of memory twice
    #[arg(long)]
    auto_dedup: bool,
    /// What becomes of cgroups: soft (as they were, if there are none), full, strict or ignore
    #[arg(long, value_name = "MODE")]
    manage_cgroups_mode: Option<String>,
    /// How the network is stopped meanwhile: iptables, nftables or skip
    #[arg(long, value_name = "METHOD")]
    network_lock: Option<String>,
    /// Leave out what is in the namespace of this type: network, which kelson always does
    #[arg(long, value_name = "TYPE")]
    empty_ns: Vec<String>,
}

/// The number of a word in one of criu's enumerations.
fn choose(flag: &str, word: &str, words: &[(&str, u64)]) -> Result<u64> {
    words.iter().find(|(name, _)| *name == word).map(|(_, number)| *number).ok_or_else(|| {
        let names: Vec<_> = words.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
        Error::new(format!("--{flag} cannot be {word:?}")).hint(format!("one of {}", names.join(", ")))
    })
}

impl Imaging {
    /// The flags as options of criu's.
    pub fn options(&self) -> Result<Message> {
        const MODES: &[(&str, u64)] = &[("", 6), ("soft", 3), ("full", 4), ("strict", 5), ("ignore", 0)];
        const LOCKS: &[(&str, u64)] = &[("iptables", 1), ("nftables", 2), ("skip", 3)];
        for kind in &self.empty_ns {
            choose("empty-ns", kind, &[("network", 0)])?;
        }
        let mode = choose("manage-cgroups-mode", self.manage_cgroups_mode.as_deref().unwrap_or_default(), MODES)?;
        let mut options = Message::default()
            .flag(option::TCP_ESTABLISHED, self.tcp_established)
            .flag(option::TCP_CLOSE, self.tcp_close)
            .flag(option::EXT_UNIX_SK, self.ext_unix_sk)
            .flag(option::SHELL_JOB, self.shell_job)
            .flag(option::FILE_LOCKS, self.file_locks)
            .flag(option::LAZY_PAGES, self.lazy_pages)
            .flag(option::AUTO_DEDUP, self.auto_dedup)
            .number(option::CGROUPS, mode)
            // Its devices and addresses are the engine's to make.
            .number(option::EMPTY_NAMESPACES, libc::CLONE_NEWNET as u64);
        if let Some(method) = &self.network_lock {
            options = options.number(option::NETWORK_LOCK, choose("network-lock", method, LOCKS)?);
        }
        if let Some(parent) = given(self.parent_path.as_ref()) {
            options = options.text(option::PARENT, parent.as_os_str().as_bytes()).flag(option::TRACK_MEMORY, true);
        }
        Ok(options)
    }
}

/// criu's description of a page server.
fn page_server(text: &str) -> Result<Message> {
    let wrong = || Error::new(format!("--page-server cannot be {text:?}")).hint("ADDRESS:PORT");
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if address.is_empty() || port == 0 {
        return Err(wrong());
    }
    Ok(Message::default().text(1, address).number(2, port.into()))
}

impl Verb for Checkpoint {
    fn global(&self) -> &Global {
        &self.global
    }

    fn prepare(&self) -> Result<()> {
        if let Some(number) = self.status_fd {
            set_close_on_exec(number, true).map_err(|errno| {
                Error::new(format!("--status-fd names the descriptor {number}, which is not open")).errno(errno)
            })?;
        }
        guard_descriptors(0)
    }

    fn run(&self, store: &Store) -> Result<i32> {
        let mut options = self
            .imaging
            .options()?
            .flag(option::LEAVE_RUNNING, self.leave_running)
            .flag(option::TCP_SKIP_IN_FLIGHT, self.tcp_skip_in_flight)
            .flag(option::LINK_REMAP, self.link_remap);
        if let Some(text) = &self.page_server {
            options = options.message(option::PAGE_SERVER, &page_server(text)?);
        }
        let request = Request {
            images: self.imaging.image_path.clone(),
            parent: given(self.imaging.parent_path.as_ref()),
            work: given(self.imaging.work_path.as_ref()),
            options: if self.pre_dump { options.flag(option::TRACK_MEMORY, true) } else { options },
            leave_running: self.leave_running,
            pre_dump: self.pre_dump,
            // Open since before this program opened any.
            status: self.status_fd.and_then(|number| inherited(number).ok()),
        };
        checkpoint(store, &self.id, request).map(|()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_server_has_an_address_and_a_port() {
        let bytes = |address: &str, port| Message::default().text(1, address).number(2, port).as_bytes().to_vec();
        assert_eq!(page_server("10.0.0.1:27277").unwrap().as_bytes(), bytes("10.0.0.1", 27277));
        assert_eq!(page_server("[::1]:1").unwrap().as_bytes(), bytes("::1", 1));
        for wrong in ["", "10.0.0.1", ":1", "a:", "a:0", "a:65536", "a:b"] {
            assert!(page_server(wrong).is_err(), "{wrong}");
        }
    }
}
