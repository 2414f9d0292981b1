//! A machine for classic BPF as the kernel runs it on `struct seccomp_data`.

use seccompiler::sock_filter;

use crate::seccomp::compile::{
    AND, ARCH, ARGUMENTS, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, LOAD, NUMBER, RETURN,
};

/// `BPF_JMP | BPF_JSET`, which libseccomp's programs have.
const JUMP_IF_SET: u16 = 0x45;

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

/// Runs a program; panics where the kernel would have refused it.
pub fn run(program: &[sock_filter], call: &Call, is_big_endian: bool) -> Outcome {
    let (mut accumulator, mut position) = (0, 0);
    let (mut instructions, mut has_read_arguments) = (0, false);
    loop {
        let instruction = program.get(position).expect("a jump behind the end");
        let k = instruction.k;
        position += 1;
        instructions += 1;
        let mut branch = |is_so: bool| position += usize::from(if is_so { instruction.jt } else { instruction.jf });
        match instruction.code {
            LOAD => {
                has_read_arguments |= k >= ARGUMENTS;
                accumulator = word(call, k, is_big_endian);
            }
            AND => accumulator &= k,
            JUMP => position += k as usize,
            JUMP_EQUAL => branch(accumulator == k),
            JUMP_GREATER => branch(accumulator > k),
            JUMP_GREATER_OR_EQUAL => branch(accumulator >= k),
            JUMP_IF_SET => branch(accumulator & k != 0),
            RETURN => return Outcome { action: k, instructions, has_read_arguments },
            code => panic!("the instruction {code:#x} is not allowed"),
        }
    }
}

fn word(call: &Call, offset: u32, is_big_endian: bool) -> u32 {
    match offset {
        NUMBER => call.number,
        ARCH => call.arch,
        16..64 if offset % 4 == 0 => {
            let argument = call.arguments[(offset as usize - 16) / 8];
            let is_high = (offset % 8 == 4) != is_big_endian;
            if is_high { (argument >> 32) as u32 } else { argument as u32 }
        }
        _ => panic!("there is nothing to load at {offset}"),
    }
}

/// Asserts what the kernel asserts: every jump stays inside, and the last instruction returns.
pub fn assert_well_formed(program: &[sock_filter]) {
    assert!(!program.is_empty() && program.len() <= 4096, "{} instructions", program.len());
    for (position, instruction) in program.iter().enumerate() {
        let furthest = match instruction.code {
            JUMP => instruction.k as usize,
            code if code & 7 == 5 => usize::from(instruction.jt.max(instruction.jf)),
            _ => continue,
        };
        assert!(position + 1 + furthest < program.len(), "{position} leads out");
    }
    assert_eq!(program.last().unwrap().code, RETURN);
}
