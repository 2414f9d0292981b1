//! Which hierarchies the host has, and where in them a container's cgroup belongs.

use std::fs;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use crate::error::{Context, Error, Result};
use crate::mountinfo::{self, Entry};
use crate::sys::fs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, magic_at};

/// Where every distribution mounts them.
pub const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount_point: PathBuf,
    /// v1: its controllers, or `name=…`. Empty for the unified hierarchy.
    pub controllers: Vec<String>,
    /// On a hybrid host, the unified hierarchy's: those that no v1 hierarchy has.
    pub rest: Vec<String>,
}

/// The hierarchies of the host.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Whether the unified hierarchy is the only one.
    pub unified: bool,
    pub hierarchies: Vec<Hierarchy>,
}

impl Hierarchy {
    /// The unified one, with whatever controllers.
    pub fn unified(mount_point: PathBuf) -> Self {
        Self { mount_point, controllers: Vec::new(), rest: Vec::new() }
    }

    /// Whether it is the unified one.
    pub fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Its directory's name below /sys/fs/cgroup.
    pub fn name(&self) -> String {
        self.mount_point.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Layout {
    /// The place of the hierarchy that has a controller, which v1 and v2 may call by different names. Where there is
    /// only the unified one it may lack it: that shows when it is used.
    pub fn find(&self, v1: &str, v2: &str) -> Option<usize> {
        let of_v1 = self.hierarchies.iter().position(|each| each.controllers.iter().any(|own| own == v1));
        of_v1.or_else(|| self.find_unified(v2))
    }

    /// The unified hierarchy's place, if it has the controller.
    pub fn find_unified(&self, controller: &str) -> Option<usize> {
        let has = |rest: &[String]| controller == "cgroup" || rest.iter().any(|own| own == controller);
        self.hierarchies.iter().position(|each| each.is_unified() && (self.unified || has(&each.rest)))
    }
}

/// Looks at what is mounted.
pub fn detect() -> Result<Layout> {
    if is_mounted(Path::new(MOUNT_POINT), CGROUP2_SUPER_MAGIC)? {
        let hierarchies = vec![Hierarchy::unified(MOUNT_POINT.into())];
        return Ok(Layout { unified: true, hierarchies });
    }
    let table = fs::read("/proc/self/mountinfo").on_path("cannot read", "/proc/self/mountinfo")?;
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    for hierarchy in mountinfo::entries(&table).filter_map(hierarchy_of) {
        let wanted = if hierarchy.is_unified() { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC };
        let known = hierarchies.iter().any(|other| other.mount_point == hierarchy.mount_point);
        // Something else may be mounted over it.
        if !known && is_mounted(&hierarchy.mount_point, wanted)? {
            // The unified one last: it is joined by the clone itself, the others after.
            let unified = hierarchies.iter().position(|other| other.is_unified() && !hierarchy.is_unified());
            hierarchies.insert(unified.unwrap_or(hierarchies.len()), hierarchy);
        }
    }
    if let Some(unified) = hierarchies.last_mut().filter(|last| last.is_unified()) {
        let rest = fs::read_to_string(unified.mount_point.join("cgroup.controllers")).unwrap_or_default();
        unified.rest = rest.split_whitespace().map(str::to_owned).collect();
    }
    if hierarchies.is_empty() {
        return Err(Error::new("no cgroup hierarchy is mounted")
            .path(MOUNT_POINT)
            .hint("mount cgroup2 there, or pass --cgroup-manager disabled"));
    }
    Ok(Layout { unified: false, hierarchies })
}

/// Whether a file system of this kind is at `path`. What cannot be told is an error: without a hierarchy its limits
/// would be missing.
fn is_mounted(path: &Path, magic: i64) -> Result<bool> {
    match magic_at(path) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => Ok(false),
        found => found.map(|found| found == magic).on_path("cannot look at what is mounted", path),
    }
}

/// The hierarchy that a mount is, if it is one below /sys/fs/cgroup.
fn hierarchy_of(Entry { mount_point, file_system, options, .. }: Entry) -> Option<Hierarchy> {
    if !mount_point.starts_with(MOUNT_POINT) {
        return None;
    }
    let options = std::str::from_utf8(options).ok()?;
    let is_generic = |option: &&str| {
        matches!(
            *option,
            "rw" | "ro" | "relatime" | "xattr" | "noprefix" | "clone_children" | "cpuset_v2_mode" | "none"
        ) || option.starts_with("release_agent=")
            || option.starts_with("seclabel")
    };
    let controllers = match file_system {
        b"cgroup2" => Vec::new(),
        b"cgroup" => options.split(',').filter(|option| !is_generic(option)).map(str::to_owned).collect(),
        _ => return None,
    };
    Some(Hierarchy { mount_point, controllers, rest: Vec::new() })
}

/// The container's directory in each hierarchy (ENGINES.md, "cgroupsPath"): an absolute path counts from the
/// hierarchy's root. A relative one counts, on v1, from the caller's own cgroup; on v2 from the parent of that, since
/// a cgroup with processes cannot have children with controllers.
pub fn container_directories(layout: &Layout, path: &Path) -> Result<Vec<PathBuf>> {
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(Error::new("a cgroup's path cannot hold `..`").path(path));
    }
    if path.as_os_str().as_encoded_bytes().iter().any(|byte| matches!(byte, 0 | b'\n')) {
        return Err(Error::new("a cgroup's path cannot hold a NUL byte or a newline"));
    }
    let below = path.strip_prefix("/").unwrap_or(path);
    // `.` would be the caller's own.
    if !below.components().any(|component| matches!(component, Component::Normal(_))) {
        return Err(Error::new("the root of a hierarchy cannot be a container's cgroup").path(path));
    }
    let own = if path.is_absolute() { String::new() } else { own_cgroups()? };
    let directory = |hierarchy: &Hierarchy| {
        let base = if path.is_absolute() { PathBuf::new() } else { base_for(hierarchy, &own, layout.unified) };
        hierarchy.mount_point.join(base).join(below)
    };
    Ok(layout.hierarchies.iter().map(directory).collect())
}

fn own_cgroups() -> Result<String> {
    fs::read_to_string("/proc/self/cgroup").on_path("cannot read", "/proc/self/cgroup")
}

/// The cgroup, relative to the hierarchy's root, that a text such as `/proc/self/cgroup` has for it.
pub fn cgroup_in<'a>(hierarchy: &Hierarchy, text: &'a str) -> &'a Path {
    let path = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let mut names = controllers.split(',').filter(|name| !name.is_empty());
        let is_it = match &hierarchy.controllers[..] {
            [] => controllers.is_empty(),
            own => names.any(|name| own.iter().any(|other| other == name)),
        };
        is_it.then_some(path)
    });
    let path = Path::new(path.unwrap_or("/"));
    path.strip_prefix("/").unwrap_or(path)
}

/// The directory, relative to the mount point, below which a relative path lies.
fn base_for(hierarchy: &Hierarchy, own: &str, unified: bool) -> PathBuf {
    let path = cgroup_in(hierarchy, own);
    // Outside its own cgroup namespace a path begins with `..`.
    if path.components().any(|component| component == Component::ParentDir) {
        return PathBuf::new();
    }
    if unified { path.parent().unwrap_or(Path::new("")).to_owned() } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(line: &str) -> Option<Hierarchy> {
        mountinfo::entries(line.as_bytes()).find_map(hierarchy_of)
    }

    fn v1(controllers: &str) -> Hierarchy {
        let controllers: Vec<_> = controllers.split(',').map(str::to_owned).collect();
        Hierarchy { mount_point: Path::new(MOUNT_POINT).join(controllers.join(",")), controllers, rest: Vec::new() }
    }

    #[test]
    fn mountinfo_is_read() {
        let cpu = "33 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct";
        assert_eq!(hierarchy(cpu), Some(v1("cpu,cpuacct")));
        let named = "31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd";
        assert_eq!(hierarchy(named).unwrap().controllers, ["name=systemd"]);
        let unified = "30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate";
        assert!(hierarchy(unified).unwrap().is_unified());
        assert_eq!(hierarchy("30 25 0:26 / /mnt/cgroup rw - cgroup2 cgroup2 rw"), None);
        assert_eq!(hierarchy("30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw"), None);
    }

    #[test]
    fn paths_follow_the_rules_of_runc() {
        let layout = Layout { unified: false, hierarchies: vec![v1("memory"), v1("cpu,cpuacct")] };
        let absolute = container_directories(&layout, Path::new("/a/b")).unwrap();
        assert_eq!(absolute[0], Path::new("/sys/fs/cgroup/memory/a/b"));
        let own = "5:memory:/user/me\n4:cpu,cpuacct:/cpu\n0::/session/scope\n";
        assert_eq!(base_for(&layout.hierarchies[0], own, false), Path::new("user/me"));
        assert_eq!(base_for(&layout.hierarchies[1], own, false), Path::new("cpu"));
        let unified = Hierarchy::unified(MOUNT_POINT.into());
        assert_eq!(base_for(&unified, own, true), Path::new("session"));
        assert_eq!(base_for(&unified, own, false), Path::new("session/scope"));
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        let layout = Layout { unified: false, hierarchies: vec![v1("memory")] };
        for path in ["/../x", "a/../../b", "/", ".", "/.", "/a\n"] {
            assert!(container_directories(&layout, Path::new(path)).is_err(), "{path}");
        }
    }
}
