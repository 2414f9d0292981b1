//! How the process is scheduled: CPU policy, I/O priority, affinity.

use nix::unistd::Pid;

use super::cpu_list;
use crate::error::{Context, Error, Result};
use crate::spec::{IoPriority, Process, Scheduler};
use crate::sys::sched::{self, SchedulerAttributes};

/// Everything about scheduling; what is absent is not touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    pub scheduler: Option<SchedulerAttributes>,
    /// Class and level.
    pub io_priority: Option<(u32, u32)>,
    /// CPUs before joining the cgroup, and after; bit masks. Only for `exec`.
    pub initial_cpus: Option<Vec<u64>>,
    pub final_cpus: Option<Vec<u64>>,
}

const POLICIES: &[(&str, u32)] = &[
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

const FLAGS: &[(&str, u64)] = &[
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

const IO_CLASSES: &[(&str, u32)] = &[("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

/// Reads `process.scheduler`, `ioPriority` and `execCPUAffinity`.
pub fn plan(process: &Process) -> Result<Schedule> {
    let affinity = process.exec_cpu_affinity.as_ref();
    let cpus = |field: &str, list: Option<&String>| -> Result<Option<Vec<u64>>> {
        let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(None) };
        let pointer = format!("/process/execCPUAffinity/{field}");
        cpu_list::parse(list).map(Some).ok_or_else(|| Error::new(format!("{list:?} is no CPU list")).pointer(pointer))
    };
    Ok(Schedule {
        scheduler: process.scheduler.as_ref().map(scheduler).transpose()?,
        io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
        initial_cpus: cpus("initial", affinity.map(|affinity| &affinity.initial))?,
        final_cpus: cpus("final", affinity.map(|affinity| &affinity.last))?,
    })
}

fn find<T: Copy>(table: &[(&str, T)], name: &str, pointer: &str) -> Result<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<_> = table.iter().map(|(name, _)| *name).collect();
        Error::new(format!("{name:?} is unknown")).pointer(pointer).hint(format!("one of {}", known.join(", ")))
    })
}

fn scheduler(scheduler: &Scheduler) -> Result<SchedulerAttributes> {
    let wrong = |field: &str, message: &str| Err(Error::new(message).pointer(format!("/process/scheduler/{field}")));
    let policy = find(POLICIES, &scheduler.policy, "/process/scheduler/policy")?;
    let mut flags = 0;
    for (index, flag) in scheduler.flags.iter().enumerate() {
        flags |= find(FLAGS, flag, &format!("/process/scheduler/flags/{index}"))?;
    }
    let deadline = policy == 6;
    if !(-20..=19).contains(&scheduler.nice) {
        return wrong("nice", "nice is between -20 and 19");
    }
    if scheduler.priority != 0 && !matches!(policy, 1 | 2) {
        return wrong("priority", "only SCHED_FIFO and SCHED_RR have a priority");
    }
    if !deadline && (scheduler.runtime, scheduler.deadline, scheduler.period) != (0, 0, 0) {
        return wrong("runtime", "only SCHED_DEADLINE has a runtime, deadline and period");
    }
    let priority = u32::try_from(scheduler.priority)
        .map_err(|_| Error::new("a priority is not negative").pointer("/process/scheduler/priority"))?;
    Ok(SchedulerAttributes {
        policy,
        flags,
        nice: scheduler.nice,
        priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
        ..SchedulerAttributes::default()
    })
}

fn io_priority(priority: &IoPriority) -> Result<(u32, u32)> {
    let class = find(IO_CLASSES, &priority.class, "/process/ioPriority/class")?;
    match u32::try_from(priority.priority) {
        Ok(level @ 0..=7) => Ok((class, level)),
        _ => Err(Error::new("an I/O priority is between 0 and 7").pointer("/process/ioPriority/priority")),
    }
}

impl Schedule {
    /// Applies the policy and the I/O priority to `pid` (0: the caller). A user namespace's own privileges do not do.
    pub fn set(&self, pid: Pid) -> Result<()> {
        self.set_policy(pid)?;
        self.set_io_priority(pid)
    }

    /// Applies the policy alone.
    pub fn set_policy(&self, pid: Pid) -> Result<()> {
        if let Some(attributes) = self.scheduler {
            sched::set_scheduler(pid, attributes)
                .context(|| "cannot set the scheduler")
                .map_err(|error| error.pointer("/process/scheduler"))?;
        }
        Ok(())
    }

    /// Applies the I/O priority alone.
    pub fn set_io_priority(&self, pid: Pid) -> Result<()> {
        if let Some((class, level)) = self.io_priority {
            sched::set_io_priority(pid, class, level)
                .context(|| "cannot set the I/O priority")
                .map_err(|error| error.pointer("/process/ioPriority"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(policy: &str) -> Scheduler {
        Scheduler { policy: policy.into(), ..Scheduler::default() }
    }

    #[test]
    fn schedulers_are_read() {
        let flags = vec!["SCHED_FLAG_RESET_ON_FORK".to_owned(), "SCHED_FLAG_DL_OVERRUN".to_owned()];
        let read =
            scheduler(&Scheduler { flags, runtime: 1, deadline: 2, period: 3, ..with("SCHED_DEADLINE") }).unwrap();
        assert_eq!((read.policy, read.flags, read.runtime), (6, 5, 1));
    }

    #[test]
    fn impossible_schedulers_are_refused() {
        assert!(scheduler(&with("SCHED_MOON")).is_err());
        assert!(scheduler(&Scheduler { nice: 20, ..with("SCHED_OTHER") }).is_err());
        assert!(scheduler(&Scheduler { priority: 1, ..with("SCHED_OTHER") }).is_err());
        assert!(scheduler(&Scheduler { runtime: 1, ..with("SCHED_FIFO") }).is_err());
        assert!(io_priority(&IoPriority { class: "IOPRIO_CLASS_BE".into(), priority: 8 }).is_err());
    }
}
