//! `bpf(2)`: loading and attaching device programs.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{descriptor, unit};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// The name that kelson's programs have, to tell them from others'.
const NAME: [u8; 16] = *b"kelson\0\0\0\0\0\0\0\0\0\0";

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replace: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttributes {
    program: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    created_by: u32,
    map_count: u32,
    maps: u64,
    name: [u8; 16],
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program of 8-byte instructions.
pub fn load_device_program(instructions: &[u64]) -> nix::Result<OwnedFd> {
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        name: NAME,
        ..LoadAttributes::default()
    };
    let size = size_of::<LoadAttributes>();
    // SAFETY: the attributes point to live instructions and a C string, and have the size given.
    descriptor(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size) })
}

/// Attaches a device program to a cgroup v2 directory, in the place of another where one is given.
pub fn attach_device_program(
    cgroup: impl AsFd,
    program: BorrowedFd<'_>,
    former: Option<BorrowedFd<'_>>,
) -> nix::Result<()> {
    let attributes = AttachAttributes {
        target: cgroup.as_fd().as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI | if former.is_some() { BPF_F_REPLACE } else { 0 },
        replace: former.map_or(0, |former| former.as_raw_fd() as u32),
    };
    let size = size_of::<AttachAttributes>();
    // SAFETY: the attributes have the size given and hold integers only.
    unit(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attributes, size) })
}

/// Takes a device program off a cgroup v2 directory.
pub fn detach_device_program(cgroup: impl AsFd, program: BorrowedFd<'_>) -> nix::Result<()> {
    let attributes = AttachAttributes {
        target: cgroup.as_fd().as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        ..AttachAttributes::default()
    };
    let size = size_of::<AttachAttributes>();
    // SAFETY: the attributes have the size given and hold integers only.
    unit(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_DETACH, &raw const attributes, size) })
}

/// The device program of kelson's that is attached to a cgroup v2 directory, if any.
pub fn find_device_program(cgroup: impl AsFd) -> nix::Result<Option<OwnedFd>> {
    // The kernel attaches no more than 64 to one cgroup.
    let mut ids = [0_u32; 64];
    let mut attributes = QueryAttributes {
        target: cgroup.as_fd().as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..QueryAttributes::default()
    };
    let size = size_of::<QueryAttributes>();
    // SAFETY: the attributes have the size given, and point to as many integers as they say.
    unit(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attributes, size) })?;
    for id in ids.into_iter().take(attributes.count as usize) {
        let attributes = [id, 0, 0];
        let size = size_of_val(&attributes);
        // SAFETY: the attributes have the size given and hold integers only.
        let program =
            descriptor(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_GET_FD_BY_ID, attributes.as_ptr(), size) })?;
        if name_of(&program)? == NAME {
            return Ok(Some(program));
        }
    }
    Ok(None)
}

fn name_of(program: &OwnedFd) -> nix::Result<[u8; 16]> {
    let mut info = ProgramInfo::default();
    let attributes = InfoAttributes {
        program: program.as_raw_fd() as u32,
        length: size_of::<ProgramInfo>() as u32,
        info: &raw mut info as u64,
    };
    let size = size_of::<InfoAttributes>();
    // SAFETY: the attributes have the size given, and point to a buffer of the length that they say.
    unit(unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const attributes, size) })?;
    Ok(info.name)
}
