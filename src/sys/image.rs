//! The program itself, as it lies in memory.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use libc::{c_char, c_int, c_void};
use nix::errno::Errno;

use super::{number, unit};

type Segment = libc::Elf64_Phdr;

/// Has the program go on from `copy`, a regular file that holds what its own does, opened for reading: every part of it
/// is mapped anew from there, and /proc/PID/exe leads there. An execve(2) of the copy without its cost.
///
/// Errors: EPERM without CAP_SYS_ADMIN and CAP_CHECKPOINT_RESTORE, EINVAL from a kernel without CONFIG_CHECKPOINT_RESTORE,
/// ENOEXEC where the program's parts are not where its file says. The program works on after each.
pub fn go_on_from(copy: BorrowedFd<'_>) -> nix::Result<()> {
    let segments = segments()?;
    let find = |flag: u32| segments.iter().find(|segment| is_loaded(segment) && segment.p_flags & flag != 0);
    let (Some(code), Some(data)) = (find(libc::PF_X), find(libc::PF_W)) else { return Err(Errno::ENOEXEC) };
    let mut layout = Layout { exe_fd: copy.as_raw_fd() as u32, ..Layout::of_arguments()? };
    (layout.start_code, layout.end_code) = (code.p_vaddr, code.p_vaddr + code.p_filesz);
    (layout.start_data, layout.end_data) = (data.p_vaddr, data.p_vaddr + data.p_filesz);
    segments.iter().filter(|segment| is_loaded(segment)).try_for_each(|segment| replace(segment, copy))?;
    let (what, map, size) = (libc::PR_SET_MM_MAP as u64, &raw const layout, size_of::<Layout>());
    // SAFETY: the layout has the size given, and holds the addresses that the kernel has itself.
    unit(unsafe { libc::prctl(libc::PR_SET_MM, what, map, size, 0_u64) }.into())
}

fn is_loaded(segment: &Segment) -> bool {
    segment.p_type == libc::PT_LOAD
}

/// The program's headers, as the kernel has loaded them: at the addresses that they name themselves.
fn segments() -> nix::Result<&'static [Segment]> {
    // SAFETY: the kernel's words on this process (getauxval(3)) hold as long as it is this program.
    let segments = unsafe {
        let first = libc::getauxval(libc::AT_PHDR) as *const Segment;
        if first.is_null() || libc::getauxval(libc::AT_PHENT) as usize != size_of::<Segment>() {
            return Err(Errno::ENOEXEC);
        }
        std::slice::from_raw_parts(first, libc::getauxval(libc::AT_PHNUM) as usize)
    };
    // One that is relocated has this.
    if segments.iter().any(|segment| segment.p_type == libc::PT_DYNAMIC) { Err(Errno::ENOEXEC) } else { Ok(segments) }
}

/// Maps one part anew: from the copy, or what may have been written to since, from memory.
fn replace(segment: &Segment, copy: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: asks for a number.
    let page = unsafe { libc::getauxval(libc::AT_PAGESZ) };
    let start = segment.p_vaddr & !(page - 1);
    let length = ((segment.p_vaddr + segment.p_filesz).next_multiple_of(page) - start) as usize;
    let (address, offset) = (start as *mut c_void, segment.p_offset & !(page - 1));
    if segment.p_flags & libc::PF_W == 0 {
        let protection = libc::PROT_READ | if segment.p_flags & libc::PF_X == 0 { 0 } else { libc::PROT_EXEC };
        return map(address, length, protection, libc::MAP_FIXED, (copy.as_raw_fd(), offset as i64)).map(drop);
    }
    let memory = map(null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_ANONYMOUS, (-1, 0))?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: this process has one thread, so that nothing changes between the two; the memory moves to where the same
    // bytes were.
    unit(unsafe {
        std::ptr::copy_nonoverlapping(address.cast::<u8>(), memory.cast(), length);
        libc::syscall(libc::SYS_mremap, memory, length, length, flags as u64, address)
    })
}

fn map(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    (file, offset): (c_int, i64),
) -> nix::Result<*mut c_void> {
    let flags = flags | libc::MAP_PRIVATE;
    // SAFETY: a mapping at an address of the kernel's choice; or over a part of the program that is not written to, with
    // the same bytes.
    let mapped = unsafe { libc::mmap(address, length, protection, flags, file, offset) };
    if mapped == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(mapped) }
}

/// `struct prctl_mm_map`, linux/prctl.h.
#[repr(C)]
struct Layout {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

impl Layout {
    /// Where the kernel has put the arguments and the environment (execve(2)): their lists side by side, each ended by
    /// null, and so their texts.
    fn of_arguments() -> nix::Result<Self> {
        unsafe extern "C" {
            static mut environ: *mut *mut c_char;
        }
        let count = std::env::args_os().len();
        if count == 0 {
            return Err(Errno::ENOEXEC);
        }
        // SAFETY: nothing has changed the environment, so that its list is still the kernel's.
        let (list, first, variables, end) = unsafe {
            let list = environ.sub(count + 1);
            let first = *list;
            let mut end = after(*list.add(count - 1));
            let variables = end;
            let mut variable = environ;
            while !(*variable).is_null() {
                end = after(*variable);
                variable = variable.add(1);
            }
            (list.sub(1).addr() as u64, first.addr() as u64, variables.addr() as u64, end.addr() as u64)
        };
        // SAFETY: only asks.
        let brk = number(unsafe { libc::syscall(libc::SYS_brk, 0) })? as u64;
        Ok(Self {
            start_code: 0,
            end_code: 0,
            start_data: 0,
            end_data: 0,
            start_brk: brk,
            brk,
            start_stack: list,
            arg_start: first,
            arg_end: variables,
            env_start: variables,
            env_end: end,
            auxv: 0,
            auxv_size: 0,
            exe_fd: u32::MAX,
        })
    }
}

/// # Safety
/// The text ends in NUL.
unsafe fn after(text: *const c_char) -> *const c_char {
    // SAFETY: as above.
    unsafe { text.add(CStr::from_ptr(text).count_bytes() + 1) }
}
