//! `kelson pause`.

use clap::Parser;

use super::{Global, Verb};
use crate::error::Result;
use crate::lifecycle;
use crate::state::Store;

/// Stop every process of a container where it is
#[derive(Debug, Parser)]
#[command(name = "kelson pause", args_override_self = true)]
pub struct Pause {
    #[command(flatten)]
    global: Global,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Verb for Pause {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, store: &Store) -> Result<i32> {
        lifecycle::pause(store, &self.id).map(|()| 0)
    }
}
