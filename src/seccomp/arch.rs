//! The architectures that a profile may name, and what the kernel tells a filter about each.

use super::tables::{Column, Syscall};

/// An architecture, as `SCMP_ARCH_*` names it.
#[derive(Clone, Copy, Debug)]
pub struct Arch {
    pub name: &'static str,
    /// `AUDIT_ARCH_*`, audit.h: what `seccomp_data.arch` holds.
    pub audit: u32,
    pub column: Column,
    /// The number of its first system call.
    pub base: u32,
    /// Whether arguments are compared as 64 bits; else as the low 32.
    pub is_64_bit: bool,
    pub is_big_endian: bool,
    /// Whether sockets and System V IPC may also be reached through `socketcall` and `ipc`.
    pub has_multiplexers: bool,
    family: Family,
}

/// Architectures of one family and byte order run on the same machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    X86,
    Arm,
    Riscv,
    Loongarch,
    M68k,
    Mips,
    Ppc,
    S390,
    Parisc,
    Sh,
}

/// In the numbers of x32's system calls, which share x86_64's `AUDIT_ARCH_*`.
pub const X32_BIT: u32 = 1 << 30;

const LE: u32 = 0x4000_0000;
const BITS_64: u32 = 0x8000_0000;
const N32: u32 = 0x2000_0000;

const fn arch(name: &'static str, family: Family, column: Column, audit: u32) -> Arch {
    Arch {
        name,
        audit,
        column,
        base: 0,
        is_64_bit: audit & BITS_64 != 0,
        is_big_endian: audit & LE == 0,
        has_multiplexers: false,
        family,
    }
}

const fn multiplexed(arch: Arch) -> Arch {
    Arch { has_multiplexers: true, ..arch }
}

const fn from(base: u32, arch: Arch) -> Arch {
    Arch { base, ..arch }
}

const fn narrow(arch: Arch) -> Arch {
    Arch { is_64_bit: false, ..arch }
}

/// All of them (config-linux.md, "Seccomp").
pub static ARCHES: [Arch; 23] = [
    arch("SCMP_ARCH_AARCH64", Family::Arm, Column::Aarch64, 183 | BITS_64 | LE),
    arch("SCMP_ARCH_ARM", Family::Arm, Column::Arm, 40 | LE),
    arch("SCMP_ARCH_LOONGARCH64", Family::Loongarch, Column::Loongarch64, 258 | BITS_64 | LE),
    multiplexed(arch("SCMP_ARCH_M68K", Family::M68k, Column::M68k, 4)),
    multiplexed(from(4000, arch("SCMP_ARCH_MIPS", Family::Mips, Column::Mips, 8))),
    from(5000, arch("SCMP_ARCH_MIPS64", Family::Mips, Column::Mips64, 8 | BITS_64)),
    narrow(from(6000, arch("SCMP_ARCH_MIPS64N32", Family::Mips, Column::Mips64N32, 8 | BITS_64 | N32))),
    multiplexed(from(4000, arch("SCMP_ARCH_MIPSEL", Family::Mips, Column::Mips, 8 | LE))),
    from(5000, arch("SCMP_ARCH_MIPSEL64", Family::Mips, Column::Mips64, 8 | BITS_64 | LE)),
    narrow(from(6000, arch("SCMP_ARCH_MIPSEL64N32", Family::Mips, Column::Mips64N32, 8 | BITS_64 | LE | N32))),
    arch("SCMP_ARCH_PARISC", Family::Parisc, Column::Parisc, 15),
    arch("SCMP_ARCH_PARISC64", Family::Parisc, Column::Parisc64, 15 | BITS_64),
    multiplexed(arch("SCMP_ARCH_PPC", Family::Ppc, Column::Ppc, 20)),
    multiplexed(arch("SCMP_ARCH_PPC64", Family::Ppc, Column::Ppc64, 21 | BITS_64)),
    multiplexed(arch("SCMP_ARCH_PPC64LE", Family::Ppc, Column::Ppc64, 21 | BITS_64 | LE)),
    arch("SCMP_ARCH_RISCV64", Family::Riscv, Column::Riscv64, 243 | BITS_64 | LE),
    multiplexed(arch("SCMP_ARCH_S390", Family::S390, Column::S390, 22)),
    multiplexed(arch("SCMP_ARCH_S390X", Family::S390, Column::S390x, 22 | BITS_64)),
    multiplexed(arch("SCMP_ARCH_SH", Family::Sh, Column::Sh, 42 | LE)),
    multiplexed(arch("SCMP_ARCH_SHEB", Family::Sh, Column::Sh, 42)),
    narrow(from(X32_BIT, arch("SCMP_ARCH_X32", Family::X86, Column::X32, 62 | BITS_64 | LE))),
    multiplexed(arch("SCMP_ARCH_X86", Family::X86, Column::X86, 3 | LE)),
    arch("SCMP_ARCH_X86_64", Family::X86, Column::X86_64, 62 | BITS_64 | LE),
];

const NATIVE: &str = match (cfg!(target_endian = "little"), std::env::consts::ARCH.as_bytes()) {
    (_, b"aarch64") => "SCMP_ARCH_AARCH64",
    (_, b"arm") => "SCMP_ARCH_ARM",
    (_, b"loongarch64") => "SCMP_ARCH_LOONGARCH64",
    (true, b"powerpc64") => "SCMP_ARCH_PPC64LE",
    (false, b"powerpc64") => "SCMP_ARCH_PPC64",
    (_, b"riscv64") => "SCMP_ARCH_RISCV64",
    (_, b"s390x") => "SCMP_ARCH_S390X",
    (_, b"x86") => "SCMP_ARCH_X86",
    (_, b"x86_64") => "SCMP_ARCH_X86_64",
    _ => panic!("this architecture has no name here yet"),
};

/// The architecture of this machine.
pub fn native() -> &'static Arch {
    // The name is one of the table's, as the tests see to.
    find(NATIVE).unwrap_or(&ARCHES[0])
}

/// The architecture that somebody calls `name`: `x86_64` and `amd64` are `SCMP_ARCH_X86_64`.
pub fn find_loosely(name: &str) -> Option<&'static Arch> {
    let upper = name.to_uppercase();
    let full = if upper.starts_with("SCMP_ARCH_") { upper } else { format!("SCMP_ARCH_{upper}") };
    find(&full).or_else(|| ARCHES.iter().find(|arch| arch.engine_name() == name))
}

/// The architecture called `name`.
pub fn find(name: &str) -> Option<&'static Arch> {
    ARCHES.iter().find(|arch| arch.name == name)
}

impl Arch {
    /// The number of a system call.
    pub fn number(&self, syscall: Syscall) -> Option<u32> {
        syscall.number(self.column).map(|number| self.base + number)
    }

    /// The system call with a number.
    pub fn syscall(&self, number: u32) -> Option<Syscall> {
        Syscall::all().find(|syscall| self.number(*syscall) == Some(number))
    }

    /// The architecture that one of its numbers is for: x32 and x86_64 are told apart by them only.
    pub fn of_number(&'static self, number: u32) -> &'static Self {
        let is_x32 = number >= X32_BIT;
        let mut same = ARCHES.iter().filter(|arch| arch.audit == self.audit && arch.name != self.name);
        same.find(|arch| (arch.base == X32_BIT) == is_x32).filter(|_| is_x32 != (self.base == X32_BIT)).unwrap_or(self)
    }

    /// The name that engines' profiles have for it, mostly Go's.
    pub fn engine_name(&self) -> String {
        match self.name {
            "SCMP_ARCH_AARCH64" => "arm64".to_owned(),
            "SCMP_ARCH_X86_64" => "amd64".to_owned(),
            name => name.trim_start_matches("SCMP_ARCH_").to_lowercase(),
        }
    }

    /// The architecture of the machines that run its programs: this machine's own if it does, else of their 64 bits.
    pub fn machine(&'static self) -> &'static Self {
        let native = native();
        let wide = || ARCHES.iter().find(|arch| self.runs_on(arch) && arch.is_64_bit);
        if self.runs_on(native) { native } else { wide().unwrap_or(self) }
    }

    /// Whether a machine of the architecture `machine` may run its programs.
    pub fn runs_on(&self, machine: &Self) -> bool {
        self.family == machine.family && self.is_big_endian == machine.is_big_endian
    }

    /// Whether the kernel calls this number in place of one that it does not know.
    pub fn hides_unknown_numbers_behind(&self, number: u32) -> bool {
        // s390 passes numbers above 255 to a filter through setup(2), which is nobody's call any more.
        self.family == Family::S390 && number == 0
    }
}

/// A system call that can also be reached through another one: that one, and the first argument that means it.
#[derive(Clone, Copy, Debug)]
pub struct Multiplexed {
    pub syscall: Syscall,
    pub through: Syscall,
    pub call: u32,
}

/// All such system calls: net.h numbers sockets' from 1 in this order, ipc.h those of System V IPC as here.
pub fn multiplexed_syscalls() -> Vec<Multiplexed> {
    const SOCKET: &[&str] = &[
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: &[&str] = &[
        "semop",
        "semget",
        "semctl",
        "semtimedop",
        "",
        "",
        "",
        "",
        "",
        "",
        "msgsnd",
        "msgrcv",
        "msgget",
        "msgctl",
        "",
        "",
        "",
        "",
        "",
        "",
        "shmat",
        "shmdt",
        "shmget",
        "shmctl",
    ];
    let list = |name: &str, calls: &'static [&'static str]| {
        let through = Syscall::find(name);
        calls.iter().zip(1..).filter_map(move |(name, call)| {
            Some(Multiplexed { syscall: Syscall::find(name)?, through: through?, call })
        })
    };
    list("socketcall", SOCKET).chain(list("ipc", IPC)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_native_architecture_is_known() {
        assert_eq!(native().name, NATIVE);
        assert!(native().runs_on(native()));
    }

    #[test]
    fn a_machine_runs_its_own_kind() {
        let names = |machine: &str| {
            let machine = find(machine).unwrap();
            ARCHES.iter().filter(|arch| arch.runs_on(machine)).map(|arch| arch.name).collect::<Vec<_>>()
        };
        assert_eq!(names("SCMP_ARCH_X86_64"), ["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"]);
        assert_eq!(names("SCMP_ARCH_AARCH64"), ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]);
        assert_eq!(names("SCMP_ARCH_PPC64LE"), ["SCMP_ARCH_PPC64LE"]);
        assert_eq!(names("SCMP_ARCH_S390X"), ["SCMP_ARCH_S390", "SCMP_ARCH_S390X"]);
    }

    #[test]
    fn people_have_names_of_their_own() {
        for (name, arch) in [("SCMP_ARCH_ARM", "ARM"), ("x86_64", "X86_64"), ("amd64", "X86_64"), ("arm64", "AARCH64")]
        {
            assert_eq!(find_loosely(name).unwrap().name, format!("SCMP_ARCH_{arch}"));
        }
        assert!(find_loosely("z80").is_none() && find_loosely("").is_none());
        assert_eq!(find("SCMP_ARCH_S390").unwrap().machine().name, "SCMP_ARCH_S390X");
        assert_eq!(find("SCMP_ARCH_SHEB").unwrap().machine().name, "SCMP_ARCH_SHEB");
        assert_eq!(native().machine().name, NATIVE);
        let of = |arch: &str, number| find(arch).unwrap().of_number(number).name;
        assert_eq!([of("SCMP_ARCH_X86_64", X32_BIT), of("SCMP_ARCH_X86_64", 7)], ["SCMP_ARCH_X32", "SCMP_ARCH_X86_64"]);
        assert_eq!([of("SCMP_ARCH_X32", X32_BIT), of("SCMP_ARCH_X32", 7)], ["SCMP_ARCH_X32", "SCMP_ARCH_X86_64"]);
        assert_eq!(of("SCMP_ARCH_X86", X32_BIT), "SCMP_ARCH_X86");
    }

    #[test]
    fn numbers_have_the_base_of_their_architecture() {
        let number = |arch: &str, name: &str| find(arch).unwrap().number(Syscall::find(name).unwrap());
        assert_eq!(number("SCMP_ARCH_X32", "ioctl"), Some(0x4000_0000 + 514));
        assert_eq!(number("SCMP_ARCH_MIPS64", "write"), Some(5001));
        assert_eq!(number("SCMP_ARCH_MIPSEL", "socketcall"), Some(4102));
    }
}
