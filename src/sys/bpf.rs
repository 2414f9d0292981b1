//! `bpf(2)`: loading and attaching device programs.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{descriptor, unit};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

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

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program of 8-byte instructions.
pub fn load_device_program(instructions: &[u64]) -> nix::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..6].copy_from_slice(b"kelson");
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        name,
        ..LoadAttributes::default()
    };
    let size = size_of::<LoadAttributes>();
    // SAFETY: the attributes point to live instructions and a C string, and have the size given.
    descriptor(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size) })
}

/// Attaches a device program to a cgroup v2 directory.
pub fn attach_device_program(cgroup: impl AsFd, program: BorrowedFd<'_>) -> nix::Result<()> {
    let attributes = AttachAttributes {
        target: cgroup.as_fd().as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
        replace: 0,
    };
    let size = size_of::<AttachAttributes>();
    // SAFETY: the attributes have the size given and hold integers only.
    unit(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attributes, size) })
}
