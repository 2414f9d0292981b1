//! `checkpoint`: the processes of a container written to image files, by criu.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::stat;

use crate::criu::message::Message;
use crate::criu::mounts::{self, Bind, COVER, is_part};
use crate::criu::service::Service;
use crate::criu::{self, Directories, Task, option};
use crate::destroy::end;
use crate::error::{Context, Error, Result};
use crate::mount::{Kind, MountPlan, cgroupfs};
use crate::mountinfo;
use crate::namespace::Join;
use crate::plan::{self, Plan, Settings};
use crate::rootfs::mount_id;
use crate::safepath::Root;
use crate::state::{State, Status, Store};
use crate::sys::fs::{canonical, open};
use crate::sys::process::clone;

/// What is asked for.
pub struct Request {
    pub images: PathBuf,
    /// Earlier images, by a path that counts from the images.
    pub parent: Option<PathBuf>,
    /// Where the log goes, if not to the images.
    pub work: Option<PathBuf>,
    /// What the flags come to.
    pub options: Message,
    /// Whether the container goes on afterwards.
    pub leave_running: bool,
    /// Whether only the memory is written, to make a later checkpoint short.
    pub pre_dump: bool,
    /// Gets a byte when the pages of memory can be asked for.
    pub status: Option<OwnedFd>,
}

/// Writes a container's processes to files. Afterwards the container is gone, if it is not to go on.
pub fn checkpoint(store: &Store, id: &str, mut request: Request) -> Result<()> {
    let container = store.open(id)?;
    let state = container.load()?;
    let status = state.status();
    if !matches!(status, Status::Running | Status::Paused) {
        let message = format!("cannot checkpoint a container that is {}", status.name());
        return Err(Error::new(message).hint("it has to be running or paused"));
    }
    let pid = state.init.map_or(0, |init| init.pid);
    let program = criu::program()?;
    let settings = Settings { manager: state.cgroup.manager, ..Settings::default() };
    let plan = plan::plan(&store.spec(id)?, id, &state.bundle, &settings)?;
    check(&plan)?;
    let log = if request.pre_dump { "pre-dump.log" } else { "dump.log" };
    let directories = Directories::make(&request.images, request.work.as_deref(), log)?;
    request.parent.as_deref().map_or(Ok(()), |parent| check_parent(&request.images, parent))?;
    let mut options = directories.options(std::mem::take(&mut request.options));
    options = criu::configure(describe(options, &state, pid), &state.annotations);
    if !request.pre_dump {
        options = describe_mounts(options, &plan, pid)?;
        criu::keep_streams(&directories.path, pid)?;
    }
    for join in &plan.namespaces.joins {
        options = describe_joined(options, join)?;
    }
    let task = if request.pre_dump { Task::PreDump } else { Task::Dump };
    let service = Service::launch(&program, &[], || Ok((clone(0, None)?, Vec::new())), |_, _| Ok(()))?;
    let result = service.begin(false).and_then(|()| {
        service.ask(task, &options, &mut |notification| {
            if let Some(status) = request.status.take().filter(|_| notification.point == "status-ready") {
                nix::unistd::write(&status, b"\0").context(|| "cannot write to --status-fd")?;
            }
            Ok(())
        })
    });
    service.end();
    result.map_err(|error| directories.explain(error))?;
    if request.leave_running || request.pre_dump { Ok(()) } else { end(&container, &state) }
}

fn check_parent(images: &Path, parent: &Path) -> Result<()> {
    if parent.is_absolute() {
        return Err(Error::new("--parent-path has to be relative to --image-path").path(parent));
    }
    let place = images.join(parent);
    if place.is_dir() { Ok(()) } else { Err(Error::new("--parent-path is no directory").path(place)) }
}

/// What criu would leave out.
fn check(plan: &Plan) -> Result<()> {
    let Some(mount) = plan.mounts.iter().find(|mount| mount.id_map.is_some()) else { return Ok(()) };
    Err(Error::new("an idmapped mount cannot be checkpointed: criu does not keep the mapping")
        .path(&mount.destination)
        .pointer(format!("/mounts/{}", mount.index)))
}

fn describe(options: Message, state: &State, pid: i32) -> Message {
    let freezer = state.cgroup.freezer_directory().map(|directory| directory.as_os_str().as_bytes());
    options
        .number(option::PID, pid as u64)
        .text(option::ROOT, state.rootfs.as_os_str().as_bytes())
        .flag(option::NOTIFY, true)
        .flag(option::PTS_MASTER, true)
        .optional(option::FREEZE_CGROUP, freezer)
}

/// Names the mounts that are the host's.
fn describe_mounts(options: Message, plan: &Plan, pid: i32) -> Result<Message> {
    let (table, host) = (read_table(&pid.to_string())?, read_table("self")?);
    let (table, host): (Vec<_>, Vec<_>) = (mountinfo::entries(&table).collect(), mountinfo::entries(&host).collect());
    let root = format!("/proc/{pid}/root");
    let root =
        open(Path::new(&root), OFlag::O_PATH | OFlag::O_DIRECTORY).on_path("cannot open", &root).map(Root::new)?;
    let mount_at = |path: &Path| {
        let id = mount_id(root.open(path).ok()?);
        table.iter().find(|entry| entry.id == id)
    };
    let of_host = mounts::of_host(&table, &host, &binds(plan, |path| mount_at(path).map(|entry| &*entry.mount_point)))?;
    let options = of_host.iter().fold(options, |options, place| mounts::add(options, place, place));
    let masks = plan.rootfs.masked.iter().filter_map(|path| mount_at(path)).filter(|mask| is_part(mask, &table));
    let masks = masks.filter(|mask| mask.mount_point != Path::new("/") && !of_host.contains(&mask.mount_point));
    Ok(masks.fold(options, |options, mask| mounts::add(options, &mask.mount_point, Path::new(COVER))))
}

fn read_table(process: &str) -> Result<Vec<u8>> {
    let path = format!("/proc/{process}/mountinfo");
    fs::read(&path).on_path("cannot read the table of mounts", path)
}

/// The binds of the host's that a container has; `place` tells the mount point of what is at a path.
fn binds<'a>(plan: &Plan, place: impl Fn(&Path) -> Option<&'a Path>) -> Vec<Bind> {
    let of_mount = |mount: &MountPlan| match &mount.kind {
        Kind::Bind { source, recursive } if mount.link().is_none() => {
            let source = canonical(source).unwrap_or_else(|_| source.clone());
            let bind = |place: &Path| Bind { place: place.into(), source, recursive: *recursive };
            place(&mount.destination).map(bind).into_iter().collect()
        }
        Kind::Cgroup { .. } => host_cgroups(mount, plan),
        _ => Vec::new(),
    };
    let root = Bind { place: "/".into(), source: plan.rootfs.path.clone(), recursive: true };
    let devices = plan.devices.iter().flatten().filter(|_| plan.namespaces.has_user());
    let devices =
        devices.map(|device| Bind { place: device.path.clone(), source: device.path.clone(), recursive: false });
    plan.mounts.iter().flat_map(of_mount).chain([root]).chain(devices).collect()
}

/// What a container without a cgroup namespace sees of the host's cgroups by a cgroup mount.
pub fn host_cgroups(mount: &MountPlan, plan: &Plan) -> Vec<Bind> {
    let bind = |part: MountPlan| match part.kind {
        Kind::Bind { source, recursive } => Some(Bind { place: part.destination, source, recursive }),
        _ => None,
    };
    let ways = if plan.cgroup_view.namespaced { Vec::new() } else { cgroupfs::expand(mount, &plan.cgroup_view) };
    ways.into_iter().flatten().filter_map(bind).collect()
}

/// The names under which criu is told of network and pid namespaces that are not the container's own.
pub fn external_namespace(join: &Join) -> Option<(&'static str, &'static str)> {
    match join.flag as i32 {
        libc::CLONE_NEWNET => Some(("net", "extRootNetNS")),
        libc::CLONE_NEWPID => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

fn describe_joined(options: Message, join: &Join) -> Result<Message> {
    let Some((kind, name)) = external_namespace(join) else { return Ok(options) };
    let number = stat(&join.path).on_path("cannot look at a namespace", &join.path)?.st_ino;
    Ok(options.text(option::EXTERNAL, format!("{kind}[{number}]:{name}")))
}
