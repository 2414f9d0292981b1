//! `kelson start`.

use clap::Parser;

use super::create::{guard_descriptors, notify_socket};
use super::{Global, Verb};
use crate::error::Result;
use crate::lifecycle;
use crate::state::Store;

/// Start the program of a created container
#[derive(Debug, Parser)]
#[command(name = "kelson start", args_override_self = true)]
pub struct Start {
    #[command(flatten)]
    global: Global,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Verb for Start {
    fn global(&self) -> &Global {
        &self.global
    }

    fn prepare(&self) -> Result<()> {
        guard_descriptors(0)
    }

    fn run(&self, store: &Store) -> Result<i32> {
        lifecycle::start(store, &self.id, notify_socket().as_deref()).map(|()| 0)
    }
}
