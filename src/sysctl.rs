//! Kernel parameters of the container's namespaces (config-linux.md, "Sysctl").

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::safepath::Procfs;

/// One parameter: its file below /proc/sys, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    pub path: String,
    pub value: String,
    pub pointer: String,
}

/// Which namespaces the container has that are not the host's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own {
    pub ipc: bool,
    pub network: bool,
    pub uts: bool,
}

/// Parameters of the ipc namespace; those of /proc/sys/fs/mqueue beside them.
const IPC: &[&str] = &[
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// Reads `linux.sysctl`: a parameter that is not of a namespace of the container's own would be the host's, and is
/// refused (CVE-2022-0811).
pub fn plan(sysctls: &BTreeMap<String, String>, own: Own) -> Result<Vec<Sysctl>> {
    let one = |(key, value): (&String, &String)| {
        let pointer = format!("/linux/sysctl/{}", key.replace('~', "~0").replace('/', "~1"));
        let wrong = |message: String| Error::new(message).pointer(&*pointer);
        let path = file(key).ok_or_else(|| wrong(format!("{key:?} is no kernel parameter")))?;
        if value.bytes().any(|byte| byte == 0 || byte == b'\n') {
            return Err(wrong("a kernel parameter's value is one line".to_owned()));
        }
        let (belongs, namespace) = match path.as_str() {
            path if path.starts_with("net/") => (own.network, "network"),
            path if path.starts_with("fs/mqueue/") || IPC.contains(&path) => (own.ipc, "ipc"),
            "kernel/domainname" => (own.uts, "uts"),
            "kernel/hostname" => return Err(wrong("set `hostname` instead of this parameter".to_owned())),
            _ => return Err(wrong(format!("{key} belongs to the host and to no namespace"))),
        };
        if !belongs {
            return Err(wrong(format!(
                "{key} would be the host's: the container has no {namespace} namespace of its own"
            )));
        }
        Ok(Sysctl { path, value: value.clone(), pointer })
    };
    sysctls.iter().map(one).collect()
}

/// The file of a key, written with dots or with slashes: the first separator tells which, as sysctl(8) has it.
fn file(key: &str) -> Option<String> {
    let dots_separate = key.find(['.', '/']).is_some_and(|place| key.as_bytes()[place] == b'.');
    let swap = |c: char| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = if dots_separate { key.chars().map(swap).collect() } else { key.to_owned() };
    let is_name = |name: &str| {
        !name.is_empty()
            && name != "."
            && name != ".."
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.@:".contains(&byte))
    };
    (path.contains('/') && path.split('/').all(is_name)).then_some(path)
}

/// Writes the parameters.
pub fn apply(sysctls: &[Sysctl], procfs: &Procfs) -> Result<()> {
    sysctls.iter().try_for_each(|sysctl| {
        let path = format!("sys/{}", sysctl.path);
        procfs.write(&path, &sysctl.value).map_err(|errno| {
            Error::new("cannot set a kernel parameter")
                .path(format!("/proc/{path}"))
                .errno(errno)
                .pointer(&*sysctl.pointer)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(key: &str, value: &str, own: Own) -> Result<Vec<Sysctl>> {
        plan(&BTreeMap::from([(key.to_owned(), value.to_owned())]), own)
    }

    const ALL: Own = Own { ipc: true, network: true, uts: true };

    #[test]
    fn dots_and_slashes_are_the_same() {
        for key in ["net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"] {
            assert_eq!(planned(key, "1", ALL).unwrap()[0].path, "net/ipv4/conf/eth0.100/forwarding");
        }
        assert!(planned("kernel.shmmax", "1", ALL).is_ok());
        assert!(planned("fs.mqueue.msg_max", "1", ALL).is_ok());
    }

    #[test]
    fn cve_2022_0811_the_host_stays_as_it_is() {
        for key in [
            "kernel.core_pattern",
            "net/../kernel/core_pattern",
            "net.ipv4.x+kernel.core_pattern",
            "net",
            "",
            "net..ipv4",
            "kernel.hostname",
            "/net/ipv4",
            "net.ipv4.a\nb",
            "vm.swappiness",
        ] {
            assert!(planned(key, "1", ALL).is_err(), "{key}");
        }
        assert!(planned("net.ipv4.ip_forward", "1\n0", ALL).is_err());
        assert!(planned("net.ipv4.ip_forward", "1", Own { network: false, ..ALL }).is_err());
        assert!(planned("kernel.shmmax", "1", Own { ipc: false, ..ALL }).is_err());
    }
}
