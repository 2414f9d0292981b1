//! The devices a container may use: by the files of v1's controller, or by an eBPF program on v2.

mod files;
mod program;

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::layout::{Hierarchy, Layout};
use crate::error::{Context, Error, Result};
use crate::sys::bpf;

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// One rule; the last that matches decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    allow: bool,
    /// `c`, `b`, or `a` for both.
    kind: char,
    /// None: any.
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

const fn allow(kind: char, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
    Rule { allow: true, kind, major, minor, access }
}

/// What every engine relies on, whatever the list says: making nodes, and the default devices.
const DEFAULTS: &[Rule] = &[
    allow('c', None, None, MKNOD),
    allow('b', None, None, MKNOD),
    allow('c', Some(1), Some(3), ALL),
    allow('c', Some(1), Some(8), ALL),
    allow('c', Some(1), Some(7), ALL),
    allow('c', Some(5), Some(0), ALL),
    allow('c', Some(1), Some(5), ALL),
    allow('c', Some(1), Some(9), ALL),
    allow('c', Some(136), None, ALL),
    allow('c', Some(5), Some(2), ALL),
];

/// Reads `linux.resources.devices`. What no rule allows is denied, without a list too (GHSA-g54h-m393-cpwq).
pub fn plan(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    // Far above any list of an engine, and low enough for the jumps of the program.
    const MAX: usize = 4096;
    if rules.len() > MAX {
        return Err(Error::new(format!("more than {MAX} rules for devices")).pointer("/linux/resources/devices"));
    }
    let mut own = vec![Rule { allow: false, ..allow('a', None, None, ALL) }];
    for (index, rule) in rules.iter().enumerate() {
        own.extend(read(rule).map_err(|error| error.pointer(format!("/linux/resources/devices/{index}")))?);
    }
    own.extend(DEFAULTS);
    Ok(own)
}

/// A rule for both kinds of devices is one for each, unless it is for all of them.
fn read(rule: &LinuxDeviceCgroup) -> Result<Vec<Rule>> {
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => 'a',
        LinuxDeviceType::B => 'b',
        LinuxDeviceType::C | LinuxDeviceType::U => 'c',
        LinuxDeviceType::P => return Err(Error::new("a FIFO is no device that can be allowed or denied")),
    };
    let number = |value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => match i32::try_from(value) {
            Ok(value @ 0..) => Ok(Some(value as u32)),
            _ => Err(Error::new("a device number is out of range")),
        },
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or_default().chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(Error::new(format!("access is made of r, w and m, not {letter:?}"))),
        };
    }
    let access = if access == 0 { ALL } else { access };
    let rule = Rule { allow: rule.allow(), kind, major: number(rule.major())?, minor: number(rule.minor())?, access };
    Ok(match kind {
        'a' if !rule.is_for_all() => vec![Rule { kind: 'b', ..rule }, Rule { kind: 'c', ..rule }],
        _ => vec![rule],
    })
}

impl Rule {
    fn is_for_all(&self) -> bool {
        self.kind == 'a' && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// Whether devices are guarded in this hierarchy.
pub fn belong_to(hierarchy: &Hierarchy, layout: &Layout) -> bool {
    layout.unified || hierarchy.controllers.iter().any(|controller| controller == "devices")
}

/// Applies the rules to the cgroup of a new container, open at `directory`. One that `is_new` has no program yet.
pub fn apply(directory: &OwnedFd, is_new: bool, unified: bool, rules: &[Rule]) -> Result<()> {
    if unified {
        return attach(directory, rules, !is_new);
    }
    let written = files::lines(rules)?.iter().try_for_each(|line| files::write(directory, line));
    // One with others below it takes no line for all devices, and needs none where it has the same list already.
    written.or_else(|error| if files::has(directory, rules) { Ok(()) } else { Err(error) })
}

/// Whether somebody has taken away the program that guards these rules, or replaced it by one of their own.
pub fn is_replaced(directory: &OwnedFd, unified: bool, rules: &[Rule]) -> Result<bool> {
    Ok(unified && !program::allows_all(rules) && find(directory)?.is_none())
}

/// Applies the rules to the cgroup of running processes: what they may use before and after, they may use meanwhile.
pub fn replace(directory: &OwnedFd, unified: bool, rules: &[Rule]) -> Result<()> {
    if unified {
        return attach(directory, rules, true);
    }
    let present = files::read(directory)?;
    let lines = files::transition(&present, rules)?;
    for (place, line) in lines.iter().enumerate() {
        files::write(directory, line).inspect_err(|_| {
            lines[..place].iter().rev().for_each(|done| drop(files::write(directory, &done.reverse())));
        })?;
    }
    Ok(())
}

fn find(directory: &OwnedFd) -> Result<Option<OwnedFd>> {
    bpf::find_device_program(directory).context(|| "cannot look for the program that guards the devices")
}

/// A list that allows all needs no program.
fn attach(directory: &OwnedFd, rules: &[Rule], replace: bool) -> Result<()> {
    let former = if replace { find(directory)? } else { None };
    if program::allows_all(rules) {
        let detached = former.map_or(Ok(()), |former| bpf::detach_device_program(directory, former.as_fd()));
        return detached.context(|| "cannot detach the program that guards the devices");
    }
    let program = bpf::load_device_program(&program::compile(rules)).map_err(|errno| {
        let error = Error::new("cannot load the program that guards the devices").errno(errno);
        match errno {
            Errno::EPERM => error.hint("it takes CAP_BPF or CAP_SYS_ADMIN on the host"),
            Errno::E2BIG => error.hint("too many different rules for the kernel: use wildcards"),
            _ => error,
        }
    })?;
    bpf::attach_device_program(directory, program.as_fd(), former.as_ref().map(AsFd::as_fd))
        .context(|| "cannot attach the program that guards the devices")
}
