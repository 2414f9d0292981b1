//! Namespaces: which are new, which are joined, and the id maps of a new user namespace.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::stat;
use nix::unistd::{Pid, getegid, geteuid};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, LinuxTimeOffset};

use crate::error::{Context, Error, Result};
use crate::safepath::Procfs;
use crate::spec::Linux;
use crate::sys;
use crate::sys::fs::open;
use crate::sys::process::CLONE_NEWTIME;

/// A namespace that exists already.
#[derive(Clone, Debug)]
pub struct Join {
    pub flag: u64,
    pub path: PathBuf,
    pub pointer: String,
}

/// The namespaces of a container.
#[derive(Clone, Debug, Default)]
pub struct NamespacePlan {
    /// `CLONE_NEW*` of every namespace that is made new.
    pub new: u64,
    pub joins: Vec<Join>,
    pub uid_mappings: Vec<LinuxIdMapping>,
    pub gid_mappings: Vec<LinuxIdMapping>,
    /// As /proc/self/timens_offsets takes it; empty for none.
    pub time_offsets: String,
}

/// The namespace types that cannot be made by the `clone3(2)` that makes init: a cgroup namespace is rooted at
/// the cgroup of the *caller* there, and a time namespace would be closed to offsets.
const LATE: u64 = CLONE_NEWTIME | libc::CLONE_NEWCGROUP as u64;

const fn flag_of(kind: LinuxNamespaceType) -> u64 {
    (match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => CLONE_NEWTIME as i32,
    }) as u64
}

/// Reads `linux.namespaces`, the id mappings and the time offsets.
pub fn plan(linux: &Linux) -> Result<NamespacePlan> {
    let mut plan = NamespacePlan::default();
    let mut seen = 0;
    for (index, namespace) in linux.namespaces.iter().enumerate() {
        let flag = flag_of(namespace.typ());
        let pointer = format!("/linux/namespaces/{index}");
        if seen & flag != 0 {
            return Err(Error::new(format!("a second {} namespace", namespace.typ())).pointer(pointer));
        }
        seen |= flag;
        match namespace.path() {
            Some(path) if !path.as_os_str().is_empty() => {
                if !path.is_absolute() {
                    let message = "the path of a namespace has to be absolute";
                    return Err(Error::new(message).path(path).pointer(pointer + "/path"));
                }
                plan.joins.push(Join { flag, path: path.clone(), pointer: pointer + "/path" });
            }
            _ => plan.new |= flag,
        }
    }
    plan.time_offsets = time_offsets(&linux.time_offsets, plan.has_new(CLONE_NEWTIME))?;
    plan.uid_mappings = mappings(&plan, &linux.uid_mappings, "/linux/uidMappings")?;
    plan.gid_mappings = mappings(&plan, &linux.gid_mappings, "/linux/gidMappings")?;
    Ok(plan)
}

fn mappings(plan: &NamespacePlan, mappings: &[LinuxIdMapping], pointer: &str) -> Result<Vec<LinuxIdMapping>> {
    let new_user = plan.has_new(libc::CLONE_NEWUSER as u64);
    if mappings.is_empty() && new_user {
        return Err(Error::new("a new user namespace needs id mappings").pointer(pointer));
    }
    if !mappings.is_empty() && !plan.has(libc::CLONE_NEWUSER as u64) {
        return Err(Error::new("id mappings need a user namespace").pointer(pointer));
    }
    for (index, map) in mappings.iter().enumerate() {
        let fits = |first: u32| first.checked_add(map.size()).is_some();
        if map.size() == 0 || !fits(map.host_id()) || !fits(map.container_id()) {
            return Err(Error::new("an empty or overlong range of ids").pointer(format!("{pointer}/{index}/size")));
        }
    }
    // A joined user namespace has its mappings already.
    Ok(if new_user { mappings.to_vec() } else { Vec::new() })
}

fn time_offsets(offsets: &BTreeMap<String, LinuxTimeOffset>, new: bool) -> Result<String> {
    let mut text = String::new();
    for (clock, offset) in offsets {
        let pointer = format!("/linux/timeOffsets/{clock}");
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Error::new(format!("{clock:?} has no offset")).pointer(pointer).hint("monotonic or boottime"));
        }
        if !new {
            return Err(Error::new("time offsets need a new time namespace").pointer("/linux/timeOffsets"));
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds > 999_999_999 {
            return Err(Error::new("nanosecs is below a second").pointer(pointer + "/nanosecs"));
        }
        text += &format!("{clock} {} {nanoseconds}\n", offset.secs().unwrap_or(0));
    }
    Ok(text)
}

impl NamespacePlan {
    /// Whether the container has a new namespace of this type.
    pub fn has_new(&self, flag: u64) -> bool {
        self.new & flag != 0
    }

    /// Whether the container has a namespace of this type that is not the runtime's.
    pub fn has(&self, flag: u64) -> bool {
        self.has_new(flag) || self.joined(flag).is_some()
    }

    /// The namespace of this type that is joined.
    pub fn joined(&self, flag: u64) -> Option<&Join> {
        self.joins.iter().find(|join| join.flag == flag)
    }

    /// Whether the container's namespace of this type is another than the runtime's: a path may lead to that, too.
    pub fn is_apart(&self, flag: u64) -> bool {
        let Some(join) = self.joined(flag) else { return self.has_new(flag) };
        let name = match flag as i32 {
            libc::CLONE_NEWNET => "net",
            libc::CLONE_NEWIPC => "ipc",
            libc::CLONE_NEWUTS => "uts",
            _ => "mnt",
        };
        let identity = |path: &std::path::Path| stat(path).map(crate::safepath::identity).ok();
        identity(&join.path) != identity(format!("/proc/self/ns/{name}").as_ref())
    }

    /// `CLONE_NEW*` of all that are not the runtime's.
    pub fn all(&self) -> u64 {
        self.joins.iter().fold(self.new, |flags, join| flags | join.flag)
    }

    /// Whether the container has a user namespace other than the runtime's.
    pub fn has_user(&self) -> bool {
        self.has(libc::CLONE_NEWUSER as u64)
    }

    /// Whether a process has to stand between the runtime and init: to enter namespaces that only take effect for
    /// a child, or before the user namespace takes the privileges away.
    pub fn needs_stage(&self) -> bool {
        let entered = [libc::CLONE_NEWUSER as u64, libc::CLONE_NEWPID as u64, CLONE_NEWTIME];
        self.joins.iter().any(|join| entered.contains(&join.flag))
            || self.has_new(CLONE_NEWTIME)
            || self.has_new(libc::CLONE_NEWUSER as u64) && !self.joins.is_empty()
    }

    /// `CLONE_NEW*` of those that can be made with init.
    pub fn clone_flags(&self) -> u64 {
        let made_by_stage = if self.needs_stage() { libc::CLONE_NEWUSER as u64 } else { 0 };
        self.new & !LATE & !made_by_stage
    }

    /// Opens the namespaces to join.
    pub fn open_joins(&self) -> Result<Vec<(u64, OwnedFd)>> {
        let open_one = |join: &Join| {
            let file = open(&join.path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
                .on_path("cannot open a namespace", &join.path)
                .map_err(|error| error.pointer(&*join.pointer))?;
            Ok((join.flag, file))
        };
        self.joins.iter().map(open_one).collect()
    }

    /// What went wrong with the namespace of type `flag`.
    pub fn join_refused(&self, flag: u64, errno: Errno) -> Error {
        let error = Error::new("cannot join a namespace").errno(errno);
        let Some(join) = self.joined(flag) else { return error };
        let error = error.path(&join.path).pointer(&*join.pointer);
        match errno {
            Errno::EINVAL if flag == libc::CLONE_NEWUSER as u64 => {
                error.hint("the path leads to no user namespace, or to the one that the runtime is in already")
            }
            Errno::EINVAL => error.hint("the path leads to something else than a namespace of that type"),
            _ => error,
        }
    }
}

/// Joins namespaces; those that need the privileges of a user namespace not yet entered are given back.
pub fn join(plan: &NamespacePlan, files: Vec<(u64, OwnedFd)>, may_wait: bool) -> Result<Vec<(u64, OwnedFd)>> {
    let mut waiting = Vec::new();
    for (flag, file) in files {
        match setns(&file, CloneFlags::from_bits_retain(flag as i32)) {
            Ok(()) => {}
            Err(Errno::EPERM) if may_wait => waiting.push((flag, file)),
            Err(errno) => return Err(plan.join_refused(flag, errno)),
        }
    }
    Ok(waiting)
}

/// Joins those namespaces of process `pid`, which `pidfd` refers to, that `flags` name: by one call where the kernel has
/// it. A pid namespace takes effect for children only.
pub fn enter(pidfd: &OwnedFd, pid: i32, flags: u64) -> Result<()> {
    let entered = match setns(pidfd, CloneFlags::from_bits_retain(flags as i32)) {
        // Before Linux 5.8.
        Err(Errno::EINVAL | Errno::EBADF) => enter_one_by_one(pid, flags),
        result => result,
    };
    match entered {
        Err(Errno::ESRCH) => Err(Error::new("container not running").errno(Errno::ESRCH)),
        result => result.context(|| "cannot join the container's namespaces"),
    }
}

/// The names in /proc/PID/ns, in an order in which they can be joined.
const BY_NAME: [(i32, &str); 8] = [
    (libc::CLONE_NEWCGROUP, "cgroup"),
    (libc::CLONE_NEWIPC, "ipc"),
    (libc::CLONE_NEWUTS, "uts"),
    (libc::CLONE_NEWNET, "net"),
    (libc::CLONE_NEWPID, "pid"),
    (CLONE_NEWTIME as i32, "time"),
    (libc::CLONE_NEWUSER, "user"),
    (libc::CLONE_NEWNS, "mnt"),
];

fn enter_one_by_one(pid: i32, flags: u64) -> nix::Result<()> {
    let wanted = BY_NAME.iter().filter(|(flag, _)| flags & *flag as u64 != 0);
    let mut files = Vec::new();
    for (flag, name) in wanted {
        files.push((*flag, open(format!("/proc/{pid}/ns/{name}").as_str(), OFlag::O_RDONLY)?));
    }
    // What the user namespace has the privileges for comes after it.
    let mut waiting = Vec::new();
    for (flag, file) in files {
        match setns(&file, CloneFlags::from_bits_retain(flag)) {
            Err(Errno::EPERM) if flag != libc::CLONE_NEWUSER && flag != libc::CLONE_NEWNS => waiting.push((flag, file)),
            result => result?,
        }
        if flag == libc::CLONE_NEWUSER {
            for (flag, file) in waiting.drain(..) {
                setns(&file, CloneFlags::from_bits_retain(flag))?;
            }
        }
    }
    if waiting.is_empty() { Ok(()) } else { Err(Errno::EPERM) }
}

/// Makes new namespaces for the caller (or, for a time namespace, for its children).
pub fn make(flags: u64, what: &str) -> Result<()> {
    unshare(CloneFlags::from_bits_retain(flags as i32)).map_err(|errno| refused(flags, what, errno))
}

/// What the kernel means by refusing new namespaces.
pub fn refused(flags: u64, what: &str, errno: Errno) -> Error {
    let error = Error::new(format!("cannot make {what}")).errno(errno).pointer("/linux/namespaces");
    match errno {
        Errno::EPERM if flags & libc::CLONE_NEWUSER as u64 != 0 => error.hint(
            "user namespaces may be restricted here: see kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns and seccomp filters",
        ),
        Errno::EPERM => error.hint("without root, the container needs a user namespace of its own"),
        Errno::ENOSPC | Errno::EUSERS => error.hint("see the limits in /proc/sys/user/max_*_namespaces"),
        Errno::EINVAL => error.hint("this kernel may lack one of the namespace types"),
        _ => error,
    }
}

/// Writes the offsets of the time namespace that the caller has made for its children.
pub fn write_time_offsets(offsets: &str, procfs: &Procfs) -> Result<()> {
    if offsets.is_empty() {
        return Ok(());
    }
    procfs
        .write("self/timens_offsets", offsets)
        .context(|| "cannot set the time offsets")
        .map_err(|error| error.pointer("/linux/timeOffsets"))
}

/// Writes the id maps of a process in a new user namespace: directly with the privilege to, else by the set-uid
/// helpers newuidmap(1) and newgidmap(1).
pub fn write_id_maps(plan: &NamespacePlan, pid: Pid) -> Result<()> {
    let privileged =
        sys::process::capabilities().is_ok_and(|sets| sets.effective & (1 << 7 | 1 << 6) == 1 << 7 | 1 << 6);
    let own_uid = is_own(&plan.uid_mappings, geteuid().as_raw());
    let own_gid = is_own(&plan.gid_mappings, getegid().as_raw());
    if !privileged && own_gid {
        // Without the privilege the kernel wants this first, user_namespaces(7).
        write(pid, "setgroups", "deny")?;
    }
    write_one(&plan.uid_mappings, pid, "uid_map", "newuidmap", privileged || own_uid, "/linux/uidMappings")?;
    write_one(&plan.gid_mappings, pid, "gid_map", "newgidmap", privileged || own_gid, "/linux/gidMappings")
}

/// Whether the mapping is the one that a user may write for itself: its own id and nothing else.
fn is_own(mappings: &[LinuxIdMapping], id: u32) -> bool {
    matches!(mappings, [one] if one.size() == 1 && one.host_id() == id)
}

fn write_one(maps: &[LinuxIdMapping], pid: Pid, file: &str, helper: &str, direct: bool, pointer: &str) -> Result<()> {
    if direct {
        let text: String =
            maps.iter().map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size())).collect();
        return write(pid, file, &text).map_err(|error| {
            error.pointer(pointer).hint("ranges must not overlap, and have to be mapped in the host's user namespace")
        });
    }
    let numbers = maps.iter().flat_map(|map| [map.container_id(), map.host_id(), map.size()]);
    let output = Command::new(helper)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .output()
        .on_path("cannot run the helper that maps ids", OsStr::new(helper))
        .map_err(|error| error.pointer(pointer).hint("it is in the package `uidmap` or `shadow-utils`"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let file = if helper == "newuidmap" { "/etc/subuid" } else { "/etc/subgid" };
    Err(Error::new(format!("{helper} refuses: {}", told.trim())).pointer(pointer).hint(format!("see {file}")))
}

fn write(pid: Pid, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    let opened = open(path.as_str(), OFlag::O_WRONLY).on_path("cannot open", &path)?;
    nix::unistd::write(&opened, text.as_bytes()).map(drop).on_path("the kernel refuses the id mapping", path)
}

/// Becomes the first ids of the user namespace that has been entered: those of the host mean nothing in it.
pub fn become_root_inside(procfs: &Procfs) -> Result<()> {
    let first = |file: &str| -> Option<u32> {
        use std::io::Read;
        let mut text = String::new();
        let map = procfs.open(file, OFlag::O_RDONLY).ok()?;
        std::fs::File::from(map).read_to_string(&mut text).ok()?;
        let starts = text.lines().filter_map(|line| line.split_whitespace().next()?.parse::<u32>().ok());
        starts.min()
    };
    let (uid, gid) = (first("self/uid_map").unwrap_or(0), first("self/gid_map").unwrap_or(0));
    sys::process::set_group_id(gid).context(|| "cannot become the first group of the user namespace")?;
    sys::process::set_user_id(uid).context(|| "cannot become the first user of the user namespace")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(json: &str) -> Linux {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn new_and_joined_namespaces_are_told_apart() {
        let json = r#"{"namespaces":[{"type":"pid"},{"type":"network","path":"/n"},{"type":"cgroup"},{"type":"mount","path":""}]}"#;
        let plan = plan(&linux(json)).unwrap();
        assert_eq!(plan.new, (libc::CLONE_NEWPID | libc::CLONE_NEWCGROUP | libc::CLONE_NEWNS) as u64);
        assert_eq!(plan.clone_flags(), (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64);
        assert!(!plan.needs_stage());
    }

    #[test]
    fn a_stage_stands_where_the_kernel_wants_one() {
        for json in [
            r#"{"namespaces":[{"type":"pid","path":"/p"}]}"#,
            r#"{"namespaces":[{"type":"user","path":"/u"}]}"#,
            r#"{"namespaces":[{"type":"time"}]}"#,
        ] {
            assert!(plan(&linux(json)).unwrap().needs_stage(), "{json}");
        }
    }

    #[test]
    fn impossible_namespaces_are_refused() {
        for json in [
            r#"{"namespaces":[{"type":"pid"},{"type":"pid"}]}"#,
            r#"{"namespaces":[{"type":"pid","path":"p"}]}"#,
            r#"{"namespaces":[{"type":"user"}]}"#,
            r#"{"uidMappings":[{"containerID":0,"hostID":0,"size":1}]}"#,
            r#"{"namespaces":[{"type":"user"}],"uidMappings":[{"size":0}],"gidMappings":[{"size":1}]}"#,
            r#"{"timeOffsets":{"boottime":{"secs":1}}}"#,
            r#"{"namespaces":[{"type":"time"}],"timeOffsets":{"realtime":{"secs":1}}}"#,
        ] {
            assert!(plan(&linux(json)).is_err(), "{json}");
        }
    }
}
