//! config.json as the runtime-spec 1.3 writes it: oci-spec's types where they hold, own ones where they reject
//! what the spec allows (PACKAGES.md names the cases). Unknown properties are ignored, unknown values are errors.

mod objects;
mod pointer;
pub mod seccomp;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hooks, LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxIdMapping, LinuxIntelRdt, LinuxMemory, LinuxMemoryPolicy,
    LinuxNamespace, LinuxNetDevice, LinuxNetwork, LinuxPersonality, LinuxRdma, LinuxTimeOffset, Mount, Root,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Context, Error, Result};
use objects::Strict;

/// The oldest and newest versions of the spec that are accepted.
pub const VERSION_MIN: &str = "1.0.0";
/// See [`VERSION_MIN`].
pub const VERSION_MAX: &str = "1.3.0";

/// The longest config.json that is read, in bytes.
const MAX_LENGTH: u64 = 16 << 20;

/// config.md, the whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub oci_version: String,
    pub process: Option<Process>,
    pub root: Option<Root>,
    #[serde(deserialize_with = "null_is_default")]
    pub mounts: Vec<Mount>,
    #[serde(deserialize_with = "null_is_default")]
    pub hostname: String,
    #[serde(deserialize_with = "null_is_default")]
    pub domainname: String,
    pub hooks: Option<Hooks>,
    #[serde(deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    pub linux: Linux,
}

/// config.md, "Process".
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    #[serde(deserialize_with = "null_is_default")]
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    #[serde(deserialize_with = "null_is_default")]
    pub user: User,
    #[serde(deserialize_with = "null_is_default")]
    pub args: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub cwd: String,
    pub capabilities: Option<Capabilities>,
    #[serde(deserialize_with = "null_is_default")]
    pub rlimits: Vec<Rlimit>,
    #[serde(deserialize_with = "null_is_default")]
    pub no_new_privileges: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub apparmor_profile: String,
    pub oom_score_adj: Option<i32>,
    #[serde(deserialize_with = "null_is_default")]
    pub selinux_label: String,
    pub scheduler: Option<Scheduler>,
    pub io_priority: Option<IoPriority>,
    #[serde(rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

/// The size of the terminal in characters.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConsoleSize {
    pub height: u16,
    pub width: u16,
}

/// config.md, "POSIX-platform User".
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub umask: Option<u32>,
    #[serde(deserialize_with = "null_is_default")]
    pub additional_gids: Vec<u32>,
}

/// The five capability sets by name, such as `CAP_KILL`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    #[serde(deserialize_with = "null_is_default")]
    pub bounding: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub effective: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub inheritable: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub permitted: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub ambient: Vec<String>,
}

/// A resource limit, such as `RLIMIT_NOFILE`.
#[derive(Clone, Debug, Deserialize)]
pub struct Rlimit {
    #[serde(rename = "type")]
    pub kind: String,
    pub soft: u64,
    pub hard: u64,
}

/// `sched_setattr(2)`'s arguments.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    pub policy: String,
    pub nice: i32,
    pub priority: i32,
    #[serde(deserialize_with = "null_is_default")]
    pub flags: Vec<String>,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// `ioprio_set(2)`'s arguments.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct IoPriority {
    pub class: String,
    pub priority: i64,
}

/// CPU lists such as `0-3,7`, before and after joining the cgroup.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CpuAffinity {
    #[serde(deserialize_with = "null_is_default")]
    pub initial: String,
    #[serde(rename = "final", deserialize_with = "null_is_default")]
    pub last: String,
}

/// config-linux.md.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    #[serde(deserialize_with = "null_is_default")]
    pub uid_mappings: Vec<LinuxIdMapping>,
    #[serde(deserialize_with = "null_is_default")]
    pub gid_mappings: Vec<LinuxIdMapping>,
    #[serde(deserialize_with = "null_is_default")]
    pub sysctl: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    pub resources: Resources,
    #[serde(deserialize_with = "null_is_default")]
    pub cgroups_path: String,
    #[serde(deserialize_with = "null_is_default")]
    pub namespaces: Vec<LinuxNamespace>,
    #[serde(deserialize_with = "null_is_default")]
    pub devices: Vec<Device>,
    pub net_devices: Option<HashMap<String, LinuxNetDevice>>,
    pub seccomp: Option<seccomp::Seccomp>,
    #[serde(deserialize_with = "null_is_default")]
    pub rootfs_propagation: String,
    #[serde(deserialize_with = "null_is_default")]
    pub masked_paths: Vec<PathBuf>,
    #[serde(deserialize_with = "null_is_default")]
    pub readonly_paths: Vec<PathBuf>,
    #[serde(deserialize_with = "null_is_default")]
    pub mount_label: String,
    pub intel_rdt: Option<LinuxIntelRdt>,
    pub memory_policy: Option<LinuxMemoryPolicy>,
    pub personality: Option<LinuxPersonality>,
    #[serde(deserialize_with = "null_is_default")]
    pub time_offsets: BTreeMap<String, LinuxTimeOffset>,
}

/// A device node to make.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    pub path: PathBuf,
    #[serde(rename = "type")]
    pub kind: String,
    pub major: i64,
    pub minor: i64,
    pub file_mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// config-linux.md, "Control groups". Also what `update` reads, and what state.json keeps.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<LinuxDeviceCgroup>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<LinuxMemory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<LinuxCpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Pids>,
    #[serde(rename = "blockIO", skip_serializing_if = "Option::is_none")]
    pub block_io: Option<LinuxBlockIo>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub hugepage_limits: Vec<HugepageLimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<LinuxNetwork>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub rdma: BTreeMap<String, LinuxRdma>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub unified: BTreeMap<String, String>,
}

/// The limit on processes; 0 is a real limit since runtime-spec 1.3, -1 is none.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Pids {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
}

/// A limit on huge pages of one size, such as `2MB`, in bytes.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HugepageLimit {
    pub page_size: String,
    pub limit: u64,
}

/// Go writes an absent list as null; the spec's schema does not mind.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    input: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

impl Spec {
    /// Reads `config.json` in the bundle.
    pub fn load(bundle: &Path) -> Result<(Self, Vec<u8>)> {
        let path = bundle.join("config.json");
        let bytes = read_limited(&path)?;
        Ok((parse(&bytes).map_err(|error| error.path(&path))?, bytes))
    }
}

impl Process {
    /// Reads a file that holds a process alone, or what is written into a pipe.
    pub fn load(path: &Path) -> Result<Self> {
        let file = File::open(path).on_path("cannot open the process", path)?;
        let bytes = read(file, 0, path)?;
        parse(&bytes).map_err(|error| error.of_file(path, ""))
    }
}

pub(crate) fn read_limited(path: &Path) -> Result<Vec<u8>> {
    // Without waiting for a writer where it is a FIFO.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .on_path("cannot open the bundle's configuration", path)
        .map_err(|error| error.hint("a bundle is a directory with a config.json; `kelson spec` writes one"))?;
    let metadata = file.metadata().on_path("cannot look at", path)?;
    if !metadata.is_file() {
        return Err(Error::new("the configuration is no file").path(path));
    }
    read(file, metadata.len(), path)
}

/// Reads all of `input`, which is probably of this length.
pub(crate) fn read(input: impl Read, length: u64, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length.min(MAX_LENGTH) as usize + 1);
    input.take(MAX_LENGTH + 1).read_to_end(&mut bytes).on_path("cannot read", path)?;
    if bytes.len() as u64 > MAX_LENGTH {
        return Err(Error::new("the configuration is longer than 16 MiB").path(path));
    }
    Ok(bytes)
}

/// Parses JSON into `T`; an error names the JSON pointer of the place.
pub fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let value = T::deserialize(Strict(&mut input)).and_then(|value| input.end().map(|()| value));
    value.map_err(|error| {
        let pointer = pointer::at(bytes, error.line(), error.column());
        Error::new(format!("not a valid configuration: {error}")).pointer(pointer)
    })
}

/// What a value is as another type. By way of text, which is read and written anyway: serde's own way between values
/// would be 60 KB of program more.
pub fn by_text<T: DeserializeOwned>(value: &impl Serialize) -> Result<T> {
    let text = serde_json::to_vec(value).map_err(|error| Error::new(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| Error::new(format!("not a valid configuration: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer_of(json: &str) -> String {
        let error = parse::<Spec>(json.as_bytes()).unwrap_err();
        let details = error.details();
        details.iter().find(|(name, _)| *name == "pointer").map(|(_, value)| value.clone()).unwrap_or_default()
    }

    #[test]
    fn a_wrong_value_is_found() {
        assert_eq!(pointer_of(r#"{"process":{"user":{"uid":"x"}}}"#), "/process/user/uid");
        assert_eq!(pointer_of("{\"hostname\": \"a\",\n \"mounts\": [{}, {\"destination\": 3}]}"), "/mounts/0");
        assert_eq!(
            pointer_of(r#"{"linux":{"namespaces":[{"type":"pid"},{"type":"moon"}]}}"#),
            "/linux/namespaces/1/type"
        );
        // Of a member that is there twice, of an object that lacks one, and beside strings that hold brackets.
        assert_eq!(pointer_of(r#"{"process":{"args":["a"],"cwd":"/","args":["b"]}}"#), "/process/args");
        assert_eq!(
            pointer_of(r#"{"mounts":[{"destination":"/a"},{"type":"}{","source":"a,b"}],"hostname":1}"#),
            "/mounts/1"
        );
        assert_eq!(pointer_of(r#"{"annotations":{"a/b~":"\"[","c":"d"},"hostname":[]}"#), "/hostname");
    }

    #[test]
    fn a_list_is_no_object() {
        for (json, place) in [
            ("[]", ""),
            (r#"{"process":["sh"]}"#, "/process"),
            (r#"{"process":{"user":[7,8]}}"#, "/process/user"),
            (r#"{"process":{"capabilities":[[]]}}"#, "/process/capabilities"),
            (r#"{"process":{"rlimits":[["RLIMIT_CORE",1,1]]}}"#, "/process/rlimits/0"),
            (r#"{"root":["/rootfs",true]}"#, "/root"),
            (r#"{"hooks":[]}"#, "/hooks"),
            (r#"{"hooks":{"prestart":[["/bin/true"]]}}"#, "/hooks/prestart/0"),
            (r#"{"mounts":[["/proc"]]}"#, "/mounts/0"),
            (r#"{"linux":{"resources":[null]}}"#, "/linux/resources"),
            (r#"{"linux":{"resources":{"memory":[1]}}}"#, "/linux/resources/memory"),
            (r#"{"linux":{"timeOffsets":{"boottime":[1]}}}"#, "/linux/timeOffsets/boottime"),
            (
                r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[[]]}}}"#,
                "/linux/seccomp/syscalls/0",
            ),
        ] {
            assert_eq!(pointer_of(json), place, "{json}");
        }
        assert!(parse::<Spec>(br#"{"process":{"user":{"uid":1}},"linux":{"moon":[[]]}}"#).is_ok());
    }

    #[test]
    fn broken_json_is_one_error() {
        for json in ["", "{", "[]", "nul", "{\"process\":", "{\"a\":\"\\", "\u{feff}{}"] {
            assert!(parse::<Spec>(json.as_bytes()).is_err(), "{json}");
        }
        assert!(parse::<Spec>(&[b'{', b'"', 0xff, b'"', b':', b'1', b'}']).is_err());
    }

    #[test]
    fn deep_nesting_is_bounded() {
        let deep = format!("{{\"linux\":{{\"x\":{}", "[".repeat(100_000));
        assert!(pointer_of(&deep).starts_with("/linux/x/0/0"));
        assert_eq!(pointer_of(&deep).len(), "/linux/x".len() + 2 * 126);
    }

    #[test]
    fn unknown_properties_and_nulls_are_no_errors() {
        let json = r#"{"ociVersion":"1.3.0","new":1,"vm":{"hwConfig":{}},"freebsd":{},"mounts":null,
            "process":{"args":null,"capabilities":{"bounding":null},"user":{"additionalGids":null}},
            "linux":{"namespaces":null,"resources":{"pids":{},"devices":null}}}"#;
        let spec: Spec = parse(json.as_bytes()).unwrap();
        assert!(spec.linux.resources.pids.unwrap().limit.is_none());
    }
}
