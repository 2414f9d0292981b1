//! The system calls of every architecture: one sorted list of names, with a number for each architecture.
//!
//! `generate` beside this file writes `numbers.rs` from the kernel's headers; run it when there is a newer kernel.

mod numbers;

use numbers::{COUNT, NAMES, NUMBERS};

/// How many sets of numbers there are; architectures that differ in their byte order only share one.
pub const COLUMNS: usize = 18;

/// In a row: the architecture does not have this system call.
const NONE: u16 = u16::MAX;

/// Numbers of 32-bit ARM itself are stored with this bit, and lie at [`ARM_PRIVATE`] in the kernel.
const ARM_PRIVATE_BIT: u16 = 1 << 15;

/// The first number of the calls that only 32-bit ARM has.
pub const ARM_PRIVATE: u32 = 0x000f_0000;

/// The sets of numbers, in the order in which `generate` writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
    Riscv64,
    Loongarch64,
    M68k,
    Mips,
    Mips64,
    Mips64N32,
    Ppc,
    Ppc64,
    S390,
    S390x,
    Parisc,
    Parisc64,
    Sh,
}

/// A system call by name: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Syscall(u16);

/// Where each name begins in [`NAMES`], and where the last one ends.
static STARTS: [u16; COUNT + 1] = starts();

const fn starts() -> [u16; COUNT + 1] {
    let names = NAMES.as_bytes();
    let (mut starts, mut row, mut position) = ([0; COUNT + 1], 0, 0);
    while position < names.len() {
        if names[position] == b'\n' {
            row += 1;
            starts[row] = position as u16 + 1;
        }
        position += 1;
    }
    starts
}

impl Syscall {
    /// Every system call of any architecture.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..COUNT as u16).map(Self)
    }

    /// The system call called `name`.
    pub fn find(name: &str) -> Option<Self> {
        let (mut low, mut high) = (0, COUNT);
        while low < high {
            let middle = usize::midpoint(low, high);
            match Self(middle as u16).name().cmp(name) {
                std::cmp::Ordering::Equal => return Some(Self(middle as u16)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let row = usize::from(self.0);
        &NAMES[usize::from(STARTS[row])..usize::from(STARTS[row + 1]) - 1]
    }

    /// Its number, counted from the first of the architecture.
    pub fn number(self, column: Column) -> Option<u32> {
        match NUMBERS[usize::from(self.0)][column as usize] {
            NONE => None,
            number if number & ARM_PRIVATE_BIT != 0 => Some(ARM_PRIVATE + u32::from(number & !ARM_PRIVATE_BIT)),
            number => Some(u32::from(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found() {
        assert_eq!(Syscall::all().count(), COUNT);
        for syscall in Syscall::all() {
            assert_eq!(Syscall::find(syscall.name()), Some(syscall), "{}", syscall.name());
        }
        for name in ["", "a", "reads", "zzz", "accept\naccept4", "\n"] {
            assert_eq!(Syscall::find(name), None, "{name:?}");
        }
    }

    #[test]
    fn numbers_are_the_kernels() {
        let number = |name: &str, column| Syscall::find(name).unwrap().number(column);
        assert_eq!(number("read", Column::X86_64), Some(0));
        assert_eq!(number("ioctl", Column::X32), Some(514));
        assert_eq!(number("socketcall", Column::X86), Some(102));
        assert_eq!(number("open", Column::Aarch64), None);
        assert_eq!(number("cacheflush", Column::Arm), Some(0xf0002));
        assert_eq!(number("riscv_hwprobe", Column::Riscv64), Some(258));
        assert_eq!(number("clone3", Column::S390), Some(435));
        assert_eq!(number("mmap2", Column::S390), Some(192));
        assert_eq!(number("socketcall", Column::Mips), Some(102));
    }

    #[test]
    fn no_two_names_share_a_number() {
        for column in [Column::X86_64, Column::X86, Column::X32, Column::Aarch64, Column::Arm, Column::Riscv64] {
            let mut numbers: Vec<_> = Syscall::all().filter_map(|syscall| syscall.number(column)).collect();
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{column:?}");
        }
    }
}
