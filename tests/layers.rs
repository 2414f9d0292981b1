//! The layers of docs/architecture.md: a module imports from layers below its own, and from no sibling.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Layer by layer, the lowest first. Modules of one layer do not import each other.
const LAYERS: &[&[&str]] = &[
    &["sys"],
    &["error"],
    &["safepath", "wire", "log", "mountinfo", "spec", "trace"],
    &[
        "cgroup",
        "criu",
        "device",
        "hook",
        "lsm",
        "mount",
        "namespace",
        "netdev",
        "notify",
        "numa",
        "process",
        "rdt",
        "rootfs",
        "seal",
        "seccomp",
        "sysctl",
        "tty",
    ],
    &["confinement", "foreground"],
    &["plan", "state"],
    &["destroy", "init"],
    &["checkpoint", "create", "events", "lifecycle", "update"],
    &["exec", "restore", "run"],
    &["cli"],
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The top-level modules that `text` names with `crate::`, in the code above its unit tests.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut names = Vec::new();
    for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for rest in line.split("crate::").skip(1) {
            let list = rest.strip_prefix('{').map_or(vec![rest], |list| list.split(',').collect());
            let name = |item: &str| item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            names.extend(list.into_iter().map(name).filter(|name: &String| !name.is_empty()));
        }
    }
    names
}

#[test]
fn modules_import_only_from_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let level: BTreeMap<_, _> =
        LAYERS.iter().enumerate().flat_map(|(level, names)| names.iter().map(move |name| (*name, level))).collect();
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let Some(own) = level.get(module) else {
            assert!(matches!(module, "lib" | "main"), "{module} is in no layer");
            continue;
        };
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            let Some(other) = level.get(import.as_str()) else { continue };
            let fine = import == module || other < own;
            if !fine {
                wrong.push(format!("{} imports {import}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_stays_in_sys() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let outside = files.iter().filter(|file| !file.starts_with(root.join("sys")));
    let guilty: Vec<_> = outside
        .filter(|file| fs::read_to_string(file).unwrap().lines().any(|line| line.contains("unsafe {")))
        .collect();
    assert!(guilty.is_empty(), "{guilty:?}");
}
