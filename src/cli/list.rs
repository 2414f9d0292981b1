//! `kelson list`.

use clap::Parser;

use super::state::{Shown, print_list};
use super::{Global, Verb, print};
use crate::error::Result;
use crate::state::Store;

/// List containers
#[derive(Debug, Parser)]
#[command(name = "kelson list", args_override_self = true)]
pub struct List {
    #[command(flatten)]
    global: Global,
    /// Format: table or json
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Show ids only
    #[arg(long, short)]
    quiet: bool,
}

impl Verb for List {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, store: &Store) -> Result<i32> {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let states = store.list()?.into_iter();
        let shown: Vec<_> = states
            .map(|state| {
                let owner = owner(state.owner, &users);
                Shown::new(state, owner)
            })
            .collect();
        if self.quiet {
            let ids: String = shown.iter().map(|container| format!("{}\n", container.id)).collect();
            return print(ids).map(|()| 0);
        }
        print_list(&self.format, &shown, || Ok(table(&shown))).map(|()| 0)
    }
}

/// The user's name, or `#` and the id.
fn owner(uid: u32, users: &str) -> String {
    let is_user = |line: &&str| line.split(':').nth(2) == Some(uid.to_string().as_str());
    let name = users.lines().find(is_user).and_then(|line| line.split(':').next());
    name.map_or_else(|| format!("#{uid}"), str::to_owned)
}

fn table(containers: &[Shown]) -> String {
    const MIN_WIDTH: usize = 12;
    const PADDING: usize = 3;
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(header)
        .chain(containers.iter().map(|it| {
            let bundle = it.bundle.display().to_string();
            [it.id.clone(), it.pid.to_string(), it.status.to_owned(), bundle, it.created.clone(), it.owner.clone()]
        }))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len() + PADDING).max().unwrap_or(0).max(MIN_WIDTH);
    let widths: Vec<_> = (0..5).map(width).collect();
    let line = |row: &[String; 6]| {
        let padded: String = widths.iter().zip(row).map(|(width, cell)| format!("{cell:<width$}")).collect();
        format!("{padded}{}\n", row[5])
    };
    rows.iter().map(line).collect()
}
