//! Where the process is: directory, descriptors, mounts, namespaces, cgroups, clocks, terminal.

use super::{errno_of, list, lossy, or_error, read};
use crate::sys;
use nix::Result;
use nix::errno::Errno;
use nix::sys::stat::stat;
use nix::sys::utsname::uname;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::fs;

pub fn env() -> Value {
    list(&sys::environment())
}

pub fn cwd() -> Result<Value> {
    sys::getcwd().map(|dir| lossy(&dir).into())
}

pub fn hostname() -> Result<Value> {
    uname().map(|name| lossy(name.nodename()).into())
}

pub fn domainname() -> Result<Value> {
    uname().map(|name| lossy(name.domainname()).into())
}

/// Without the descriptor that lists them, which is closed when the links are read.
pub fn fds() -> Result<Value> {
    let mut links = links("/proc/self/fd")?;
    links.retain(|_, target| target.is_string());
    Ok(links.into())
}

pub fn namespaces() -> Result<Value> {
    links("/proc/self/ns").map(Value::from)
}

fn links(dir: &str) -> Result<Map<String, Value>> {
    let entries = fs::read_dir(dir).map_err(|error| errno_of(&error))?;
    let names: Vec<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
    let target = |name: &str| fs::read_link(format!("{dir}/{name}")).map_err(|error| errno_of(&error));
    let link = |name: OsString| {
        let name = lossy(&name);
        let target = or_error(target(&name).map(|path| lossy(path.as_os_str())));
        (name, target)
    };
    Ok(names.into_iter().map(link).collect())
}

pub fn cgroup() -> Result<Value> {
    Ok(read("/proc/self/cgroup")?.lines().collect())
}

pub fn mounts() -> Result<Value> {
    read("/proc/self/mountinfo")?.lines().map(|line| mount(line).ok_or(Errno::EBADMSG)).collect()
}

/// One line of mountinfo: fields, tags of propagation, a lone "-", fields of the filesystem.
fn mount(line: &str) -> Option<Value> {
    let (place, filesystem) = line.split_once(" - ")?;
    let [fs_type, source, super_options] = *filesystem.splitn(3, ' ').collect::<Vec<_>>() else { return None };
    let mut fields = place.split(' ');
    let mut mount = json!({
        "id": fields.next()?.parse::<u64>().ok()?,
        "parent": fields.next()?.parse::<u64>().ok()?,
        "device": fields.next()?,
        "root": unescape(fields.next()?),
        "mountPoint": unescape(fields.next()?),
        "options": fields.next()?.split(',').collect::<Vec<_>>(),
        "fsType": fs_type,
        "source": unescape(source),
        "superOptions": super_options.split(',').collect::<Vec<_>>(),
    });
    mount.as_object_mut()?.extend(fields.filter_map(propagation));
    Some(mount)
}

/// A tag such as "shared:5", under a name as the others have; one without a number is true.
fn propagation(tag: &str) -> Option<(String, Value)> {
    let (name, group) = match tag.split_once(':') {
        Some((name, group)) => (name, group.parse::<u64>().ok()?.into()),
        None => (tag, Value::Bool(true)),
    };
    Some((if name == "propagate_from" { "propagateFrom" } else { name }.into(), group))
}

/// Undoes the kernel's three octal digits for a space, a tab, a line feed, a backslash or a hash sign.
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let escaped = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) => text + char::from(byte).encode_utf8(&mut [0; 4]) + &part[3..],
            None => text + "\\" + part,
        }
    })
}

pub fn time_offsets() -> Result<Value> {
    Ok(json!({
        "offsets": or_error(read("/proc/self/timens_offsets").map(|text| offsets(&text))),
        "CLOCK_MONOTONIC": clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec(),
        "CLOCK_BOOTTIME": clock_gettime(ClockId::CLOCK_BOOTTIME)?.tv_sec(),
    }))
}

/// Lines of a clock, seconds and nanoseconds.
fn offsets(text: &str) -> Map<String, Value> {
    let offset = |line: &str| {
        let mut words = line.split_whitespace();
        let clock = words.next()?.to_owned();
        let secs = words.next()?.parse::<i64>().ok()?;
        let nanosecs = words.next()?.parse::<i64>().ok()?;
        Some((clock, json!({ "secs": secs, "nanosecs": nanosecs })))
    };
    text.lines().filter_map(offset).collect()
}

pub fn tty() -> Value {
    let size = (0..3).find(|fd| sys::is_terminal(*fd)).ok_or(Errno::ENOTTY).and_then(sys::window_size);
    json!({
        "0": sys::is_terminal(0),
        "1": sys::is_terminal(1),
        "2": sys::is_terminal(2),
        "winsize": or_error(size.map(|(rows, columns)| json!([rows, columns]))),
        "rdev": or_error(stat("/dev/console").map(|console| super::files::device(console.st_rdev))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_has_tags_and_escapes() {
        let line = "36 35 98:0 /mnt1 /a\\040b rw,noatime master:1 propagate_from:2 unbindable - ext3 /dev/root rw,errors=continue";
        let expected = json!({
            "id": 36, "parent": 35, "device": "98:0", "root": "/mnt1", "mountPoint": "/a b",
            "options": ["rw", "noatime"], "master": 1, "propagateFrom": 2, "unbindable": true,
            "fsType": "ext3", "source": "/dev/root", "superOptions": ["rw", "errors=continue"],
        });
        assert_eq!(mount(line), Some(expected));
        assert_eq!(mount("36 35 nonsense"), None);
    }

    #[test]
    fn a_lone_backslash_stays() {
        assert_eq!(unescape("a\\9b\\134c"), "a\\9b\\c");
    }
}
