//! What the cgroup part of one container costs on cgroup v2: kelson's, from the plan to the removal, against the bare
//! calls that do the same to the kernel. As root, in a cgroup v2 view:
//!
//!     cargo bench --bench cgroup [-- ROUNDS]
//!
//! Prints the medians of interleaved rounds, their ratio, and with strace(1) how many system calls each makes.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kelson::cgroup::{self, Manager};
use kelson::spec::{Linux, parse};
use kelson::sys::alloc::Bump;
use kelson::sys::fs::open;
use nix::fcntl::OFlag;
use nix::unistd::write;

#[global_allocator]
static ALLOCATOR: Bump = Bump::new();

const ROOT: &str = "/sys/fs/cgroup";
const SIZES: [&str; 2] = ["hugetlb.2MB.rsvd.max", "hugetlb.2MB.max"];

/// What is measured: its name, and one container's worth of it.
type Way = (&'static str, fn(&str));

/// Beside the bare calls kelson's, without and with the device list that every engine sends. Limits are of huge
/// pages and of depth: that much every machine has.
const WAYS: [Way; 4] = [
    ("bare: mkdir, 3 writes, rmdir", |name| {
        let path = Path::new(ROOT).join(name);
        fs::create_dir(&path).unwrap();
        for (file, value) in [(SIZES[0], "4194304"), (SIZES[1], "4194304"), ("cgroup.max.depth", "5")] {
            write(open(&path.join(file), OFlag::O_WRONLY).unwrap(), value.as_bytes()).unwrap();
        }
        fs::remove_dir(&path).unwrap();
    }),
    ("kelson", |name| kelson(name, "[]")),
    ("kelson, with its program for devices", |name| kelson(name, r#"[{"allow":false,"access":"rwm"}]"#)),
    ("kelson, three levels deep", |name| kelson(&format!("{name}/a/b"), "[]")),
];

fn kelson(name: &str, devices: &str) {
    let json = format!(
        r#"{{"cgroupsPath":"/{name}","resources":{{"devices":{devices},"unified":{{"cgroup.max.depth":"5"}},
        "hugepageLimits":[{{"pageSize":"2MB","limit":4194304}}]}}}}"#
    );
    let linux: Linux = parse(json.as_bytes()).unwrap();
    let plan = cgroup::plan(&linux, &std::collections::BTreeMap::new(), name, Manager::Cgroupfs).unwrap();
    plan.check_unused().unwrap();
    let mut state = plan.state().unwrap();
    drop(black_box(plan.make(&mut state, false).unwrap()));
    state.remove(true).unwrap();
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [way, count, ..] = &arguments[..] {
        return repeat(way.parse().unwrap(), count.parse().unwrap());
    }
    if !Path::new(ROOT).join("cgroup.controllers").exists() {
        eprintln!("run it in a cgroup v2 view: unshare -m --propagation private sh -c 'mount -t cgroup2 …'");
        std::process::exit(1);
    }
    let rounds = arguments.first().map_or(300, |rounds| rounds.parse().unwrap());
    let mut times = WAYS.map(|_| Vec::new());
    for round in 0..rounds {
        for (way, times) in WAYS.iter().zip(&mut times) {
            let began = Instant::now();
            (way.1)(&name(round));
            times.push(began.elapsed());
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let bare = median(&mut times[0]);
    println!("{:38} {:>10} {:>6} {:>14}", "", "median", "ratio", "system calls");
    for (place, (title, _)) in WAYS.iter().enumerate() {
        let own = median(&mut times[place]);
        let ratio = own.as_secs_f64() / bare.as_secs_f64();
        let calls = calls(place).map_or("no strace".to_owned(), |count| count.to_string());
        println!("{title:38} {:>7.1} µs {ratio:>6.2} {calls:>14}", own.as_secs_f64() * 1e6);
    }
}

fn name(round: u32) -> String {
    format!("kelson-bench-{}-{round}", std::process::id())
}

fn repeat(way: usize, count: u32) {
    (0..count).for_each(|round| (WAYS[way].1)(&name(round)));
}

/// The system calls of one more container, as strace counts them.
fn calls(way: usize) -> Option<u64> {
    let total = |count: u32| {
        let own = std::env::current_exe().ok()?;
        let log = std::env::temp_dir().join(format!("{}.strace", name(count)));
        let mut strace = Command::new("strace");
        strace.arg("-f").arg("-o").arg(&log).arg(own).args([way.to_string(), count.to_string()]);
        strace.status().ok().filter(std::process::ExitStatus::success)?;
        let text = fs::read_to_string(&log).ok()?;
        let _ = fs::remove_file(log);
        Some(text.lines().filter(|line| line.contains('(')).count() as u64)
    };
    Some(total(11)?.checked_sub(total(1)?)? / 10)
}
