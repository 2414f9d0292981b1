//! `kelson resume`.

use clap::Parser;

use super::{Global, Verb};
use crate::error::Result;
use crate::lifecycle;
use crate::state::Store;

/// Let a paused container go on
#[derive(Debug, Parser)]
#[command(name = "kelson resume", args_override_self = true)]
pub struct Resume {
    #[command(flatten)]
    global: Global,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Verb for Resume {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, store: &Store) -> Result<i32> {
        lifecycle::resume(store, &self.id).map(|()| 0)
    }
}
