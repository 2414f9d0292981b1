//! System calls that nix lacks, or whose answer it (or the C library) would change. The only place with `unsafe`.
#![allow(unsafe_code)]

use libc::{c_char, c_int, c_long, c_ulong, c_void};
use nix::Result;
use nix::errno::Errno;
use nix::unistd::{ForkResult, Pid, fork};
use std::ffi::{CStr, OsString};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;

/// The arguments that `main` was called with.
///
/// # Safety
/// `vector` must hold `count` C strings.
pub unsafe fn arguments(count: c_int, vector: *const *const c_char) -> Vec<OsString> {
    // SAFETY: the caller's promise.
    (0..count as usize).map(|index| unsafe { os_string(*vector.add(index)) }).collect()
}

/// The environment in its own order, malformed entries included.
pub fn environment() -> Vec<OsString> {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let mut entries = Vec::new();
    // SAFETY: the C library keeps environ null or ended by a null pointer; nothing here changes it.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            entries.push(os_string(*entry));
            entry = entry.add(1);
        }
    }
    entries
}

/// # Safety
/// `text` must be a C string.
unsafe fn os_string(text: *const c_char) -> OsString {
    // SAFETY: the caller's promise.
    OsString::from_vec(unsafe { CStr::from_ptr(text) }.to_bytes().to_vec())
}

/// The kernel's own answer: the C library hides the "(unreachable)" of a directory outside of the root.
pub fn getcwd() -> Result<OsString> {
    let mut buffer = vec![0_u8; libc::PATH_MAX as usize];
    // SAFETY: the kernel writes at most the length that it is told.
    let size = Errno::result(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    buffer.truncate((size as usize).saturating_sub(1));
    Ok(OsString::from_vec(buffer))
}

/// # Safety
/// `option` must be one that takes numbers only.
unsafe fn prctl(option: c_int, argument: c_int, capability: c_ulong) -> Result<c_int> {
    // SAFETY: the caller's promise.
    Errno::result(unsafe { libc::prctl(option, argument as c_ulong, capability, 0 as c_ulong, 0 as c_ulong) })
}

/// Whether `capability` is in the bounding set: an error for one that the kernel does not know.
pub fn in_bounding_set(capability: c_int) -> Result<bool> {
    // SAFETY: numbers only.
    unsafe { prctl(libc::PR_CAPBSET_READ, capability, 0) }.map(|set| set == 1)
}

/// Whether `capability` is in the ambient set: an error for one that the kernel does not know.
pub fn in_ambient_set(capability: c_int) -> Result<bool> {
    // SAFETY: numbers only.
    unsafe { prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET, capability as c_ulong) }.map(|set| set == 1)
}

/// 0 for none, 1 for strict (which no caller can see), 2 for a filter.
pub fn seccomp_mode() -> Result<c_int> {
    // SAFETY: numbers only.
    unsafe { prctl(libc::PR_GET_SECCOMP, 0, 0) }
}

/// 0, 1, or 2 for readable by root only.
pub fn dumpable() -> Result<c_int> {
    // SAFETY: numbers only.
    unsafe { prctl(libc::PR_GET_DUMPABLE, 0, 0) }
}

/// Has the kernel send `signal` when the parent ends.
pub fn end_with_parent(signal: c_int) -> Result<()> {
    // SAFETY: numbers only.
    unsafe { prctl(libc::PR_SET_PDEATHSIG, signal, 0) }.map(drop)
}

/// A process's capability sets as bits.
#[derive(Default)]
pub struct Capabilities {
    /// Used by the kernel in checks.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What an exec may keep.
    pub inheritable: u64,
}

/// This process's capability sets.
pub fn capabilities() -> Result<Capabilities> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: version 3 of the interface writes two times three words.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) })?;
    let wide = |set: usize| u64::from(sets[1][set]) << 32 | u64::from(sets[0][set]);
    Ok(Capabilities { effective: wide(0), permitted: wide(1), inheritable: wide(2) })
}

/// The soft and hard limit of a resource by number: nix's list depends on the C library.
pub fn rlimit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = [0_u64; 2];
    // SAFETY: no new limit is given, and the kernel writes two 64-bit words.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, ptr::null::<c_void>(), limit.as_mut_ptr())
    })?;
    Ok((limit[0], limit[1]))
}

/// How this process is scheduled, as `struct sched_attr` of the kernel's first version.
#[repr(C)]
#[derive(Default)]
#[allow(missing_docs)]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// How this process is scheduled.
pub fn sched_getattr() -> Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel writes at most the size that it is told.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_sched_getattr, 0, ptr::from_mut(&mut attr), size_of::<SchedAttr>(), 0)
    })?;
    Ok(attr)
}

/// This process's I/O priority: the class above, the level in the low 13 bits.
pub fn ioprio() -> Result<u64> {
    const WHO_PROCESS: c_int = 1;
    // SAFETY: numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) }).map(|priority| priority as u64)
}

/// The execution domain and its flags: nix drops the bits that it has no name for.
pub fn personality() -> Result<c_int> {
    // SAFETY: this value only asks.
    Errno::result(unsafe { libc::personality(0xffff_ffff) })
}

/// This process's NUMA memory policy with its flags, and the nodes as bits.
pub fn mempolicy() -> Result<(u64, [u64; 16])> {
    let mut mode: c_int = 0;
    let mut nodes = [0_u64; 16];
    let bits = nodes.len() * 64;
    // SAFETY: the kernel writes one int and at most the number of bits that it is told.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_get_mempolicy, ptr::from_mut(&mut mode), nodes.as_mut_ptr(), bits, 0_usize, 0_usize)
    })?;
    Ok((mode as u64, nodes))
}

/// The session keyring's "type;uid;gid;permissions;description".
pub fn describe_session_keyring() -> Result<OsString> {
    const DESCRIBE: c_int = 6;
    const SESSION_KEYRING: c_int = -3;
    let mut buffer = vec![0_u8; 4096];
    // SAFETY: the kernel writes nothing where the length that it is told does not do.
    let size = Errno::result(unsafe {
        libc::syscall(libc::SYS_keyctl, DESCRIBE, SESSION_KEYRING, buffer.as_mut_ptr(), buffer.len())
    })?;
    buffer.truncate((size as usize).saturating_sub(1));
    Ok(OsString::from_vec(buffer))
}

/// The rows and columns of a terminal.
pub fn window_size(fd: c_int) -> Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize, on any descriptor or none.
    Errno::result(unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, ptr::from_mut(&mut size)) })?;
    Ok((size.ws_row, size.ws_col))
}

/// Whether a descriptor, open or not, is a terminal.
pub fn is_terminal(fd: c_int) -> bool {
    // SAFETY: numbers only.
    unsafe { libc::isatty(fd) == 1 }
}

/// The flags of the mount that a descriptor is on: nix drops those that it has no name for.
pub fn mount_flags(fd: BorrowedFd) -> Result<u64> {
    // SAFETY: a statvfs is numbers only: zeros are one.
    let mut found: libc::statvfs = unsafe { mem::zeroed() };
    // SAFETY: fstatvfs writes a statvfs.
    Errno::result(unsafe { libc::fstatvfs(fd.as_raw_fd(), ptr::from_mut(&mut found)) })?;
    Ok(found.f_flag)
}

/// Reads some bytes of a descriptor that this process may or may not have.
pub fn read(fd: c_int, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most the length that it is told.
    Errno::result(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) }).map(|size| size as usize)
}

/// Swaps two paths in one step.
pub fn exchange(one: &CStr, other: &CStr) -> Result<()> {
    // SAFETY: two C strings and numbers.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    })
    .map(drop)
}

/// Installs a seccomp filter without giving up new privileges: needs `CAP_SYS_ADMIN`.
pub fn install_filter(program: &mut [libc::sock_filter]) -> Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: the program is as long as it says; the kernel copies it.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, ptr::from_ref(&program))
    })
    .map(drop)
}

/// `struct seccomp_notif`: a call that a filter leaves to its listener.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Notification {
    pub id: u64,
    pub pid: u32,
    pub flags: u32,
    pub number: i32,
    pub arch: u32,
    pub instruction: u64,
    pub arguments: [u64; 6],
}

#[repr(C)]
struct NotificationAnswer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// Waits for a call that a filter leaves to its listener, `seccomp_unotify(2)`.
pub fn receive_notification(listener: BorrowedFd) -> Result<Notification> {
    const SECCOMP_IOCTL_NOTIF_RECV: c_ulong = 0xc050_2100;
    let mut notification = Notification::default();
    let place = ptr::from_mut(&mut notification);
    // SAFETY: the kernel writes a structure of this layout, whose size is part of the request.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV as _, place) })?;
    Ok(notification)
}

/// Answers such a call: it fails with `errno`, or is made by the kernel where there is none.
pub fn answer_notification(listener: BorrowedFd, id: u64, errno: Option<i32>) -> Result<()> {
    const SECCOMP_IOCTL_NOTIF_SEND: c_ulong = 0xc018_2101;
    const SECCOMP_USER_NOTIF_FLAG_CONTINUE: u32 = 1;
    let flags = if errno.is_some() { 0 } else { SECCOMP_USER_NOTIF_FLAG_CONTINUE };
    let answer = NotificationAnswer { id, value: 0, error: -errno.unwrap_or(0), flags };
    let place = ptr::from_ref(&answer);
    // SAFETY: the kernel reads a structure of this layout, whose size is part of the request.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND as _, place) }).map(drop)
}

/// Receives a message and the one descriptor that comes with it.
pub fn receive_with_descriptor(socket: BorrowedFd, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut parts = [std::io::IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(c_int);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let descriptor = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(numbers) => numbers.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has just made the descriptor for us.
    Ok((message.bytes, descriptor.map(|number| unsafe { OwnedFd::from_raw_fd(number) })))
}

/// Runs `body` in a child, which ends with the status that it returns.
pub fn spawn(body: impl FnOnce() -> i32) -> Result<Pid> {
    // SAFETY: the programs of this package have one thread, so that the child may do all that its parent may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        // SAFETY: _exit runs no code of the parent's.
        ForkResult::Child => unsafe { libc::_exit(body()) },
    }
}

/// A set of signals as the kernel has it, the real-time ones that the C library hides included.
pub type SignalSet = u64;

/// The set of one signal.
pub fn signal_set(signal: c_int) -> SignalSet {
    1_u64.checked_shl(signal.wrapping_sub(1) as u32).unwrap_or(0)
}

const SIGNAL_SET_SIZE: usize = size_of::<SignalSet>();

/// Blocks or unblocks signals, as `how` (`SIG_BLOCK` or `SIG_UNBLOCK`) says.
fn mask(how: c_int, set: SignalSet) -> Result<()> {
    let none = ptr::null_mut::<SignalSet>();
    // SAFETY: the kernel reads one set of the size told and writes none.
    Errno::result(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, ptr::from_ref(&set), none, SIGNAL_SET_SIZE) })
        .map(drop)
}

/// Keeps signals for [`wait_for`]. A blocked one reaches even a PID 1 that has no handler for it.
pub fn block(set: SignalSet) -> Result<()> {
    mask(libc::SIG_BLOCK, set)
}

/// Takes one of the blocked signals in `set`, at once or within a timeout.
fn wait(set: SignalSet, timeout: Option<&libc::timespec>) -> Result<c_int> {
    let no_info = ptr::null_mut::<c_void>();
    let timeout = timeout.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the kernel reads one set of the size told, and a timeout unless that is null.
    let signal: c_long = Errno::result(unsafe {
        libc::syscall(libc::SYS_rt_sigtimedwait, ptr::from_ref(&set), no_info, timeout, SIGNAL_SET_SIZE)
    })?;
    Ok(signal as c_int)
}

/// Waits for one of the blocked signals in `set`.
pub fn wait_for(set: SignalSet) -> Result<c_int> {
    loop {
        match wait(set, None) {
            // A stop and a continue, or a debugger.
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Whether one of the blocked signals in `set` has come.
pub fn has_come(set: SignalSet) -> bool {
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    wait(set, Some(&at_once)).is_ok()
}

/// Ends this process by `signal`, whatever its caller had ignored or blocked; returns where that did not happen.
pub fn end_by(signal: c_int) -> Result<()> {
    // SAFETY: the default disposition runs no code of ours. SIGKILL has none to set: that is no error.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    mask(libc::SIG_UNBLOCK, signal_set(signal))?;
    // SAFETY: numbers only.
    Errno::result(unsafe { libc::kill(libc::getpid(), signal) }).map(drop)
}
