//! `kelson spec`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use clap::Parser;
use nix::errno::Errno;
use serde_json::{Value, json};

use super::{Global, Verb, parser};
use crate::error::{Context, Error, Result};
use crate::state::Store;

/// Write a config.json to begin with
#[derive(Debug, Parser)]
#[command(name = "kelson spec", args_override_self = true)]
pub struct Spec {
    #[command(flatten)]
    global: Global,
    /// Directory to write to
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
}

const CONFIG: &str = include_str!("spec.json");

impl Verb for Spec {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(&self, _: &Store) -> Result<i32> {
        let path = self.bundle.join("config.json");
        let text = if parser::boolean(&self.global.rootless) == Ok(true) { rootless()? } else { CONFIG.to_owned() };
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut file =
            made.on_path("cannot make the configuration", &path).map_err(|error| match error.os_error() {
                Some(Errno::EEXIST) => error.hint("it exists already; remove it first"),
                _ => error,
            })?;
        file.write_all(text.as_bytes()).on_path("cannot write", &path)?;
        Ok(0)
    }
}

/// A user namespace with the caller's ids; and without what takes privileges: a network namespace's own sysfs,
/// cgroups, and a group for terminals.
fn rootless() -> Result<String> {
    let mut config: Value = serde_json::from_slice(CONFIG.as_bytes())
        .map_err(|error| Error::new(format!("the built-in configuration: {error}")))?;
    let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let linux = &mut config["linux"];
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    linux["uidMappings"] = map(nix::unistd::geteuid().as_raw());
    linux["gidMappings"] = map(nix::unistd::getegid().as_raw());
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        }
        // Not by index, which would make a key of it where there is none.
        if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
            options.retain(|option| option != "gid=5");
        }
    }
    let text = serde_json::to_string_pretty(&config);
    text.map(|text| text + "\n").map_err(|error| Error::new(format!("cannot write JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_configurations_are_ones_that_kelson_reads() {
        let spec: crate::spec::Spec = crate::spec::parse(CONFIG.as_bytes()).unwrap();
        assert_eq!(spec.process.unwrap().args, ["sh"]);
        let spec: crate::spec::Spec = crate::spec::parse(rootless().unwrap().as_bytes()).unwrap();
        assert_eq!(spec.linux.uid_mappings.len(), 1);
        assert!(!rootless().unwrap().contains("null"));
    }
}
