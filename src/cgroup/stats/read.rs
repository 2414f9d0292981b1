//! Reading the files. Which version a controller is of shows by the names that its files have.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::parse::{device_lines, device_pairs, keyed, list, numbers, pressure, value};
use super::{
    BlockIo, Cpu, CpuSet, CpuUsage, DeviceEntry, HugePages, Memory, MemoryEntry, Pids, Pressure, Stats, Throttling,
};
use crate::cgroup::CgroupState;

impl CgroupState {
    /// What the container uses now.
    pub fn stats(&self) -> Stats {
        let files = Files { directories: &self.directories, unified: self.unified };
        Stats {
            cpu: files.cpu(),
            cpuset: if self.unified { CpuSet::default() } else { files.cpuset() },
            memory: files.memory(),
            pids: files.pids(),
            blkio: files.block_io(),
            hugetlb: files.huge_pages(),
            ..Stats::default()
        }
    }
}

/// The files of a container, wherever they are.
struct Files<'a> {
    directories: &'a [PathBuf],
    unified: bool,
}

/// How the files of an amount end: in use, the limit, the most so far, how often the limit was met.
type Suffixes = [&'static str; 4];
const V1: Suffixes = ["usage_in_bytes", "limit_in_bytes", "max_usage_in_bytes", "failcnt"];
const V2: Suffixes = ["current", "max", "peak", ""];

impl Files<'_> {
    fn text(&self, file: &str) -> Option<String> {
        self.directories.iter().find_map(|directory| fs::read_to_string(directory.join(file)).ok())
    }

    fn value(&self, file: &str) -> Option<u64> {
        value(&self.text(file)?)
    }

    fn keyed(&self, file: &str) -> BTreeMap<String, u64> {
        keyed(&self.text(file).unwrap_or_default())
    }

    /// As runc, on v2 only, although a hybrid host has it too.
    fn pressure(&self, file: &str) -> Option<Pressure> {
        self.text(file).filter(|_| self.unified).map(|text| pressure(&text))
    }

    fn cpu(&self) -> Cpu {
        const MICROSECOND: u64 = 1000;
        let stat = self.keyed("cpu.stat");
        let get = |key: &str| stat.get(key).copied();
        let throttled = get("throttled_time").or(get("throttled_usec").map(|time| time * MICROSECOND));
        let usage = match get("usage_usec") {
            Some(total) if self.unified => CpuUsage {
                total: total * MICROSECOND,
                kernel: get("system_usec").unwrap_or_default() * MICROSECOND,
                user: get("user_usec").unwrap_or_default() * MICROSECOND,
                ..CpuUsage::default()
            },
            _ => self.accounted(),
        };
        let throttling = Throttling {
            periods: get("nr_periods").unwrap_or_default(),
            throttled_periods: get("nr_throttled").unwrap_or_default(),
            throttled_time: throttled.unwrap_or_default(),
        };
        Cpu { usage, throttling, psi: self.pressure("cpu.pressure") }
    }

    /// v1's cpuacct.
    fn accounted(&self) -> CpuUsage {
        // USER_HZ is 100 on every architecture that there is a kernel for today.
        const TICK: u64 = 1_000_000_000 / 100;
        let stat = self.keyed("cpuacct.stat");
        let ticks = |key: &str| stat.get(key).copied().unwrap_or_default() * TICK;
        let all = self.text("cpuacct.usage_all").unwrap_or_default();
        // cpu user system
        let column = |index: usize| all.lines().skip(1).filter_map(|line| numbers(line).get(index).copied()).collect();
        CpuUsage {
            total: self.value("cpuacct.usage").unwrap_or_default(),
            percpu: numbers(&self.text("cpuacct.usage_percpu").unwrap_or_default()),
            percpu_kernel: column(2),
            percpu_user: column(1),
            kernel: ticks("system"),
            user: ticks("user"),
        }
    }

    fn cpuset(&self) -> CpuSet {
        let text = |name: &str| self.text(&format!("cpuset.{name}")).unwrap_or_default();
        let number = |name: &str| value(&text(name)).unwrap_or_default();
        CpuSet {
            cpus: list(&text("cpus")),
            cpu_exclusive: number("cpu_exclusive"),
            mems: list(&text("mems")),
            mem_hardwall: number("mem_hardwall"),
            mem_exclusive: number("mem_exclusive"),
            memory_migrate: number("memory_migrate"),
            memory_spread_page: number("memory_spread_page"),
            memory_spread_slab: number("memory_spread_slab"),
            memory_pressure: number("memory_pressure"),
            sched_load_balance: number("sched_load_balance"),
            sched_relax_domain_level: text("sched_relax_domain_level").trim().parse().unwrap_or_default(),
        }
    }

    fn amount(&self, prefix: &str, suffixes: Suffixes) -> MemoryEntry {
        let [usage, limit, max, failcnt] =
            suffixes.map(|suffix| self.value(&format!("{prefix}.{suffix}")).unwrap_or_default());
        MemoryEntry { limit, usage, max, failcnt }
    }

    fn memory(&self) -> Memory {
        let raw = self.keyed("memory.stat");
        let psi = self.pressure("memory.pressure");
        let cache = raw.get(if self.unified { "file" } else { "cache" }).copied().unwrap_or_default();
        if !self.unified {
            let [usage, swap, kernel, kernel_tcp] =
                ["memory", "memory.memsw", "memory.kmem", "memory.kmem.tcp"].map(|prefix| self.amount(prefix, V1));
            return Memory { cache, usage, swap, kernel, kernel_tcp, raw, psi };
        }
        let (usage, swap) = (self.amount("memory", V2), self.amount("memory.swap", V2));
        Memory { cache, swap: together(&usage, &swap), usage, raw, psi, ..Memory::default() }
    }

    fn pids(&self) -> Pids {
        // Without the controller the processes are counted.
        let counted = || self.text("cgroup.procs").map(|list| list.lines().count() as u64);
        Pids {
            current: self.value("pids.current").or_else(counted).unwrap_or_default(),
            limit: self.value("pids.max").filter(|limit| *limit != u64::MAX).unwrap_or_default(),
        }
    }

    fn block_io(&self) -> BlockIo {
        let psi = self.pressure("io.pressure");
        if let Some(text) = self.text("io.stat").filter(|_| self.unified) {
            return BlockIo {
                io_service_bytes_recursive: device_pairs(&text, &[("rbytes", "Read"), ("wbytes", "Write")]),
                io_serviced_recursive: device_pairs(&text, &[("rios", "Read"), ("wios", "Write")]),
                psi,
                ..BlockIo::default()
            };
        }
        BlockIo {
            io_service_bytes_recursive: self.scheduled("io_service_bytes_recursive"),
            io_serviced_recursive: self.scheduled("io_serviced_recursive"),
            io_queue_recursive: self.scheduled("io_queued_recursive"),
            io_service_time_recursive: self.scheduled("io_service_time_recursive"),
            io_wait_time_recursive: self.scheduled("io_wait_time_recursive"),
            io_merged_recursive: self.scheduled("io_merged_recursive"),
            io_time_recursive: self.scheduled("time_recursive"),
            sectors_recursive: self.scheduled("sectors_recursive"),
            psi,
        }
    }

    /// v1's figures are with the scheduler that the devices use: the first that has any.
    fn scheduled(&self, name: &str) -> Vec<DeviceEntry> {
        let schedulers = ["blkio.bfq", "blkio", "blkio.throttle"];
        let mut lists = schedulers.iter().map(|scheduler| {
            let text = self.text(&format!("{scheduler}.{name}")).unwrap_or_default();
            device_lines(&text)
        });
        lists.find(|entries| !entries.is_empty()).unwrap_or_default()
    }

    fn huge_pages(&self) -> BTreeMap<String, HugePages> {
        page_sizes().into_iter().filter_map(|size| Some((size.clone(), self.huge_pages_of(&size)?))).collect()
    }

    /// Reservations where they are counted, as runc does.
    fn huge_pages_of(&self, size: &str) -> Option<HugePages> {
        let plain = format!("hugetlb.{size}");
        [format!("{plain}.rsvd"), plain.clone()].iter().find_map(|prefix| {
            if let Some(usage) = self.value(&format!("{prefix}.current")) {
                let failcnt = self.keyed(&format!("{plain}.events")).get("max").copied().unwrap_or_default();
                return Some(HugePages { usage, max: 0, failcnt });
            }
            self.value(&format!("{prefix}.usage_in_bytes"))?;
            let MemoryEntry { usage, max, failcnt, .. } = self.amount(prefix, V1);
            Some(HugePages { usage, max, failcnt })
        })
    }
}

/// v1 counts memory and swap together: so v2's are added.
fn together(memory: &MemoryEntry, swap: &MemoryEntry) -> MemoryEntry {
    MemoryEntry {
        usage: swap.usage + memory.usage,
        limit: if swap.limit == u64::MAX { u64::MAX } else { swap.limit.saturating_add(memory.limit) },
        max: 0,
        failcnt: swap.failcnt,
    }
}

/// The sizes of huge pages, as the names of files have them: `2MB`.
fn page_sizes() -> Vec<String> {
    let entries = fs::read_dir(Path::new("/sys/kernel/mm/hugepages")).into_iter().flatten().flatten();
    let kilobytes = entries
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok());
    kilobytes.map(page_size).collect()
}

fn page_size(kilobytes: u64) -> String {
    match kilobytes {
        size if size >= 1 << 20 => format!("{}GB", size >> 20),
        size if size >= 1 << 10 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_told_with_memory() {
        let entry = |usage, limit| MemoryEntry { usage, limit, max: 9, failcnt: 0 };
        assert_eq!(together(&entry(3, 10), &entry(2, 5)), MemoryEntry { usage: 5, limit: 15, max: 0, failcnt: 0 });
        assert_eq!(together(&entry(3, 10), &entry(2, u64::MAX)).limit, u64::MAX);
        assert_eq!(together(&entry(3, u64::MAX), &entry(2, 5)).limit, u64::MAX);
    }

    #[test]
    fn sizes_of_pages_have_units() {
        assert_eq!([4, 64, 2048, 1 << 20, 16 << 20].map(page_size), ["4KB", "64KB", "2MB", "1GB", "16GB"]);
    }
}
