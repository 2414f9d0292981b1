//! Capability sets, `capabilities(7)`.

use nix::errno::Errno;

use crate::error::{Context, Result};
use crate::spec;
use crate::sys::process as sys;

/// The names by number.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The five sets as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

/// Reads the sets; a name that maps to nothing is a warning and not an error (config.md, "capabilities").
/// Without the section, every set is empty.
pub fn plan(sets: Option<&spec::Capabilities>) -> (Capabilities, Vec<String>) {
    let Some(sets) = sets else { return (Capabilities::default(), Vec::new()) };
    let mut unknown = Vec::new();
    let mut mask = |names: &[String]| {
        names.iter().fold(0, |mask, name| match NAMES.iter().position(|known| known == name) {
            Some(number) => mask | 1 << number,
            None => {
                if !unknown.contains(name) {
                    unknown.push(name.clone());
                }
                mask
            }
        })
    };
    let capabilities = Capabilities {
        bounding: mask(&sets.bounding),
        effective: mask(&sets.effective),
        inheritable: mask(&sets.inheritable),
        permitted: mask(&sets.permitted),
        ambient: mask(&sets.ambient),
    };
    let unknown = unknown.iter().map(|name| format!("the capability {name:?} is unknown and was ignored"));
    let impossible = names(capabilities.impossible()).map(|name| {
        format!(
            "{name} was left out of a set: what is effective has to be permitted, what is inheritable in the bounding \
             set, what is ambient permitted and inheritable"
        )
    });
    let warnings = unknown.chain(impossible).collect();
    (capabilities, warnings)
}

/// Makes every capability that is permitted effective: a change of user has made none so. Returns the sets before.
pub fn raise_all() -> Result<sys::CapabilitySets> {
    let own = sys::capabilities().context(|| "cannot read the runtime's own capabilities")?;
    sys::set_capabilities(sys::CapabilitySets { effective: own.permitted, ..own })
        .context(|| "cannot raise the runtime's own capabilities")?;
    Ok(own)
}

impl Capabilities {
    /// What the kernel does not let be effective, inheritable or ambient, by the other sets.
    fn impossible(&self) -> u64 {
        let inheritable = self.inheritable & self.bounding;
        self.effective & !self.permitted
            | self.inheritable & !inheritable
            | self.ambient & !(self.permitted & inheritable)
    }

    /// Drops from the bounding set what is not in it: while CAP_SETPCAP is still there.
    pub fn limit_bounding(&self) -> Result<()> {
        for capability in 0..64 {
            if self.bounding & 1 << capability != 0 {
                continue;
            }
            match sys::bounding_drop(capability) {
                Ok(()) => {}
                // The first number that the kernel does not know.
                Err(Errno::EINVAL) => break,
                Err(Errno::EPERM) if !sys::bounding_has(capability).unwrap_or(true) => {}
                Err(errno) => return Err(errno).context(|| "cannot limit the bounding set of capabilities"),
            }
        }
        Ok(())
    }

    /// Sets the other sets, after the change of user. What the runtime itself does not have it cannot give:
    /// that is left out with a warning, as the spec says. What is `kept` stays permitted, and is not effective.
    pub fn apply(&self, kept: u64) -> Result<Vec<String>> {
        let own = sys::capabilities().context(|| "cannot read the runtime's own capabilities")?;
        let sets = sys::CapabilitySets {
            effective: self.effective & self.permitted & own.permitted,
            permitted: (self.permitted | kept) & own.permitted,
            inheritable: self.inheritable & self.bounding & (own.permitted | own.inheritable),
        };
        sys::set_capabilities(sets).context(|| "cannot set the capabilities")?;
        match sys::ambient_clear() {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(errno).context(|| "cannot clear the ambient capabilities"),
        }
        let ambient = self.ambient & self.permitted & sets.permitted & sets.inheritable;
        for capability in (0..64).filter(|capability| ambient & 1 << capability != 0) {
            sys::ambient_raise(capability).context(|| "cannot raise an ambient capability")?;
        }
        let missing = self.permitted & !own.permitted;
        Ok(names(missing).map(|name| format!("the runtime itself has no {name}, so the container gets none")).collect())
    }

    /// The sets that [`Self::apply`] has set, without what it has kept.
    pub fn without_kept(&self, own: sys::CapabilitySets) -> sys::CapabilitySets {
        sys::CapabilitySets { permitted: own.permitted & self.permitted, ..own }
    }
}

/// The names of those in a set.
pub fn names(mask: u64) -> impl Iterator<Item = &'static str> {
    NAMES.iter().enumerate().filter(move |(number, _)| mask & 1 << number != 0).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_bits() {
        let bounding = vec!["CAP_CHOWN".to_owned(), "CAP_CHECKPOINT_RESTORE".to_owned()];
        let (sets, warnings) = plan(Some(&spec::Capabilities { bounding, ..Default::default() }));
        assert_eq!(sets.bounding, 1 | 1 << 40);
        assert_eq!(sets.permitted, 0);
        assert!(warnings.is_empty());
    }

    #[test]
    fn an_unknown_name_is_one_warning() {
        let unknown = vec!["CAP_MOON".to_owned(), "cap_kill".to_owned()];
        let sets = spec::Capabilities { bounding: unknown.clone(), permitted: unknown, ..Default::default() };
        let (sets, warnings) = plan(Some(&sets));
        assert_eq!(sets, Capabilities::default());
        assert_eq!(warnings.len(), 2);
    }

    #[test]
    fn what_the_kernel_refuses_is_a_warning() {
        let kill = || vec!["CAP_KILL".to_owned()];
        let warnings = |sets: spec::Capabilities| plan(Some(&sets)).1;
        let permitted = spec::Capabilities { permitted: kill(), effective: kill(), ..Default::default() };
        assert!(warnings(permitted.clone()).is_empty());
        let inheritable = spec::Capabilities { inheritable: kill(), ambient: kill(), ..permitted.clone() };
        assert_eq!(warnings(inheritable.clone()).len(), 1);
        assert!(warnings(spec::Capabilities { bounding: kill(), ..inheritable }).is_empty());
        assert_eq!(warnings(spec::Capabilities { ambient: kill(), ..permitted.clone() }).len(), 1);
        assert_eq!(warnings(spec::Capabilities { permitted: Vec::new(), ..permitted }).len(), 1);
    }
}
