//! libseccomp's pseudo filter code: the rules of a filter as it understood them, in its own words.

use crate::seccomp::arch::Arch;
use crate::seccomp::interpreter::Call;
use crate::seccomp::profile::{ACTIONS, Profile};

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;

/// What the rules say to a call: the code is run as it is written.
pub fn action(rules: &[String], profile: &Profile, arch: &Arch, call: &Call) -> u32 {
    let name = arch.name.trim_start_matches("SCMP_ARCH_").to_lowercase();
    // x32 and x86_64 have the same number there.
    let title = if arch.audit == X86_64 { format!(" {name} ") } else { format!("({})", arch.audit) };
    let section = rules.iter().skip_while(|line| !(line.starts_with("# filter for arch") && line.contains(&title)));
    let lines: Vec<_> = section.skip(1).take_while(|line| !line.starts_with("# filter for arch")).collect();
    let arch_line = lines.iter().position(|line| line.starts_with("if ($arch"));
    let body = arch_line.map_or(&[][..], |first| &lines[first + 1..]);
    let body: Vec<_> = body.iter().map(|line| line.trim_end()).take_while(|line| line.starts_with(' ')).collect();
    evaluate(&body, call).unwrap_or(profile.default)
}

fn depth(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Runs the lines of one depth; what lies deeper belongs to the line above it.
fn evaluate(lines: &[&str], call: &Call) -> Option<u32> {
    let mut position = 0;
    let mut was_met = false;
    while let Some(line) = lines.get(position) {
        let rest = &lines[position + 1..];
        let inner = rest.iter().position(|it| depth(it) <= depth(line)).unwrap_or(rest.len());
        position += 1 + inner;
        let text = line.trim_start();
        let enters = match text.split_once(' ') {
            Some(("action", action)) => return Some(action_named(action)),
            Some(("if", condition)) => {
                was_met = is_met(condition, call);
                was_met
            }
            _ if text.starts_with("else") => !was_met,
            _ => false,
        };
        if enters {
            if let Some(action) = evaluate(&rest[..inner], call) {
                return Some(action);
            }
        }
    }
    None
}

fn action_named(text: &str) -> u32 {
    let (name, data) = text.trim_end_matches(';').split_once('(').unwrap_or((text.trim_end_matches(';'), "0)"));
    let data: u32 = data.trim_end_matches(')').parse().unwrap();
    let base = ACTIONS.iter().find(|(known, _)| known.strip_prefix("SCMP_ACT_") == Some(name));
    base.unwrap_or_else(|| panic!("{text}")).1 | data
}

/// `($a0.lo32 & 0x00000001 == 1)` and its like.
fn is_met(condition: &str, call: &Call) -> bool {
    let words: Vec<_> = condition.trim_matches(['(', ')']).split(' ').collect();
    let field = words[0].trim_start_matches('$');
    let mut value = match field.strip_prefix('a') {
        Some(argument) => {
            let full = call.arguments[argument[..1].parse::<usize>().unwrap()];
            if argument.ends_with("hi32") { (full >> 32) as u32 } else { full as u32 }
        }
        None => call.number,
    };
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).unwrap(),
        None => text.parse::<i64>().unwrap() as u32,
    };
    if let [_, "&", mask, ..] = words[..] {
        value &= number(mask);
    }
    let [.., operator, right] = words[..] else { panic!("{condition}") };
    match operator {
        "==" => value == number(right),
        ">" => value > number(right),
        ">=" => value >= number(right),
        _ => panic!("{condition}"),
    }
}
