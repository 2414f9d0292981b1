//! `restore`: a container made from the files of a checkpoint. kelson makes its cgroups and mount points, criu its
//! processes, as children of this one.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::stat;
use nix::unistd::{Pid, fchdir};

use crate::cgroup;
use crate::checkpoint::{external_namespace, host_cgroups};
use crate::create::{self, check_interrupt, enter_resource_group, enter_scope, write_pid_file};
use crate::criu::message::Message;
use crate::criu::mounts::{self, Bind, COVER};
use crate::criu::service::{Notification, Service};
use crate::criu::{self, Directories, Task, option};
use crate::destroy::remove_ended;
use crate::error::{Context, Error, Result};
use crate::foreground::Foreground;
use crate::mount::source::clone_path;
use crate::mount::{Kind, MountPlan, attach};
use crate::plan::{self, Plan, Settings};
use crate::rootfs::{self, RootfsPlan};
use crate::safepath::{Leaf, Places, Procfs, Root, descriptor_path};
use crate::spec::Spec;
use crate::state::{Container, Init, State, Store};
use crate::sys::fs::{canonical, open};
use crate::sys::interrupt::{self, Awaited};
use crate::sys::mount::set_propagation;
use crate::sys::process::{CLONE_NEWTIME, inherited};
use crate::trace::step;
use crate::wire::{Wire, send_descriptors};
use crate::{log, mountinfo, namespace, process, tty};

/// What is asked for.
pub struct Request {
    pub id: String,
    pub bundle: PathBuf,
    pub settings: Settings,
    pub images: PathBuf,
    /// Where the log goes, if not to the images.
    pub work: Option<PathBuf>,
    /// What the flags come to.
    pub options: Message,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub detach: bool,
    pub no_subreaper: bool,
}

/// Restores a container. In the foreground its exit code is returned: 128 and the signal's number where it was killed.
pub fn restore(store: &Store, request: &Request) -> Result<i32> {
    let bundle = canonical(&request.bundle).on_path("cannot find the bundle", &request.bundle)?;
    let (spec, config) = Spec::load(&bundle)?;
    let plan = plan::plan(&spec, &request.id, &bundle, &request.settings)?;
    let program = criu::program()?;
    let has_terminal = plan.process.as_ref().is_some_and(|process| process.terminal);
    let (terminal, console) = tty::console(has_terminal, request.console_socket.as_deref(), request.detach)?;
    let mut foreground = if request.detach { None } else { Some(Foreground::of_container(request.no_subreaper)?) };
    interrupt::catch();
    let mut container = store.reserve(&request.id)?;
    let mut state = State { is_restored: true, ..create::first_state(&request.id, bundle, spec, &plan) };
    let made = container.keep_config(&config).and_then(|()| {
        let pid = make(&container, &mut state, (&plan, request), &program, console.as_ref())?;
        request.pid_file.as_deref().map_or(Ok(()), |path| write_pid_file(path, pid))?;
        check_interrupt().map(|()| pid)
    });
    let pid = create::or_undo(&container, &state, made)?;
    interrupt::hold();
    drop(console);
    let taken = foreground.as_mut().map_or(Ok(()), |foreground| foreground.take_terminal(terminal));
    create::or_undo(&container, &state, taken)?;
    container.unlock();
    log::flush();
    let Some(foreground) = foreground else { return Ok(0) };
    let code = foreground.wait(pid);
    remove_ended(store, &state)?;
    Ok(code)
}

fn make(
    container: &Container,
    state: &mut State,
    (plan, request): (&Plan, &Request),
    program: &Path,
    console: Option<&OwnedFd>,
) -> Result<Pid> {
    step("cgroup", plan.cgroup.check_unused())?;
    state.cgroup = step("cgroup", plan.cgroup.state())?;
    step("state", container.save(state))?;
    let mut scope = step("cgroup", plan.cgroup.connect())?;
    // criu itself takes more processes than the container may have.
    let cgroups = step("cgroup", plan.cgroup.make(&mut state.cgroup, true))?;
    let joined = step("namespaces", plan.namespaces.open_joins())?;
    let kept: Vec<OwnedFd> = joined.into_iter().map(|(_, file)| file).collect();
    let options = criu::inherited_pipes(request.options.clone(), &request.images)?
        .flag(option::NOTIFY, true)
        .flag(option::PTS_MASTER, true)
        .flag(option::EVASIVE_DEVICES, true)
        .flag(option::AS_SIBLING, true)
        .text(option::ROOT, plan.rootfs.path.as_os_str().as_bytes());
    let options = criu::configure(join_namespaces(options, plan, &kept)?, &state.annotations);
    let prepare = |wire: &Wire, files: &[OwnedFd]| {
        drop(container.lock_descriptor().map(inherited));
        if plan.waits_for_scope() {
            wire.wait_for_go()?;
        }
        cgroup::join(files)?;
        plan.confinement.join_keyring(&Procfs::host()?)
    };
    // The mounts that criu needs are made where nobody else sees them; there it mounts more, below its own directory.
    let (directories, service, options) = apart(|| {
        let directories = Directories::open(&request.images, request.work.as_deref(), "restore.log")?;
        let sources = step("mounts", prepare_mounts(plan))?;
        let add = |options, (place, source): &(PathBuf, PathBuf)| mounts::add(options, place, source);
        let options = sources.iter().fold(directories.options(options), add);
        let service = Service::launch(program, &kept, || cgroups.clone_into(0), prepare)?;
        Ok((directories, service, options))
    })?;
    let result = serve(container, state, plan, &service, &mut scope, options, console);
    service.end();
    let pid = result.map_err(|error| directories.explain(error))?;
    step("cgroup", plan.cgroup.limit_processes())?;
    step("intelRdt", enter_resource_group(container, plan, pid, state))?;
    Ok(Pid::from_raw(pid))
}

/// Asks criu for the processes, and does what is this program's in between.
fn serve(
    container: &Container,
    state: &mut State,
    plan: &Plan,
    service: &Service,
    scope: &mut Option<cgroup::systemd::Starting>,
    options: Message,
    console: Option<&OwnedFd>,
) -> Result<i32> {
    let _awaited = Awaited::new(service.pidfd.as_ref());
    if let Some(scope) = scope {
        enter_scope(plan, service.pid, scope, state)?;
    }
    service.begin(plan.waits_for_scope())?;
    let options = name_cgroups(options, service.pid)?;
    service.ask(Task::Restore, &options, &mut |notification| {
        let Notification { point, pid, descriptor } = notification;
        match (point, descriptor) {
            ("setup-namespaces", _) => {
                state.init = Some(Init::of(pid)?);
                container.save(state)?;
                create::run_runtime_hooks(plan, state)
            }
            ("post-restore", _) => settle(container, state, pid),
            ("pre-resume", _) => check_privileges(plan, state),
            ("orphan-pts-master", Some(master)) => console.map_or(Ok(()), |console| {
                send_descriptors(console, b"/dev/ptmx", &[master.as_raw_fd()])
                    .context(|| "cannot send the terminal's descriptor")
            }),
            _ => Ok(()),
        }
    })
}

/// Notes that the processes are there.
fn settle(container: &Container, state: &mut State, pid: i32) -> Result<()> {
    state.init = Some(Init::of(pid)?);
    state.is_ready = true;
    // criu gives them a time namespace, so that their clocks go on where they stopped.
    let time = |process: &str| stat(format!("/proc/{process}/ns/time").as_str()).map(|stat| stat.st_ino).ok();
    if time(&pid.to_string()) != time("self") {
        state.namespaces |= CLONE_NEWTIME;
    }
    container.save(state)
}

/// An error if the images give the first process more than the configuration does. It does not run then: criu cannot do
/// without it, but once let go it stops, until the container is ended.
fn check_privileges(plan: &Plan, state: &State) -> Result<()> {
    let (Some(process), Some(init)) = (&plan.process, state.init) else { return Ok(()) };
    process::restored::check(process, plan.confinement.seccomp.is_some(), init.pid).inspect_err(|_| {
        let _ = init.signal(libc::SIGSTOP);
    })
}

/// Has criu put the processes into the cgroups that its own process is in.
fn name_cgroups(options: Message, pid: Pid) -> Result<Message> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).on_path("cannot read", path)?;
    let fields = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    Ok(fields.fold(options, |options, (controllers, path)| {
        options.message(option::CGROUP_ROOT, &Message::default().text(1, controllers).text(2, path))
    }))
}

/// Names the namespaces that exist already, whose descriptors are `files`.
fn join_namespaces(mut options: Message, plan: &Plan, files: &[OwnedFd]) -> Result<Message> {
    for (join, file) in plan.namespaces.joins.iter().zip(files) {
        let number = file.as_raw_fd() as u64;
        if let Some((_, name)) = external_namespace(join) {
            options = options.message(option::INHERITED, &Message::default().text(1, name).number(2, number));
            continue;
        }
        let kind = match join.flag as i32 {
            libc::CLONE_NEWIPC => "ipc",
            libc::CLONE_NEWUTS => "uts",
            libc::CLONE_NEWUSER => "user",
            libc::CLONE_NEWNS => "mnt",
            _ => {
                return Err(Error::new("criu cannot restore into a namespace of this type that exists already")
                    .path(&join.path)
                    .pointer(&*join.pointer));
            }
        };
        let joined = Message::default().text(1, kind).text(2, join.path.as_os_str().as_bytes());
        options = options.message(option::JOINED, &joined);
    }
    Ok(options)
}

/// Does `work` in a mount namespace of its own, which processes made meanwhile keep, and comes back.
fn apart<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let host = open("/proc/self/ns/mnt", OFlag::O_RDONLY).context(|| "cannot open the mount namespace")?;
    let here = open(".", OFlag::O_PATH | OFlag::O_DIRECTORY).context(|| "cannot open the working directory")?;
    namespace::make(libc::CLONE_NEWNS as u64, "a mount namespace")?;
    let result = work();
    setns(host, CloneFlags::CLONE_NEWNS)
        .and_then(|()| fchdir(here))
        .context(|| "cannot go back to the host's mount namespace")?;
    result
}

/// Makes the places of mounts in the rootfs, and mounts it on itself: criu takes only a mount point for the container's
/// root. Returns what else of the host is mounted, and where.
fn prepare_mounts(plan: &Plan) -> Result<Vec<(PathBuf, PathBuf)>> {
    // Whatever its propagation is to be: criu sets it.
    let rootfs = &RootfsPlan { is_seen_by_hooks: true, is_detached: false, propagation: None, ..plan.rootfs.clone() };
    let attach = || rootfs::attach(rootfs, rootfs::clone_root(rootfs)?);
    let root = attach()?;
    let mut binds = vec![Bind { place: "/".into(), source: rootfs.path.clone(), recursive: true }];
    for mount in &plan.mounts {
        let placed = place(mount, plan, &root).map_err(|error| error.pointer(format!("/mounts/{}", mount.index)))?;
        binds.extend(placed);
    }
    if rootfs.readonly {
        // criu needs a place for the old root while it pivots, and can make none once the root is read-only.
        root.open_or_create(Path::new("/tmp"), Leaf::Directory).on_path("cannot make", "/tmp")?;
    }
    // What was mounted was there for the places of others in it.
    drop(root);
    umount2(&rootfs.path, MntFlags::MNT_DETACH).on_path("cannot unmount", &rootfs.path)?;
    attach()?;
    let table = fs::read("/proc/self/mountinfo").context(|| "cannot read the mount table")?;
    let table: Vec<_> = mountinfo::entries(&table).collect();
    let mut sources = mounts::sources(&table, &binds);
    // What covers masked files, but for those that criu has as a file system of the container's. By this name runc has
    // them all.
    let null = Path::new(COVER);
    let covers = plan.rootfs.masked.iter().map(PathBuf::as_path).chain([null]);
    sources.extend(covers.map(|path| (path.to_owned(), null.to_owned())));
    if plan.namespaces.has_user() {
        let devices = plan.devices.iter().flatten().map(|device| (device.path.clone(), device.path.clone()));
        sources.extend(devices);
    }
    Ok(sources)
}

/// Makes the place of a mount, unless it is on one that criu fills. Returns what of the host is to be there.
fn place(mount: &MountPlan, plan: &Plan, root: &Root) -> Result<Vec<Bind>> {
    let is_above = |other: &&MountPlan| {
        !matches!(other.kind, Kind::Bind { .. } | Kind::Remount)
            && other.index < mount.index
            && mount.destination.starts_with(&other.destination)
    };
    let is_made_by_criu = plan.mounts.iter().any(|other| is_above(&other));
    match &mount.kind {
        Kind::Bind { .. } if mount.link().is_some() => Ok(Vec::new()),
        Kind::Bind { source, recursive } => {
            let place =
                if is_made_by_criu { mount.destination.clone() } else { bind(mount, source, *recursive, root)? };
            let source = canonical(source).on_path("cannot find the source of a bind mount", source)?;
            Ok(vec![Bind { place, source, recursive: *recursive }])
        }
        Kind::Filesystem { .. } if !is_made_by_criu => {
            attach::find(mount, &Places::new(root), Leaf::Directory).map(|_| Vec::new())
        }
        Kind::Cgroup { .. } => Ok(host_cgroups(mount, plan)),
        _ => Ok(Vec::new()),
    }
}

/// Mounts a bind mount; its place in the container, without symbolic links.
fn bind(mount: &MountPlan, source: &Path, recursive: bool, root: &Root) -> Result<PathBuf> {
    let tree = clone_path(source, recursive).on_path("cannot open the source of a bind mount", source)?;
    set_propagation(&tree, true, libc::MS_PRIVATE).on_path("cannot cut off from the host", source)?;
    attach::attach(&tree, mount, &Places::new(root))?;
    let link = |place: &dyn std::os::fd::AsFd| fs::read_link(descriptor_path(place.as_fd()));
    let (place, top) = (link(&tree), link(root));
    let path = place.and_then(|place| Ok((place, top?))).on_path("cannot tell the place of", &mount.destination)?;
    Ok(Path::new("/").join(path.0.strip_prefix(&path.1).unwrap_or(&mount.destination)))
}
