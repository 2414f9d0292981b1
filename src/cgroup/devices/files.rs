//! The lines of v1's controller. It keeps what is allowed but for exceptions (or the reverse), and a line takes back
//! only an exception that is just the same: so the rules are worked out here, and only their sum is written.

use std::fs;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::{ALL, MKNOD, READ, Rule, WRITE};
use crate::error::{Context, Error, Result};
use crate::safepath::descriptor_path;

/// A line, and whether it goes to `devices.allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    allow: bool,
    text: String,
}

impl Line {
    /// What takes it back.
    pub fn reverse(&self) -> Self {
        Self { allow: !self.allow, text: self.text.clone() }
    }
}

/// What rules come to.
struct Sum {
    /// Whether everything is allowed or denied, but for the exceptions; none: as in the cgroup above.
    all: Option<bool>,
    exceptions: Vec<Rule>,
}

fn sum(rules: &[Rule]) -> Result<Sum> {
    let mut sum = Sum { all: None, exceptions: Vec::new() };
    for rule in rules {
        if rule.is_for_all() {
            sum = Sum { all: Some(rule.allow), exceptions: Vec::new() };
        } else if rule.allow == sum.all.unwrap_or(true) {
            sum.take_back(rule)?;
        } else {
            sum.add(rule);
        }
    }
    sum.exceptions.retain(|exception| exception.access != 0);
    Ok(sum)
}

impl Sum {
    fn add(&mut self, rule: &Rule) {
        match self.exceptions.iter_mut().find(|other| is_same(other, rule)) {
            Some(exception) => exception.access |= rule.access,
            None => self.exceptions.push(*rule),
        }
    }

    fn take_back(&mut self, rule: &Rule) -> Result<()> {
        for exception in self.exceptions.iter_mut().filter(|exception| exception.access & rule.access != 0) {
            if is_part(exception, rule) {
                exception.access &= !rule.access;
            } else if overlaps(exception, rule) {
                let (wide, narrow) = (text(exception), text(rule));
                return Err(Error::new(format!("cgroup v1 cannot take {narrow:?} out of {wide:?}"))
                    .hint("list the single devices, or use cgroup v2"));
            }
        }
        Ok(())
    }
}

fn is_same(one: &Rule, other: &Rule) -> bool {
    (one.kind, one.major, one.minor) == (other.kind, other.major, other.minor)
}

/// Whether all devices of `one` are among those of `other`.
fn is_part(one: &Rule, other: &Rule) -> bool {
    let within = |one: Option<u32>, other: Option<u32>| other.is_none() || one == other;
    one.kind == other.kind && within(one.major, other.major) && within(one.minor, other.minor)
}

fn overlaps(one: &Rule, other: &Rule) -> bool {
    let meets = |one: Option<u32>, other: Option<u32>| one.is_none() || other.is_none() || one == other;
    one.kind == other.kind && meets(one.major, other.major) && meets(one.minor, other.minor)
}

/// The lines for a new cgroup.
pub fn lines(rules: &[Rule]) -> Result<Vec<Line>> {
    let sum = sum(rules)?;
    let all = sum.all.map(|allow| Line { allow, text: "a *:* rwm".to_owned() });
    let allow = !sum.all.unwrap_or(true);
    let exceptions = sum.exceptions.iter().map(|rule| Line { allow, text: text(rule) });
    Ok(all.into_iter().chain(exceptions).collect())
}

/// The lines that lead from `present`, the kernel's list, to the rules: what is allowed more, then what less. Where
/// everything was allowed there is no such way, and where everything is to be it is one line.
pub fn transition(present: &str, rules: &[Rule]) -> Result<Vec<Line>> {
    let sum = sum(rules)?;
    let present: Vec<_> = present.lines().filter_map(parse).collect();
    if sum.all != Some(false) || present.iter().any(Rule::is_for_all) {
        return lines(rules);
    }
    let access = |list: &[Rule], rule: &Rule| list.iter().find(|other| is_same(other, rule)).map_or(0, |r| r.access);
    let difference = |from: &[Rule], to: &[Rule], allow: bool| -> Vec<Line> {
        let rest = from.iter().map(|rule| Rule { access: rule.access & !access(to, rule), ..*rule });
        rest.filter(|rule| rule.access != 0).map(|rule| Line { allow, text: text(&rule) }).collect()
    };
    let more = difference(&sum.exceptions, &present, true);
    Ok([more, difference(&present, &sum.exceptions, false)].concat())
}

/// `devices.list` of an open cgroup.
pub fn read(directory: &OwnedFd) -> Result<String> {
    fs::read_to_string(format!("{}/devices.list", descriptor_path(directory)))
        .context(|| "cannot read the list of allowed devices")
}

/// Whether the list is what the rules come to.
pub fn has(directory: &OwnedFd, rules: &[Rule]) -> bool {
    let Ok((present, sum)) = read(directory).and_then(|present| Ok((present, sum(rules)?))) else { return false };
    let everything = present.lines().filter_map(parse).any(|rule| rule.is_for_all());
    match sum.all {
        Some(false) => !everything && transition(&present, rules).is_ok_and(|lines| lines.is_empty()),
        _ => everything && sum.exceptions.is_empty(),
    }
}

pub fn write(directory: &OwnedFd, line: &Line) -> Result<()> {
    let file = if line.allow { "devices.allow" } else { "devices.deny" };
    openat(directory, file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(|file| nix::unistd::write(&file, line.text.as_bytes()).map(drop))
        .context(|| format!("cannot write {:?} to {file}", line.text))
}

const LETTERS: [(u8, char); 3] = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];

/// A rule as v1 writes it.
fn text(rule: &Rule) -> String {
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let access: String = LETTERS.iter().filter(|(bit, _)| rule.access & bit != 0).map(|(_, letter)| letter).collect();
    format!("{} {}:{} {access}", rule.kind, number(rule.major), number(rule.minor))
}

fn parse(line: &str) -> Option<Rule> {
    let mut words = line.split_whitespace();
    let kind = words.next()?.chars().next()?;
    let (major, minor) = words.next()?.split_once(':')?;
    let letters = words.next()?;
    let access = LETTERS.iter().filter(|(_, letter)| letters.contains(*letter)).fold(0, |all, (bit, _)| all | bit);
    let number = |text: &str| text.parse().ok();
    Some(Rule { allow: true, kind, major: number(major), minor: number(minor), access: access & ALL })
}

#[cfg(test)]
mod tests {
    use super::super::{allow, plan};
    use super::*;

    fn written(json: &str) -> Vec<String> {
        let rules = plan(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap();
        show(&lines(&rules).unwrap())
    }

    fn show(lines: &[Line]) -> Vec<String> {
        lines.iter().map(|line| format!("{}{}", if line.allow { "+" } else { "-" }, line.text)).collect()
    }

    #[test]
    fn a_rule_that_is_not_for_all_never_becomes_one_for_all() {
        // To the kernel a line that begins with `a` is for all devices, whatever follows.
        let lines = written(r#"[{"allow":false,"access":"rwm"},{"allow":true,"major":10,"minor":200,"access":"r"}]"#);
        assert_eq!(lines[..3], ["-a *:* rwm", "+b 10:200 r", "+c 10:200 r"]);
        assert!(!lines[1..].iter().any(|line| line.contains("a ")));
        let lines = written(r#"[{"allow":true,"access":"rwm"},{"allow":false,"major":10,"access":"w"}]"#);
        assert_eq!(lines, ["+a *:* rwm", "-b 10:* w", "-c 10:* w"]);
    }

    #[test]
    fn the_last_rule_wins() {
        let json = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":8,"access":"rw"},
            {"allow":false,"type":"b","access":"w"}]"#;
        assert_eq!(written(json)[1], "+b 8:* r");
    }

    #[test]
    fn what_v1_cannot_take_back_is_an_error() {
        let json = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"access":"rwm"},
            {"allow":false,"type":"c","major":10,"minor":200,"access":"rwm"}]"#;
        let rules = plan(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap();
        assert!(lines(&rules).unwrap_err().to_string().contains("cannot take \"c 10:200 rwm\" out of \"c 10:* rwm\""));
    }

    #[test]
    fn a_transition_allows_before_it_denies() {
        let deny = Rule { allow: false, ..allow('a', None, None, ALL) };
        let rules = [deny, allow('c', Some(1), Some(3), ALL), allow('c', Some(10), Some(200), READ)];
        let present = "c 1:3 rwm\nc 10:200 rw\nb 8:0 r\n";
        assert_eq!(show(&transition(present, &rules).unwrap()), ["-c 10:200 w", "-b 8:0 r"]);
        assert_eq!(show(&transition("b 8:0 r\n", &rules).unwrap())[..2], ["+c 1:3 rwm", "+c 10:200 r"]);
        assert_eq!(show(&transition("a *:* rwm\n", &rules).unwrap())[0], "-a *:* rwm");
    }
}
