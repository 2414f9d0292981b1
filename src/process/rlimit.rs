//! Resource limits, getrlimit(2).

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::spec::Rlimit;
use crate::sys::process as sys;

/// The names by number, as Linux has them on every architecture that kelson is built for.
const NAMES: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// Reads `process.rlimits`.
pub fn plan(rlimits: &[Rlimit]) -> Result<Vec<ResourceLimit>> {
    let mut limits: Vec<ResourceLimit> = Vec::new();
    for (index, rlimit) in rlimits.iter().enumerate() {
        let wrong =
            |field: &str, message: String| Error::new(message).pointer(format!("/process/rlimits/{index}{field}"));
        let resource = NAMES.iter().position(|name| *name == rlimit.kind);
        let resource = resource.ok_or_else(|| wrong("/type", format!("there is no limit {:?}", rlimit.kind)))? as u32;
        if limits.iter().any(|limit| limit.resource == resource) {
            return Err(wrong("/type", format!("{} is given twice", rlimit.kind)));
        }
        if rlimit.soft > rlimit.hard {
            return Err(wrong("/soft", format!("the soft {} is above the hard one", rlimit.kind)));
        }
        limits.push(ResourceLimit { resource, soft: rlimit.soft, hard: rlimit.hard });
    }
    Ok(limits)
}

impl ResourceLimit {
    /// Whether it limits how many processes the user may have.
    pub fn is_on_processes(&self) -> bool {
        NAMES[self.resource as usize] == "RLIMIT_NPROC"
    }
}

/// Sets on the caller those of the limits that are `chosen`.
pub fn apply(limits: &[ResourceLimit], chosen: impl Fn(&ResourceLimit) -> bool) -> Result<()> {
    for (index, limit) in limits.iter().enumerate().filter(|(_, limit)| chosen(limit)) {
        sys::set_resource_limit(Pid::from_raw(0), limit.resource, (limit.soft, limit.hard))
            .map_err(|errno| refused(index, *limit, errno))?;
    }
    Ok(())
}

/// Raises the hard limits of `pid`, which only the host's root may do, and not a process in a user namespace:
/// init then sets the exact values itself.
pub fn raise(limits: &[ResourceLimit], pid: Pid) -> Result<()> {
    for (index, limit) in limits.iter().enumerate() {
        let (soft, hard) = sys::resource_limit(pid, limit.resource).map_err(|errno| refused(index, *limit, errno))?;
        if limit.hard > hard {
            sys::set_resource_limit(pid, limit.resource, (soft, limit.hard))
                .map_err(|errno| refused(index, *limit, errno))?;
        }
    }
    Ok(())
}

fn refused(index: usize, limit: ResourceLimit, errno: Errno) -> Error {
    let name = NAMES[limit.resource as usize];
    let error = Error::new(format!("cannot set {name} to {}:{}", limit.soft, limit.hard))
        .errno(errno)
        .pointer(format!("/process/rlimits/{index}"));
    let now = sys::resource_limit(Pid::from_raw(0), limit.resource);
    match (errno, now) {
        (Errno::EPERM, Ok((_, hard))) => error.hint(format!(
            "raising the hard limit above {hard} takes CAP_SYS_RESOURCE in the host's user namespace (and, for \
             RLIMIT_NOFILE, a higher fs.nr_open)"
        )),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(kind: &str, soft: u64, hard: u64) -> Rlimit {
        Rlimit { kind: kind.into(), soft, hard }
    }

    #[test]
    fn limits_are_read() {
        let limits = plan(&[limit("RLIMIT_NOFILE", 1, 2), limit("RLIMIT_RTTIME", 0, u64::MAX)]).unwrap();
        assert_eq!(limits[0], ResourceLimit { resource: 7, soft: 1, hard: 2 });
        assert_eq!(limits[1].resource, 15);
    }

    #[test]
    fn unknown_and_repeated_limits_are_errors() {
        assert!(plan(&[limit("RLIMIT_MOON", 1, 1)]).is_err());
        assert!(plan(&[limit("NOFILE", 1, 1)]).is_err());
        assert!(plan(&[limit("RLIMIT_CPU", 1, 1), limit("RLIMIT_CPU", 1, 1)]).is_err());
        assert!(plan(&[limit("RLIMIT_CPU", 2, 1)]).is_err());
    }
}
