//! The container's unit: its name, its slice, and where systemd puts its cgroup.

use std::fs;
use std::path::{Component, Path, PathBuf};

use nix::unistd::geteuid;

use crate::cgroup::layout::{self, Hierarchy, Layout};
use crate::error::{Context, Error, Result};

/// The longest name that systemd takes.
const MAX_NAME: usize = 255;

/// A scope in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub name: String,
    pub slice: String,
}

impl Unit {
    /// Reads `cgroupsPath`, which is `slice:prefix:name` for systemd; what is missing is filled in as runc does.
    pub fn plan(cgroups_path: &str, id: &str, of_user: bool) -> Result<Self> {
        let default_slice = if of_user { "user.slice" } else { "system.slice" };
        let (slice, prefix, name) = match cgroups_path.split(':').collect::<Vec<_>>()[..] {
            [""] => ("", "kelson", id),
            [slice, prefix, name] => (slice, prefix, name),
            _ => {
                return Err(Error::new(
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups",
                )
                .path(cgroups_path)
                .hint("such as system.slice:kelson:name; a plain path is for the cgroupfs driver"));
            }
        };
        let slice = if slice.is_empty() { default_slice } else { slice };
        let unit = Self { name: format!("{prefix}-{name}.scope"), slice: slice.to_owned() };
        unit.check(name)?;
        Ok(unit)
    }

    fn check(&self, name: &str) -> Result<()> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        for text in [&self.name, &self.slice] {
            if text.len() > MAX_NAME || !text.bytes().all(fits) {
                return Err(Error::new(format!("{text:?} is no name of a unit"))
                    .hint("at most 255 letters, digits and : - _ . \\ @"));
            }
        }
        if name.is_empty() || has_suffix(name, ".slice") {
            return Err(Error::new(format!("a container's unit cannot be called {name:?}: it is a scope")));
        }
        expand(&self.slice).map(drop)
    }

    /// The directory of its cgroup in each hierarchy.
    pub fn directories(&self, layout: &Layout, of_user: bool) -> Result<Vec<PathBuf>> {
        let slices = expand(&self.slice)?;
        let init = read_cgroups("/proc/1/cgroup")?;
        let own = read_cgroups("/proc/self/cgroup")?;
        let directory = |hierarchy: &Hierarchy| {
            let system = system_root(layout::cgroup_in(hierarchy, &init));
            let root = if of_user { user_root(system, layout::cgroup_in(hierarchy, &own)) } else { system.to_owned() };
            hierarchy.mount_point.join(root).join(&slices).join(escape(&self.name))
        };
        Ok(layout.hierarchies.iter().map(directory).collect())
    }
}

fn has_suffix(name: &str, suffix: &str) -> bool {
    name.as_bytes().ends_with(suffix.as_bytes())
}

/// The path that a slice's name stands for: `a-b.slice` is in `a.slice`.
fn expand(slice: &str) -> Result<PathBuf> {
    let wrong = || Error::new(format!("{slice:?} is no name of a slice")).hint("such as machine.slice or a-b.slice");
    let name = slice.strip_suffix(".slice").ok_or_else(wrong)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    if name.split('-').any(str::is_empty) {
        return Err(wrong());
    }
    let ends = name.match_indices('-').map(|(end, _)| end).chain([name.len()]);
    Ok(ends.map(|end| escape(&format!("{}.slice", &name[..end]))).collect())
}

/// How systemd calls the cgroup of a unit: what could be taken for a file of a cgroup, or for something escaped, has a
/// `_` before it.
fn escape(unit: &str) -> String {
    const CONTROLLERS: [&str; 14] = [
        "cgroup",
        "cpu",
        "cpuacct",
        "cpuset",
        "io",
        "blkio",
        "memory",
        "devices",
        "pids",
        "bpf-firewall",
        "bpf-devices",
        "bpf-foreign",
        "bpf-socket-bind",
        "bpf-restrict-network-interfaces",
    ];
    let is_controllers = unit.split_once('.').is_some_and(|(first, _)| CONTROLLERS.contains(&first));
    if is_controllers || unit.starts_with(['_', '.']) { format!("_{unit}") } else { unit.to_owned() }
}

fn read_cgroups(path: &str) -> Result<String> {
    fs::read_to_string(path).on_path("cannot read", path)
}

/// The cgroup of the system's manager: PID 1 itself is in `init.scope` below it, on v2 and where systemd tracks
/// processes.
fn system_root(init: &Path) -> &Path {
    if init.ends_with("init.scope") { init.parent().unwrap_or(init) } else { init }
}

/// The cgroup of a user's manager: the caller is below it, or is in a session of the same user.
fn user_root(system: &Path, own: &Path) -> PathBuf {
    let is_manager = |part: &Component| {
        let name = part.as_os_str().as_encoded_bytes();
        name.starts_with(b"user@") && name.ends_with(b".service")
    };
    let parts: Vec<_> = own.components().collect();
    match parts.iter().position(is_manager) {
        Some(end) => parts[..=end].iter().collect(),
        None => {
            let uid = host_uid();
            system.join(format!("user.slice/user-{uid}.slice/user@{uid}.service"))
        }
    }
}

/// The caller's user id outside of the user namespace that a rootless engine made for it.
pub fn host_uid() -> u32 {
    let own = geteuid().as_raw();
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let outside = map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (inside, outside, count) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        own.checked_sub(inside).filter(|offset| *offset < count).and_then(|offset| outside.checked_add(offset))
    });
    outside.unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(path: &str) -> Result<(String, String)> {
        Unit::plan(path, "id", false).map(|unit| (unit.slice, unit.name))
    }

    #[test]
    fn paths_follow_the_rules_of_runc() {
        for (path, slice, name) in [
            ("", "system.slice", "kelson-id.scope"),
            ("machine.slice:libpod:abc", "machine.slice", "libpod-abc.scope"),
            (":docker:abc", "system.slice", "docker-abc.scope"),
            ("a-b.slice::abc", "a-b.slice", "-abc.scope"),
        ] {
            assert_eq!(unit(path).unwrap(), (slice.to_owned(), name.to_owned()), "{path}");
        }
        assert_eq!(Unit::plan("", "id", true).unwrap().slice, "user.slice");
        for path in ["/a/b", "a", "a:b", "a:b:c:d", "a:b:c", "a.slice:b:", "a.slice:b:c.slice", "-a.slice:b:c"] {
            assert!(unit(path).is_err(), "{path}");
        }
        for path in ["a.slice:b:../x", "a/b.slice:b:c", "a.slice:b:c d", "a.slice:b:é", "a.slice:b:c+d"] {
            assert!(unit(path).is_err(), "{path}");
        }
        assert!(unit(&format!("a.slice:b:{}", "x".repeat(300))).is_err());
    }

    #[test]
    fn a_dash_in_the_name_of_a_slice_is_a_level() {
        assert_eq!(expand("-.slice").unwrap(), Path::new(""));
        assert_eq!(expand("a.slice").unwrap(), Path::new("a.slice"));
        assert_eq!(expand("a-b-c.slice").unwrap(), Path::new("a.slice/a-b.slice/a-b-c.slice"));
        for slice in ["", ".slice", "a", "-a.slice", "a-.slice", "a--b.slice"] {
            assert!(expand(slice).is_err(), "{slice}");
        }
    }

    #[test]
    fn cgroups_have_the_escaped_names_of_their_units() {
        for (unit, cgroup) in [
            ("kelson-x.scope", "kelson-x.scope"),
            ("_k-x.scope", "__k-x.scope"),
            (".k-x.scope", "_.k-x.scope"),
            ("cpu.k-x.scope", "_cpu.k-x.scope"),
            ("cgroup.k-x.scope", "_cgroup.k-x.scope"),
            ("cpu-x.scope", "cpu-x.scope"),
            ("memory.slice", "_memory.slice"),
        ] {
            assert_eq!(escape(unit), cgroup);
        }
        assert_eq!(expand("_a-b.slice").unwrap(), Path::new("__a.slice/__a-b.slice"));
        let unit = Unit::plan("a.slice:_k:x", "id", false).unwrap();
        let layout = Layout { unified: true, hierarchies: vec![Hierarchy::unified("/sys/fs/cgroup".into())] };
        let directories = unit.directories(&layout, false).unwrap();
        assert!(directories[0].ends_with("a.slice/__k-x.scope"), "{directories:?}");
    }

    #[test]
    fn the_managers_have_their_roots() {
        assert_eq!(system_root(Path::new("init.scope")), Path::new(""));
        assert_eq!(system_root(Path::new("docker/x/init.scope")), Path::new("docker/x"));
        assert_eq!(system_root(Path::new("")), Path::new(""));
        let own = Path::new("user.slice/user-5.slice/user@5.service/app.slice/x.scope");
        assert_eq!(user_root(Path::new(""), own), Path::new("user.slice/user-5.slice/user@5.service"));
        let uid = host_uid();
        let wanted = format!("x/user.slice/user-{uid}.slice/user@{uid}.service");
        assert_eq!(user_root(Path::new("x"), Path::new("user.slice/session-1.scope")), Path::new(&wanted));
    }
}
