//! `kelson state`, and a container as `state` and `list` show it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Parser;
use serde::Serialize;

use super::{Global, Verb, print};
use crate::error::{Error, Result};
use crate::state::{self, Status, Store};

/// Show the state of a container, as JSON
#[derive(Debug, Parser)]
#[command(name = "kelson state", args_override_self = true)]
pub struct State {
    #[command(flatten)]
    global: Global,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Verb for State {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, store: &Store) -> Result<i32> {
        print_json(&Shown::new(store.load(&self.id)?, String::new()), true).map(|()| 0)
    }
}

/// The fields in the order and by the names that runc's readers know.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    oci_version: String,
    pub id: String,
    pub pid: i32,
    pub status: &'static str,
    pub bundle: PathBuf,
    rootfs: PathBuf,
    pub created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    pub owner: String,
}

impl Shown {
    /// What is shown of `state`.
    pub fn new(state: state::State, owner: String) -> Self {
        let status = state.status();
        let pid = state.init.filter(|_| status != Status::Stopped).map_or(0, |init| init.pid);
        Self {
            oci_version: state.oci_version,
            id: state.id,
            pid,
            status: status.name(),
            bundle: state.bundle,
            rootfs: state.rootfs,
            created: state.created,
            annotations: state.annotations,
            owner,
        }
    }
}

/// Prints JSON, indented by two or on one line.
pub fn print_json(value: &impl Serialize, indented: bool) -> Result<()> {
    let text = if indented { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    let text = text.map_err(|error| Error::new(format!("cannot write JSON: {error}")))?;
    print(text + "\n")
}

/// Prints a list in the format that `--format` names.
pub fn print_list<T: Serialize>(format: &str, items: &[T], table: impl FnOnce() -> Result<String>) -> Result<()> {
    match format {
        "table" => print(table()?),
        // What Go makes of an empty list, and its readers expect.
        "json" if items.is_empty() => print("null\n"),
        "json" => print_json(&items, false),
        other => Err(Error::new(format!("unknown format {other:?}")).hint("table or json")),
    }
}
