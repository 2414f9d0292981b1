//! The NUMA policy of the process's memory (config-linux.md, "Memory policy"), `set_mempolicy(2)`.

use oci_spec::runtime::{LinuxMemoryPolicy, MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode};

use crate::error::{Context, Error, Result};
use crate::sys::sched::set_memory_policy;

/// The policy as the kernel takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPolicy {
    pub mode: u32,
    pub nodes: Vec<u64>,
}

/// Reads `linux.memoryPolicy`; `parse` reads a list such as `0-3,7`.
pub fn plan(policy: &LinuxMemoryPolicy, parse: impl Fn(&str) -> Option<Vec<u64>>) -> Result<MemoryPolicy> {
    let wrong = |field: &str, message: &str| Err(Error::new(message).pointer(format!("/linux/memoryPolicy/{field}")));
    let mode = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let text = policy.nodes().as_deref().unwrap_or_default();
    let nodes = match (text.is_empty(), parse(text)) {
        (true, _) => Vec::new(),
        (false, Some(nodes)) => nodes,
        (false, None) => return wrong("nodes", "nodes is a list such as 0-3,7"),
    };
    match policy.mode() {
        Mode::MpolDefault | Mode::MpolLocal if !nodes.is_empty() => return wrong("nodes", "this mode takes no nodes"),
        Mode::MpolBind | Mode::MpolInterleave | Mode::MpolPreferredMany | Mode::MpolWeightedInterleave
            if nodes.is_empty() =>
        {
            return wrong("nodes", "this mode needs nodes");
        }
        _ => {}
    }
    let bit = |flag: &Flag| match flag {
        Flag::MpolFStaticNodes => 1 << 15,
        Flag::MpolFRelativeNodes => 1 << 14,
        Flag::MpolFNumaBalancing => 1 << 13,
    };
    let flags: u32 = policy.flags().iter().flatten().map(bit).fold(0, |flags, bit| flags | bit);
    if flags & (1 << 15 | 1 << 14) == 1 << 15 | 1 << 14 {
        return wrong("flags", "static and relative nodes exclude each other");
    }
    Ok(MemoryPolicy { mode: mode | flags, nodes })
}

impl MemoryPolicy {
    /// Sets the policy of the caller; execve(2) keeps it.
    pub fn apply(&self) -> Result<()> {
        set_memory_policy(self.mode, &self.nodes)
            .context(|| "cannot set the memory policy")
            .map_err(|error| error.pointer("/linux/memoryPolicy"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(json: &str) -> Result<MemoryPolicy> {
        plan(&serde_json::from_str(json).unwrap(), |text| (text == "0").then(|| vec![1]))
    }

    #[test]
    fn policies_are_checked() {
        let policy = planned(r#"{"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_STATIC_NODES"]}"#).unwrap();
        assert_eq!(policy, MemoryPolicy { mode: 2 | 1 << 15, nodes: vec![1] });
        assert!(planned(r#"{"mode":"MPOL_BIND"}"#).is_err());
        assert!(planned(r#"{"mode":"MPOL_DEFAULT","nodes":"0"}"#).is_err());
        assert!(planned(r#"{"mode":"MPOL_BIND","nodes":"x"}"#).is_err());
        let both = r#"{"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_STATIC_NODES","MPOL_F_RELATIVE_NODES"]}"#;
        assert!(planned(both).is_err());
    }
}
