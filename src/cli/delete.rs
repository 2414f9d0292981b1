//! `kelson delete`.

use clap::Parser;

use super::create::guard_descriptors;
use super::{Global, Verb};
use crate::error::Result;
use crate::lifecycle;
use crate::state::Store;

/// Delete a container, and everything that was made for it
#[derive(Debug, Parser)]
#[command(name = "kelson delete", args_override_self = true)]
pub struct Delete {
    #[command(flatten)]
    global: Global,
    /// Delete it in whatever state it is, and kill what still runs
    #[arg(long, short)]
    force: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Verb for Delete {
    fn global(&self) -> &Global {
        &self.global
    }

    fn prepare(&self) -> Result<()> {
        guard_descriptors(0)
    }

    fn run(&self, store: &Store) -> Result<i32> {
        lifecycle::delete(store, &self.id, self.force).map(|()| 0)
    }
}
