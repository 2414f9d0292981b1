//! Processes: `clone3(2)`, pidfds, `close_range(2)`, capabilities, keyrings, resource limits of others.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::{descriptor, number, unit, unless_filtered};

/// `CLONE_NEWTIME`, clone(2): only for `clone3` and `unshare`.
pub const CLONE_NEWTIME: u64 = 0x80;
const CLONE_PIDFD: u64 = 0x1000;
/// `CLONE_PARENT`, clone(2): the child becomes a sibling of the caller.
pub const CLONE_PARENT: u64 = 0x8000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// What [`clone`] returned in.
pub enum Forked {
    /// The new process.
    Child,
    /// The caller; the pidfd is absent on kernels before 5.2.
    Parent {
        /// The new process's id in the caller's pid namespace.
        pid: Pid,
        /// A descriptor of it.
        pidfd: Option<OwnedFd>,
    },
}

/// A fork: a copy of the caller, in new namespaces (`flags`), inside `cgroup` if given. Without one, clone(2) stands in
/// where there is no `clone3(2)`.
///
/// The program has no other threads, so the child may go on with everything that it inherits.
pub fn clone(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> nix::Result<Forked> {
    match clone3(flags, cgroup) {
        // EPERM: perhaps by a seccomp filter, which cannot look at clone3's arguments. If not, clone says it again.
        Err(Errno::ENOSYS | Errno::EPERM) if cgroup.is_none() => clone_classic(flags),
        result => result,
    }
}

fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> nix::Result<Forked> {
    let mut pidfd = -1;
    let arguments = CloneArgs {
        flags: flags | CLONE_PIDFD | if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
        pidfd: &raw mut pidfd as u64,
        // With CLONE_PARENT the signal is the one the caller itself was made with.
        exit_signal: if flags & CLONE_PARENT == 0 { libc::SIGCHLD as u64 } else { 0 },
        cgroup: cgroup.map_or(0, |cgroup| cgroup.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    let call = |size: usize| {
        // SAFETY: no stack and no CLONE_VM, so this is a fork; the arguments have the size given, or more.
        unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) }
    };
    let pid = unless_filtered(number(call(size_of::<CloneArgs>())), || call(0))?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: CLONE_PIDFD made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent { pid: Pid::from_raw(pid as i32), pidfd: Some(pidfd) })
}

/// clone(2) as a fork, for kernels before 5.3.
pub fn clone_classic(flags: u64) -> nix::Result<Forked> {
    let flags = flags | libc::SIGCHLD as u64;
    // SAFETY: no stack and no CLONE_VM, so this is a fork.
    let pid = number(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    Ok(match pid {
        0 => Forked::Child,
        pid => {
            let pid = Pid::from_raw(pid as i32);
            Forked::Parent { pid, pidfd: pidfd_open(pid).ok() }
        }
    })
}

/// `pidfd_open(2)`.
pub fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    let call = |pid: i32| {
        // SAFETY: two integers.
        unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }
    };
    unless_filtered(descriptor(call(pid.as_raw())), || call(-1))
}

/// `pidfd_send_signal(2)`; `signal` is the number, 0 only asks.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> nix::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill it as kill(2) does.
    unit(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, info, 0) })
}

/// `kill(2)` with any signal number, real-time ones too, which nix's enum lacks.
pub fn kill(pid: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: two integers.
    unit(unsafe { libc::kill(pid.as_raw(), signal) }.into())
}

/// Marks every descriptor from `first` on as close-on-exec, `close_range(2)`.
pub fn close_on_exec_from(first: u32) -> nix::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: three integers; no descriptor is closed.
    unit(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) })
}

/// Closes every descriptor from `first` on but those `kept`, `close_range(2)`. A kernel that lacks the call closes none:
/// they are close-on-exec all the same. Nothing may own what is closed.
pub fn close_all_but(first: i32, kept: &[i32]) {
    let mut kept: Vec<_> = kept.iter().copied().filter(|number| *number >= first).collect();
    kept.sort_unstable();
    let close = |first: i32, last: u32| {
        // SAFETY: three integers; nothing owns these descriptors, as the caller warrants.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }
    };
    let mut first = first;
    for number in kept {
        if number > first {
            close(first, number as u32 - 1);
        }
        first = number + 1;
    }
    close(first, u32::MAX);
}

/// Tells the sealed copy of the runtime that it is one, and when the program began. The first is believed only where the
/// kernel agrees.
pub const SEALED: &str = "_KELSON_SEALED";

/// Replaces this process's arguments, as the kernel shows them to others in `/proc/PID/cmdline`, with `title` as far as
/// that fits, and wipes its environment: they are the caller's, and a process that waits in a container can be seen there.
pub fn replace_arguments(title: &[u8]) {
    unsafe extern "C" {
        // The first argument, as the C library keeps it.
        static mut program_invocation_name: *mut libc::c_char;
        static mut environ: *mut *mut libc::c_char;
    }
    let wipe = |text: *mut libc::c_char| {
        // SAFETY: the text is a C string of this process's own, which it may write to.
        unsafe {
            let length = libc::strlen(text);
            std::ptr::write_bytes(text, 0, length);
            text.add(length + 1)
        }
    };
    let count = std::env::args_os().len();
    // SAFETY: this process has one thread, and nobody else changes the two; the kernel lays the arguments side by side
    // (execve(2)), each with its NUL, the last of which stays; the environment is a list that ends with null, and then is
    // made an empty one.
    unsafe {
        let first = program_invocation_name;
        let end = (0..count).fold(first, |text, _| wipe(text));
        let length = title.len().min((end.addr() - first.addr()).saturating_sub(1));
        std::ptr::copy_nonoverlapping(title.as_ptr().cast(), first, length);
        let mut variable = environ;
        while !variable.is_null() && !(*variable).is_null() {
            wipe(*variable);
            variable = variable.add(1);
        }
        if !environ.is_null() {
            *environ = std::ptr::null_mut();
        }
    }
}

/// The three capability sets of capset(2), as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Sets the caller's capabilities, capset(2).
pub fn set_capabilities(sets: CapabilitySets) -> nix::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| CapabilityData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two data structures.
    unit(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })
}

/// The caller's capabilities, capget(2).
pub fn capabilities() -> nix::Result<CapabilitySets> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: version 3 writes two data structures.
    unit(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapabilitySets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// Whether the bounding set has `capability`; EINVAL for a number that the kernel does not know.
pub fn bounding_has(capability: u32) -> nix::Result<bool> {
    // SAFETY: integers.
    number(unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(capability), 0, 0, 0) }.into())
        .map(|r| r == 1)
}

/// Drops `capability` from the bounding set.
pub fn bounding_drop(capability: u32) -> nix::Result<()> {
    // SAFETY: integers.
    unit(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) }.into())
}

/// Empties the ambient set.
pub fn ambient_clear() -> nix::Result<()> {
    // SAFETY: integers.
    unit(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0) }.into())
}

/// Raises `capability` in the ambient set.
pub fn ambient_raise(capability: u32) -> nix::Result<()> {
    let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
    // SAFETY: integers.
    unit(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, libc::c_ulong::from(capability), 0, 0) }.into())
}

/// A boolean or numeric `prctl(2)` option with one argument.
pub fn prctl(option: libc::c_int, argument: libc::c_ulong) -> nix::Result<()> {
    // SAFETY: the options used here (PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG,
    // PR_SET_CHILD_SUBREAPER) take integers only.
    unit(unsafe { libc::prctl(option, argument, 0, 0, 0) }.into())
}

/// Sets all group ids of the process, setresgid(2), without libc's signalling of other threads.
pub fn set_group_id(gid: u32) -> nix::Result<()> {
    // SAFETY: integers.
    unit(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })
}

/// Sets all user ids of the process, setresuid(2), without libc's signalling of other threads.
pub fn set_user_id(uid: u32) -> nix::Result<()> {
    // SAFETY: integers.
    unit(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// Sets the supplementary groups, setgroups(2).
pub fn set_groups(groups: &[u32]) -> nix::Result<()> {
    // SAFETY: the pointer and the length describe `groups`.
    unit(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })
}

/// Joins a new session keyring called `name`, keyctl(2).
pub fn join_session_keyring(name: &CStr) -> nix::Result<i64> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is NUL-terminated.
    number(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
}

/// Lets a container's user search its session keyring: adds UID search, keyctl(2).
pub fn allow_keyring_search(keyring: i64) -> nix::Result<()> {
    const KEYCTL_SETPERM: libc::c_int = 5;
    const KEY_POS_ALL: u32 = 0x3f00_0000;
    const KEY_USR_VIEW_READ_SEARCH_LINK: u32 = 0x001b_0000;
    let permissions = KEY_POS_ALL | KEY_USR_VIEW_READ_SEARCH_LINK;
    // SAFETY: integers.
    unit(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, keyring, permissions) })
}

/// The resource limit of another process (0: the caller), prlimit(2), as (soft, hard).
pub fn resource_limit(pid: Pid, resource: u32) -> nix::Result<(u64, u64)> {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let new = std::ptr::null::<libc::rlimit64>();
    // SAFETY: a null new limit only reads; the old one is written on success.
    unit(unsafe { libc::syscall(libc::SYS_prlimit64, pid.as_raw(), resource, new, &raw mut old) })?;
    Ok((old.rlim_cur, old.rlim_max))
}

/// Sets the resource limit of another process (0: the caller), prlimit(2).
pub fn set_resource_limit(pid: Pid, resource: u32, (soft, hard): (u64, u64)) -> nix::Result<()> {
    let new = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let old = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the new limit is read; a null old one is not written.
    unit(unsafe { libc::syscall(libc::SYS_prlimit64, pid.as_raw(), resource, &raw const new, old) })
}

/// execveat(2) of the file `program` itself. Returns only on failure.
pub fn exec_descriptor(
    program: impl AsFd,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> Errno {
    let fd = program.as_fd().as_raw_fd();
    let (arguments, environment) = (arguments.as_ptr(), environment.as_ptr());
    // SAFETY: both lists are null-terminated arrays of C strings, made by `pointers`.
    unsafe { libc::syscall(libc::SYS_execveat, fd, c"".as_ptr(), arguments, environment, libc::AT_EMPTY_PATH) };
    let errno = Errno::last();
    let Ok(path) = CString::new(format!("/proc/self/fd/{fd}")) else { return errno };
    if matches!(errno, Errno::ENOSYS | Errno::EPERM) {
        // SAFETY: the same lists, and a path that ends in NUL.
        unsafe { libc::execve(path.as_ptr(), arguments, environment) };
        return Errno::last();
    }
    errno
}

/// Ends the process, also where a seccomp filter that is loaded already forbids exit_group(2): then by a fault, which
/// ends even the first process of a pid namespace. The C library would try for ever; and its abort(3) sends the signal to
/// the thread that it takes itself for, which in a process made by [`clone`] is one of the parent's.
pub fn exit_or_crash(status: i32) -> ! {
    // SAFETY: an integer; on success nothing comes after.
    unsafe {
        libc::syscall(libc::SYS_exit_group, status);
        libc::syscall(libc::SYS_exit, status);
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: an instruction that there is not, and that never returns.
    unsafe {
        std::arch::asm!("ud2", options(noreturn))
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a breakpoint without a debugger, which never returns.
    unsafe {
        std::arch::asm!("brk #1", options(noreturn))
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    std::process::abort()
}

/// A list of C strings as `execve(2)` takes it: ended by a null pointer.
pub fn pointers(strings: &[impl AsRef<CStr>]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ref().as_ptr()).chain([std::ptr::null()]).collect()
}

/// The arguments and environment of this process, as they lie in memory: nothing is copied or decoded.
pub fn own_environment() -> Vec<CString> {
    std::env::vars_os()
        .filter_map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok())
        .collect()
}

/// Takes over the descriptor `number` that the caller of the program passed to it.
pub fn inherited(number: i32) -> nix::Result<OwnedFd> {
    nix::fcntl::fcntl(
        // SAFETY: only asked whether it is open; F_GETFD on a closed number is EBADF.
        unsafe { BorrowedFd::borrow_raw(number) },
        nix::fcntl::FcntlArg::F_GETFD,
    )?;
    // SAFETY: the caller handed this descriptor to us by number, and it is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Clears or sets close-on-exec on the descriptor `number`; EBADF where it is not open.
pub fn set_close_on_exec(number: i32, on: bool) -> nix::Result<()> {
    let flag = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: integers; no ownership changes.
    unit(unsafe { libc::fcntl(number, libc::F_SETFD, flag) }.into())
}
