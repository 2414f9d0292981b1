//! `kelson ps`: the host's ps(1), without the processes that are not the container's.

use std::ffi::OsString;
use std::process::Command;

use clap::Parser;

use super::state::print_list;
use super::{Global, Verb};
use crate::error::{Context, Error, Result};
use crate::lifecycle;
use crate::state::Store;

/// List the processes of a container
#[derive(Debug, Parser)]
#[command(name = "kelson ps", args_override_self = true)]
pub struct Ps {
    #[command(flatten)]
    global: Global,
    /// Format: table or json
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// Options of ps(1) for the table; -ef if there are none
    #[arg(value_name = "PS OPTIONS")]
    options: Vec<OsString>,
}

impl Verb for Ps {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, store: &Store) -> Result<i32> {
        let pids = lifecycle::processes(store, &self.id)?;
        print_list(&self.format, &pids, || of_container(&self.call_ps()?, &pids)).map(|()| 0)
    }
}

impl Ps {
    fn call_ps(&self) -> Result<String> {
        let mut ps = Command::new("ps");
        if self.options.is_empty() {
            ps.arg("-ef")
        } else {
            ps.args(&self.options)
        };
        let output = ps
            .output()
            .on_path("cannot call", "ps")
            .map_err(|error| error.hint("the table is ps(1)'s: install procps, or pass --format json"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let status = output.status.code().unwrap_or(-1);
            return Err(Error::new(format!("ps ended with status {status}: {}", said.trim().replace('\n', "; "))));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The heading and the lines of these processes.
fn of_container(table: &str, pids: &[i32]) -> Result<String> {
    let (heading, rows) = table.split_once('\n').unwrap_or((table, ""));
    let Some(column) = heading.split_whitespace().position(|name| name == "PID") else {
        return Err(Error::new("what ps prints has no column PID").hint("leave it in: -o pid,…"));
    };
    let is_ours = |row: &&str| {
        let pid = row.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    Ok(std::iter::once(heading).chain(rows.lines().filter(is_ours)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_rows_stay() {
        let table = "UID  PID PPID CMD\nroot   7    1 a 8\nroot   8    1 b\n";
        assert_eq!(of_container(table, &[8]).unwrap(), "UID  PID PPID CMD\nroot   8    1 b\n");
        assert_eq!(of_container(table, &[]).unwrap(), "UID  PID PPID CMD\n");
        assert!(of_container("UID CMD\n", &[8]).is_err());
        assert!(of_container("", &[]).is_err());
    }
}
