//! A machine for classic BPF as the kernel runs it on `struct seccomp_data`: what tells, without the kernel, what a
//! filter does with a call.

use seccompiler::sock_filter;

use super::compile::{
    AND, ARCH, ARGUMENTS, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, LOAD, NUMBER, RETURN,
};

/// `BPF_JMP | BPF_JSET`, which libseccomp's programs have.
pub const JUMP_IF_SET: u16 = 0x45;

/// A call as a filter sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    pub arch: u32,
    pub number: u32,
    pub arguments: [u64; 6],
}

/// What a program says, and what that took.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub action: u32,
    pub instructions: usize,
    /// Whether an argument was looked at: the kernel's allow-bitmap does not take such a call.
    pub has_read_arguments: bool,
}

/// Runs a program; None where the kernel would have refused it.
pub fn run(program: &[sock_filter], call: &Call, is_big_endian: bool) -> Option<Outcome> {
    let (mut accumulator, mut position) = (0, 0);
    let (mut instructions, mut has_read_arguments) = (0, false);
    loop {
        let instruction = program.get(position)?;
        let k = instruction.k;
        position += 1;
        instructions += 1;
        let mut branch = |is_so: bool| position += usize::from(if is_so { instruction.jt } else { instruction.jf });
        match instruction.code {
            LOAD => {
                has_read_arguments |= k >= ARGUMENTS;
                accumulator = word(call, k, is_big_endian)?;
            }
            AND => accumulator &= k,
            JUMP => position += k as usize,
            JUMP_EQUAL => branch(accumulator == k),
            JUMP_GREATER => branch(accumulator > k),
            JUMP_GREATER_OR_EQUAL => branch(accumulator >= k),
            JUMP_IF_SET => branch(accumulator & k != 0),
            RETURN => return Some(Outcome { action: k, instructions, has_read_arguments }),
            _ => return None,
        }
    }
}

fn word(call: &Call, offset: u32, is_big_endian: bool) -> Option<u32> {
    match offset {
        NUMBER => Some(call.number),
        ARCH => Some(call.arch),
        16..64 if offset % 4 == 0 => {
            let argument = call.arguments[(offset as usize - 16) / 8];
            let is_high = (offset % 8 == 4) != is_big_endian;
            Some(if is_high { (argument >> 32) as u32 } else { argument as u32 })
        }
        _ => None,
    }
}
