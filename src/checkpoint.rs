//! `checkpoint`: the processes of a container written to image files, by criu.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::stat;

use crate::criu::message::Message;
use crate::criu::service::Service;
use crate::criu::{self, Directories, Task, mounts, option};
use crate::destroy::end;
use crate::error::{Context, Error, Result};
use crate::mount::{Kind, MountPlan};
use crate::mountinfo;
use crate::namespace::Join;
use crate::plan::{self, Plan, Settings};
use crate::rootfs::mount_id;
use crate::safepath::Root;
use crate::state::{State, Status, Store};
use crate::sys::fs::open;
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
    let path = format!("/proc/{pid}/mountinfo");
    let table = fs::read(&path).on_path("cannot read the container's mounts", &path)?;
    let table: Vec<_> = mountinfo::entries(&table).collect();
    let root = format!("/proc/{pid}/root");
    let root =
        open(Path::new(&root), OFlag::O_PATH | OFlag::O_DIRECTORY).on_path("cannot open", &root).map(Root::new)?;
    let is_bind = |mount: &&MountPlan| matches!(mount.kind, Kind::Bind { .. }) && mount.link().is_none();
    let binds = plan.mounts.iter().filter(is_bind);
    let bound: BTreeSet<u64> = binds.filter_map(|mount| root.open(&mount.destination).ok()).map(mount_id).collect();
    let of_host = mounts::of_host(&table, &bound, plan.cgroup_view.namespaced);
    Ok(of_host.iter().fold(options, |options, place| mounts::add(options, place, place)))
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
