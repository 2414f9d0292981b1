//! What the first bytes of a file say about it as a program: as far as they explain a failed execve(2).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// How much of a file the kernel looks at to tell what it is (`BINPRM_BUF_SIZE`).
pub const HEAD: usize = 256;

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Empty,
    /// `#!` and the program that the first line names.
    Script {
        interpreter: PathBuf,
    },
    /// Text that begins otherwise.
    Text {
        /// A byte order mark, and `#!` behind it.
        has_mark: bool,
    },
    Elf(Elf),
    /// The header of an ELF file that is cut off or makes no sense.
    BrokenElf,
    /// A program of another system, or something else that is known by name.
    Foreign(&'static str),
    Unknown,
}

/// The header of an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elf {
    is_64: bool,
    is_little: bool,
    kind: u16,
    machine: u16,
    /// Where the program headers are, the size of one, and how many.
    headers: (u64, usize, usize),
}

/// Beginnings of what people take for programs of Linux.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"MZ", "a program for Windows"),
    (b"\xcf\xfa\xed\xfe", "a program for macOS"),
    (b"\xce\xfa\xed\xfe", "a program for macOS"),
    (b"\xca\xfe\xba\xbe", "a program for macOS, or a Java class"),
    (b"\0asm", "a WebAssembly module"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"\xfd7zXZ", "compressed by xz"),
    (b"PK\x03\x04", "a zip archive"),
    (b"!<arch>", "a library archive"),
];

/// Machines by their ELF number, and the names that images have for them.
const MACHINES: &[(u16, &str)] = &[
    (3, "386"),
    (8, "mips"),
    (20, "ppc"),
    (21, "ppc64"),
    (22, "s390x"),
    (40, "arm"),
    (62, "amd64"),
    (183, "arm64"),
    (243, "riscv64"),
    (258, "loong64"),
];

/// The machine that this program is for.
#[cfg(target_arch = "x86_64")]
const OWN_MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const OWN_MACHINE: u16 = 183;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OWN_MACHINE: u16 = 0;

/// Looks at the beginning of a file: [`HEAD`] bytes, or all where it has fewer.
pub fn read(head: &[u8]) -> Content {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if head.is_empty() {
        return Content::Empty;
    }
    if let Some(line) = head.strip_prefix(b"#!") {
        return script(line);
    }
    if head.starts_with(b"\x7fELF") {
        return Elf::read(head).map_or(Content::BrokenElf, Content::Elf);
    }
    if let Some((_, name)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Content::Foreign(name);
    }
    if head.contains(&0) {
        return Content::Unknown;
    }
    Content::Text { has_mark: head.strip_prefix(MARK).is_some_and(|rest| rest.starts_with(b"#!")) }
}

/// As the kernel reads it: blanks, the interpreter's path up to a blank or the line's end.
fn script(line: &[u8]) -> Content {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let path = line.split(is_blank).find(|word| !word.is_empty()).unwrap_or_default();
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    Content::Script { interpreter: OsStr::from_bytes(path).into() }
}

impl Elf {
    fn read(head: &[u8]) -> Option<Self> {
        let is_64 = match head.get(4)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let is_little = *head.get(5)? == 1;
        let mut elf = Self { is_64, is_little, kind: 0, machine: 0, headers: (0, 0, 0) };
        elf.kind = elf.number(head, 16, 2)? as u16;
        elf.machine = elf.number(head, 18, 2)? as u16;
        let (offset, size, count) = if is_64 { ((32, 8), 54, 56) } else { ((28, 4), 42, 44) };
        elf.headers = (
            elf.number(head, offset.0, offset.1)?,
            elf.number(head, size, 2)? as usize,
            elf.number(head, count, 2)? as usize,
        );
        Some(elf)
    }

    fn number(&self, bytes: &[u8], place: usize, length: usize) -> Option<u64> {
        let digits = bytes.get(place..place.checked_add(length)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.is_little { digits.iter().rev().fold(0, add) } else { digits.iter().fold(0, add) })
    }

    /// Whether it can be executed at all: libraries and position-independent programs look the same.
    pub fn is_program(&self) -> bool {
        matches!(self.kind, 2 | 3)
    }

    /// The name of the machine that it is for, if that is not this one.
    pub fn other_machine(&self) -> Option<String> {
        if self.machine == OWN_MACHINE || OWN_MACHINE == 0 {
            return None;
        }
        let name = MACHINES.iter().find(|(number, _)| *number == self.machine).map(|(_, name)| *name);
        let little = if self.is_little && matches!(self.machine, 8 | 21) { "le" } else { "" };
        Some(name.map_or_else(|| format!("ELF machine {}", self.machine), |name| format!("{name}{little}")))
    }

    /// Where the program headers are: offset and length, bounded.
    pub fn headers(&self) -> (u64, usize) {
        const MOST: usize = 128;
        let (offset, size, count) = self.headers;
        (offset, size.min(64) * count.min(MOST))
    }

    /// Where the path of its loader is, from the program headers: offset and length, bounded.
    pub fn loader(&self, headers: &[u8]) -> Option<(u64, usize)> {
        const PT_INTERP: u64 = 3;
        const MAX_PATH: u64 = 4096;
        let size = self.headers.1.clamp(1, 64);
        let (offset, length) = if self.is_64 { ((8, 8), (32, 8)) } else { ((4, 4), (16, 4)) };
        let header = headers.chunks_exact(size).find(|header| self.number(header, 0, 4) == Some(PT_INTERP))?;
        let length = self.number(header, length.0, length.1)?.min(MAX_PATH);
        Some((self.number(header, offset.0, offset.1)?, length as usize))
    }
}

/// The name of this machine, as images have it.
pub fn own_machine() -> &'static str {
    MACHINES.iter().find(|(number, _)| *number == OWN_MACHINE).map_or(std::env::consts::ARCH, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpreter(line: &[u8]) -> PathBuf {
        match read(line) {
            Content::Script { interpreter } => interpreter,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_interpreter_is_read_as_the_kernel_does() {
        for (line, path) in [
            (&b"#!/bin/sh\necho"[..], "/bin/sh"),
            (b"#! \t/usr/bin/env -S x\n", "/usr/bin/env"),
            (b"#!/bin/sh\r\n", "/bin/sh\r"),
            (b"#!/bin/sh", "/bin/sh"),
            (b"#!\n/bin/sh", ""),
            (b"#!", ""),
        ] {
            assert_eq!(interpreter(line), PathBuf::from(path), "{line:?}");
        }
    }

    #[test]
    fn files_that_are_no_programs_are_told_apart() {
        for (head, content) in [
            (&b""[..], Content::Empty),
            (b"echo hi\n", Content::Text { has_mark: false }),
            (b"\xef\xbb\xbf#!/bin/sh\n", Content::Text { has_mark: true }),
            (b"MZ\x90\0", Content::Foreign("a program for Windows")),
            (b"\0\0\0\0", Content::Unknown),
            (b"\x7fELF", Content::BrokenElf),
            (b"\x7fELF\x02\x01\x01", Content::BrokenElf),
            (b"\x7fELF\x09\x01\x01", Content::BrokenElf),
        ] {
            assert_eq!(read(head), content, "{head:?}");
        }
    }

    #[test]
    fn this_program_is_for_this_machine_and_has_no_loader_or_a_real_one() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        let Content::Elf(elf) = read(&bytes[..HEAD]) else { panic!("not ELF") };
        assert!(elf.is_program() && elf.other_machine().is_none());
        let (offset, length) = elf.headers();
        if let Some((offset, length)) = elf.loader(&bytes[offset as usize..offset as usize + length]) {
            assert!(bytes[offset as usize..offset as usize + length].starts_with(b"/"));
        }
    }

    #[test]
    fn another_machine_is_named() {
        let mut head = [0; 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[16] = 2;
        for (number, name) in [(183_u16, "arm64"), (22, "s390x"), (21, "ppc64le"), (999, "ELF machine 999")] {
            if number == OWN_MACHINE {
                continue;
            }
            head[18..20].copy_from_slice(&number.to_le_bytes());
            let Content::Elf(elf) = read(&head) else { panic!("not ELF") };
            assert_eq!(elf.other_machine().as_deref(), Some(name));
        }
    }

    #[test]
    fn headers_that_lie_are_bounded() {
        let mut head = [0xff; HEAD];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let Content::Elf(elf) = read(&head) else { panic!("not ELF") };
        assert!(elf.headers().1 <= 64 * 128);
        assert_eq!(elf.loader(&[3; 100]), None);
        assert_eq!(elf.loader(&[]), None);
    }
}
