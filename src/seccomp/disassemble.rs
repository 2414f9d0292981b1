//! A filter as text: one instruction a line, with what its numbers mean.

use seccompiler::{BpfProgram, sock_filter};

use super::arch::{Arch, X32_BIT};
use super::compile::{
    AND, ARCH, ARGUMENTS, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, LOAD, NUMBER, RETURN,
};
use super::profile::describe;

/// What is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loaded {
    Nothing,
    Arch,
    Number,
    Argument,
}

/// What is known where the program arrives at an instruction.
#[derive(Clone, Copy, Debug)]
struct Known {
    loaded: Loaded,
    /// `AUDIT_ARCH_*` of the call.
    arch: Option<u32>,
}

/// The program in text, for these architectures.
pub fn disassemble(program: &BpfProgram, arches: &[&Arch]) -> String {
    let known = flow(program);
    let lines = program.iter().zip(known).enumerate().map(|(position, (instruction, known))| {
        let text = text(instruction, position);
        let comment = comment(instruction, known, arches);
        let line = format!("{position:4}  {text:<32}{comment}");
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}

/// The program as the kernel takes it: `struct sock_filter` after `struct sock_filter`.
pub fn bytes(program: &BpfProgram, is_big_endian: bool) -> Vec<u8> {
    let instruction = |it: &sock_filter| {
        let (code, k) = if is_big_endian {
            (it.code.to_be_bytes(), it.k.to_be_bytes())
        } else {
            (it.code.to_le_bytes(), it.k.to_le_bytes())
        };
        [code[0], code[1], it.jt, it.jf, k[0], k[1], k[2], k[3]]
    };
    program.iter().flat_map(instruction).collect()
}

/// Where an instruction leads to, from itself: two places, or the next one twice.
fn targets(instruction: &sock_filter) -> [usize; 2] {
    match instruction.code {
        JUMP => [1 + instruction.k as usize; 2],
        JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_OR_EQUAL => {
            [1 + usize::from(instruction.jt), 1 + usize::from(instruction.jf)]
        }
        _ => [1; 2],
    }
}

/// What is known at each instruction, by the first way that leads to it: jumps go forward only.
fn flow(program: &[sock_filter]) -> Vec<Known> {
    let start = Known { loaded: Loaded::Nothing, arch: None };
    let mut known: Vec<Option<Known>> = vec![None; program.len()];
    for (position, instruction) in program.iter().enumerate() {
        let here = known[position].unwrap_or(start);
        known[position] = Some(here);
        if instruction.code == RETURN {
            continue;
        }
        let is_arch_test = here.loaded == Loaded::Arch && instruction.code == JUMP_EQUAL;
        for (index, distance) in targets(instruction).into_iter().enumerate() {
            let next = Known {
                loaded: if instruction.code == LOAD { loaded(instruction.k) } else { here.loaded },
                arch: if is_arch_test && index == 0 { Some(instruction.k) } else { here.arch },
            };
            if let Some(target) = known.get_mut(position + distance) {
                target.get_or_insert(next);
            }
        }
    }
    known.into_iter().map(|known| known.unwrap_or(start)).collect()
}

fn loaded(offset: u32) -> Loaded {
    match offset {
        NUMBER => Loaded::Number,
        ARCH => Loaded::Arch,
        _ => Loaded::Argument,
    }
}

fn text(instruction: &sock_filter, position: usize) -> String {
    let k = instruction.k;
    let [yes, no] = targets(instruction).map(|distance| position + distance);
    let branch = |name: &str| format!("{name} {k:#x}, {yes}, {no}");
    match instruction.code {
        LOAD => match k {
            NUMBER => "ld  number".to_owned(),
            ARCH => "ld  arch".to_owned(),
            offset => {
                let place = offset.wrapping_sub(ARGUMENTS);
                format!("ld  argument {}, bytes {}..{}", place / 8, place % 8, place % 8 + 4)
            }
        },
        AND => format!("and {k:#x}"),
        JUMP => format!("ja  {yes}"),
        JUMP_EQUAL => branch("jeq"),
        JUMP_GREATER => branch("jgt"),
        JUMP_GREATER_OR_EQUAL => branch("jge"),
        RETURN => format!("ret {k:#x}"),
        code => format!("{code:#x} {k:#x}, {yes}, {no}"),
    }
}

fn comment(instruction: &sock_filter, known: Known, arches: &[&Arch]) -> String {
    let k = instruction.k;
    let of_arch = |audit: u32| arches.iter().filter(move |arch| arch.audit == audit);
    let is_branch = matches!(instruction.code, JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_OR_EQUAL);
    let meaning = match known.loaded {
        _ if instruction.code == RETURN => Some(describe(k)),
        Loaded::Arch if is_branch => Some(of_arch(k).map(|arch| arch.name).collect::<Vec<_>>().join(", ")),
        Loaded::Number if is_branch => {
            let mut arches = of_arch(known.arch.unwrap_or_default());
            let has_number = |arch: &&&Arch| (arch.base == X32_BIT) == (k >= X32_BIT);
            arches.find(has_number).and_then(|arch| arch.syscall(k)).map(|syscall| syscall.name().to_owned())
        }
        _ => None,
    };
    meaning.filter(|text| !text.is_empty()).map(|text| format!("; {text}")).unwrap_or_default()
}
