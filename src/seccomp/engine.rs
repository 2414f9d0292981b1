//! Profiles as engines keep them (`/usr/share/containers/seccomp.json`, Docker's `--security-opt seccomp=FILE`): the
//! specification's `linux.seccomp`, but that rules may depend on the container's capabilities, on the machine and on
//! the kernel. [`resolve`] does with them what the engine does before it writes config.json.

use nix::errno::Errno;
use serde::Deserialize;

use super::arch::Arch;
use crate::error::{Error, Result};
use crate::spec::seccomp as spec;
use crate::spec::{null_is_default, parse};

/// The capabilities of a container that an engine says nothing about: Docker's, which are podman's and three more.
pub const USUAL_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// What rules may depend on.
#[derive(Clone, Debug)]
pub struct Circumstances<'a> {
    pub capabilities: Vec<&'a str>,
    pub machine: &'a Arch,
    /// The first two numbers of the kernel's version.
    pub kernel: (u32, u32),
}

/// A profile in which nothing depends on anything.
#[derive(Debug)]
pub struct Resolved {
    /// Rules that do not apply are there and say nothing, so that each one keeps its place.
    pub profile: spec::Seccomp,
    pub omitted: Vec<Omitted>,
}

/// A rule that does not apply.
#[derive(Debug)]
pub struct Omitted {
    /// Its index in the profile.
    pub rule: usize,
    pub names: Vec<String>,
    pub why: String,
}

/// What an engine's profile has beyond the specification.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Extras {
    #[serde(deserialize_with = "null_is_default")]
    arch_map: Vec<Machine>,
    #[serde(deserialize_with = "null_is_default")]
    default_errno: String,
    #[serde(deserialize_with = "null_is_default")]
    syscalls: Vec<RuleExtras>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Machine {
    architecture: String,
    #[serde(deserialize_with = "null_is_default")]
    sub_architectures: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuleExtras {
    #[serde(deserialize_with = "null_is_default")]
    name: String,
    #[serde(deserialize_with = "null_is_default")]
    errno: String,
    #[serde(deserialize_with = "null_is_default")]
    includes: Conditions,
    #[serde(deserialize_with = "null_is_default")]
    excludes: Conditions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Conditions {
    #[serde(deserialize_with = "null_is_default")]
    arches: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    caps: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    min_kernel: String,
}

/// Reads an engine's profile, or a `linux.seccomp` by itself, which is one of which everything applies.
pub fn resolve(bytes: &[u8], circumstances: &Circumstances<'_>) -> Result<Resolved> {
    let mut profile: spec::Seccomp = parse(bytes)?;
    let extras: Extras = parse(bytes)?;
    set_errno(&mut profile.default_errno_ret, &extras.default_errno).map_err(|e| e.pointer("/defaultErrno"))?;
    set_architectures(&mut profile, &extras.arch_map, circumstances.machine)?;
    let mut omitted = Vec::new();
    for (index, (rule, extras)) in profile.syscalls.iter_mut().zip(&extras.syscalls).enumerate() {
        let pointer = format!("/syscalls/{index}");
        complete(rule, extras, &pointer)?;
        if let Some(why) = extras.why_not(circumstances).map_err(|error| error.pointer(pointer))? {
            omitted.push(Omitted { rule: index, names: rule.names.take().unwrap_or_default(), why });
        }
    }
    Ok(Resolved { profile, omitted })
}

fn set_architectures(profile: &mut spec::Seccomp, map: &[Machine], machine: &Arch) -> Result<()> {
    if map.is_empty() {
        return Ok(());
    }
    if !profile.architectures.is_empty() {
        return Err(Error::new("a profile has either architectures or an archMap").pointer("/archMap"));
    }
    // What the map does not have gets its own architecture only.
    if let Some(entry) = map.iter().find(|entry| entry.architecture == machine.name) {
        profile.architectures = [std::slice::from_ref(&entry.architecture), &entry.sub_architectures].concat();
    }
    Ok(())
}

/// Brings the older forms of a rule into the specification's.
fn complete(rule: &mut spec::Syscall, extras: &RuleExtras, pointer: &str) -> Result<()> {
    if !extras.name.is_empty() {
        if rule.names.as_ref().is_some_and(|names| !names.is_empty()) {
            return Err(Error::new("a rule has either a name or names").pointer(format!("{pointer}/name")));
        }
        rule.names = Some(vec![extras.name.clone()]);
    }
    set_errno(&mut rule.errno_ret, &extras.errno).map_err(|error| error.pointer(format!("{pointer}/errno")))
}

/// podman's profiles have errnos by name, which count more than those by number.
fn set_errno(number: &mut Option<u32>, name: &str) -> Result<()> {
    if name.is_empty() {
        return Ok(());
    }
    let named = || (1..4096).find(|number| format!("{:?}", Errno::from_raw(*number)) == name).map(|it| it as u32);
    *number = Some(name.parse().ok().or_else(named).ok_or_else(|| Error::new(format!("unknown errno {name:?}")))?);
    Ok(())
}

impl RuleExtras {
    /// Why the rule does not apply; None where it does.
    fn why_not(&self, circumstances: &Circumstances<'_>) -> Result<Option<String>> {
        let arch = circumstances.machine.engine_name();
        let has = |capability: &&String| circumstances.capabilities.contains(&capability.as_str());
        let (includes, excludes) = (&self.includes, &self.excludes);
        let newer =
            |version: &str| Ok::<_, Error>(!version.is_empty() && circumstances.kernel >= read_version(version)?);
        let why = if excludes.arches.contains(&arch) {
            format!("not on {arch}")
        } else if let Some(capability) = excludes.caps.iter().find(has) {
            format!("only without {capability}")
        } else if newer(&excludes.min_kernel)? {
            format!("only before Linux {}", excludes.min_kernel)
        } else if !includes.arches.is_empty() && !includes.arches.contains(&arch) {
            format!("only on {}", includes.arches.join(", "))
        } else if let Some(capability) = includes.caps.iter().find(|it| !has(it)) {
            format!("only with {capability}")
        } else if !includes.min_kernel.is_empty() && !newer(&includes.min_kernel)? {
            format!("only from Linux {}", includes.min_kernel)
        } else {
            return Ok(None);
        };
        Ok(Some(why))
    }
}

/// The two numbers of a kernel's version, such as `4.8`.
fn read_version(text: &str) -> Result<(u32, u32)> {
    let numbers = text.split_once('.').and_then(|(one, two)| Some((one.parse().ok()?, two.parse().ok()?)));
    numbers.ok_or_else(|| Error::new(format!("the minKernel {text:?} is no version such as 4.8")))
}

/// The two numbers in a kernel's release, such as `6.18.44-fc`.
pub fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::arch::find;
    use serde_json::{Value, json};

    fn circumstances() -> Circumstances<'static> {
        let machine = find("SCMP_ARCH_X86_64").unwrap();
        Circumstances { capabilities: USUAL_CAPABILITIES.to_vec(), machine, kernel: (6, 18) }
    }

    fn resolved(profile: &Value) -> Result<Resolved> {
        resolve(profile.to_string().as_bytes(), &circumstances())
    }

    #[test]
    fn rules_depend_on_capabilities_the_machine_and_the_kernel() {
        for (conditions, applies) in [
            (json!({}), true),
            (json!({"includes": null, "excludes": {}}), true),
            (json!({"includes": {"caps": ["CAP_CHOWN"]}}), true),
            (json!({"includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}}), false),
            (json!({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}), true),
            (json!({"excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]}}), false),
            (json!({"includes": {"arches": ["arm64", "amd64"]}}), true),
            (json!({"includes": {"arches": ["x86", "x32"]}}), false),
            (json!({"excludes": {"arches": ["amd64"]}}), false),
            (json!({"includes": {"minKernel": "6.18"}}), true),
            (json!({"includes": {"minKernel": "6.19"}}), false),
            (json!({"excludes": {"minKernel": "4.8"}}), false),
            (json!({"excludes": {"minKernel": "7.0"}}), true),
        ] {
            let mut rule = json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "comment": ""});
            rule.as_object_mut().unwrap().extend(conditions.as_object().unwrap().clone());
            let profile = resolved(&json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]})).unwrap();
            assert_eq!(profile.profile.syscalls[0].names.is_some(), applies, "{conditions}");
            assert_eq!(profile.omitted.len(), usize::from(!applies), "{conditions}");
        }
    }

    #[test]
    fn older_forms_are_read() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "defaultErrno": "ENOSYS",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_S390X", "subArchitectures": null}],
            "syscalls": [{"name": "read", "action": "SCMP_ACT_ERRNO", "errno": "22"}],
        });
        let profile = resolved(&profile).unwrap().profile;
        assert_eq!(profile.default_errno_ret, Some(38));
        assert_eq!(profile.architectures, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
        assert_eq!(profile.syscalls[0].names.as_deref(), Some(&["read".to_owned()][..]));
        assert_eq!(profile.syscalls[0].errno_ret, Some(22));
    }

    #[test]
    fn what_contradicts_itself_is_refused_at_its_place() {
        let of = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        for (profile, pointer) in [
            (json!({"architectures": ["SCMP_ARCH_X86"], "archMap": [{}]}), "/archMap"),
            (json!({"defaultErrno": "EMOON"}), "/defaultErrno"),
            (of(json!({"name": "read", "names": ["write"]})), "/syscalls/0/name"),
            (of(json!({"names": ["write"], "errno": "EMOON"})), "/syscalls/0/errno"),
            (of(json!({"names": ["write"], "includes": {"minKernel": "4"}})), "/syscalls/0"),
            (of(json!({"names": ["write"], "includes": 3})), ""),
            (json!({"syscalls": 1}), "/syscalls"),
        ] {
            let error = resolved(&profile).expect_err(&profile.to_string()).to_string();
            assert!(pointer.is_empty() || error.contains(&format!("(config.json {pointer})")), "{profile}: {error}");
        }
    }

    #[test]
    fn a_release_begins_with_its_version() {
        assert_eq!(release("6.18.44-fc\n"), Some((6, 18)));
        assert_eq!(release("7.2-rc1"), Some((7, 2)));
        assert_eq!(release("six"), None);
    }
}
