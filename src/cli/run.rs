//! `kelson run`.

use clap::Parser;

use super::create::Making;
use super::{Global, Verb};
use crate::create::Request;
use crate::error::Result;
use crate::run::{Options, run};
use crate::state::Store;

/// Create and start a container, and wait for its end
#[derive(Debug, Parser)]
#[command(name = "kelson run", args_override_self = true)]
pub struct Run {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    making: Making,
    /// Do not wait for the end
    #[arg(long, short)]
    detach: bool,
    /// Keep the container's state after its end
    #[arg(long)]
    keep: bool,
    /// Do not become the reaper of the container's processes
    #[arg(long)]
    no_subreaper: bool,
}

impl Verb for Run {
    fn global(&self) -> &Global {
        &self.global
    }

    fn prepare(&self) -> Result<()> {
        self.making.prepare()
    }

    fn run(&self, store: &Store) -> Result<i32> {
        let request = Request { detached: self.detach, ..self.making.request(&self.global)? };
        run(store, request, Options { detach: self.detach, keep: self.keep, no_subreaper: self.no_subreaper })
    }
}
