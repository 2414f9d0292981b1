//! `kelson restore`.

use clap::Parser;

use super::checkpoint::Imaging;
use super::create::{Places, guard_descriptors};
use super::parser::given;
use super::{Global, Verb};
use crate::criu::option;
use crate::error::Result;
use crate::log;
use crate::plan::Settings;
use crate::restore::{Request, restore};
use crate::state::Store;

/// Create a container from a checkpoint, and wait for its end
#[derive(Debug, Parser)]
#[command(name = "kelson restore", args_override_self = true)]
pub struct Restore {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    imaging: Imaging,
    #[command(flatten)]
    places: Places,
    /// Do not wait for the end
    #[arg(long, short)]
    detach: bool,
    /// Do not become the reaper of the container's processes
    #[arg(long)]
    no_subreaper: bool,
    /// For hosts that run from a ramdisk: criu cannot do without pivoting
    #[arg(long)]
    no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// LSM profile for the processes, if not the one they had: TYPE:NAME
    #[arg(long, value_name = "PROFILE")]
    lsm_profile: Option<String>,
    /// LSM context for mounts, if not the one they had
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Verb for Restore {
    fn global(&self) -> &Global {
        &self.global
    }

    fn prepare(&self) -> Result<()> {
        guard_descriptors(0)
    }

    fn run(&self, store: &Store) -> Result<i32> {
        if self.no_pivot {
            log::warn("--no-pivot has no effect on a restore: criu enters the rootfs by pivot_root(2)");
        }
        let options = self
            .imaging
            .options()?
            .optional(option::LSM_PROFILE, self.lsm_profile.as_ref())
            .optional(option::LSM_MOUNT_CONTEXT, self.lsm_mount_context.as_ref());
        restore(
            store,
            &Request {
                id: self.id.clone(),
                bundle: self.places.bundle.clone(),
                settings: Settings {
                    no_new_keyring: self.no_new_keyring,
                    manager: self.global.manager()?,
                    no_pivot: false,
                },
                images: self.imaging.image_path.clone(),
                work: given(self.imaging.work_path.as_ref()),
                options,
                pid_file: given(self.places.pid_file.as_ref()),
                console_socket: given(self.places.console_socket.as_ref()),
                detach: self.detach,
                no_subreaper: self.no_subreaper,
            },
        )
    }
}
