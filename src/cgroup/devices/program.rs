//! The program that guards the devices on v2: eBPF, compiled here from the rules.

use super::{ALL, Rule};

/// What counts of a list of rules, and what holds where none of these matches.
fn simplify(rules: &[Rule]) -> (&[Rule], bool) {
    let start = rules.iter().rposition(Rule::is_for_all);
    // Without a rule the kernel's v1 controller allows everything.
    let others = start.is_none_or(|place| rules[place].allow);
    let rules = &rules[start.map_or(0, |place| place + 1)..];
    let needless = rules.iter().take_while(|rule| rule.allow == others).count();
    (&rules[needless..], others)
}

/// Such a list needs no program: a cgroup without one restricts nothing.
pub fn allows_all(rules: &[Rule]) -> bool {
    let (rules, others) = simplify(rules);
    others && rules.is_empty()
}

/// An instruction of eBPF: operation, destination and source register, jump offset, immediate.
const fn instruction(operation: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    operation as u64
        | (destination as u64 & 15) << 8
        | (source as u64 & 15) << 12
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const ANSWER: u8 = 0;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// A program written from its end, so that the length of each jump is known when it is written.
struct Backwards(Vec<u64>);

impl Backwards {
    /// The instruction written last: where jumps written next can go.
    fn here(&self) -> usize {
        self.0.len() - 1
    }

    fn push(&mut self, operation: u8, destination: u8, immediate: i32) {
        self.0.push(instruction(operation, destination, 0, 0, immediate));
    }

    fn jump(&mut self, operation: u8, register: u8, immediate: i32, target: usize) {
        let offset = (self.0.len() - target - 1) as i16;
        self.0.push(instruction(operation, register, 0, offset, immediate));
    }

    fn load(&mut self, register: u8, offset: i16) {
        self.0.push(instruction(LOAD_WORD, register, 1, offset, 0));
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.0.push(instruction(MOVE_REGISTER, to, from, 0, 0));
    }
}

/// The program: the kernel asks it with the access in the upper half of a word and the type in the lower, then
/// major and minor; it answers 1 or 0. The last rule comes first. For each kind of access that is asked the first rule
/// that matches decides: one that denies denies all, one that allows takes its part out of what is still asked. The
/// program is short because the kernel's time to check it is a part of each container's start: what rules have in
/// common is asked once.
pub fn compile(rules: &[Rule]) -> Vec<u64> {
    let (rules, others) = simplify(rules);
    let mut program = Backwards(Vec::new());
    program.push(EXIT, 0, 0);
    program.push(MOVE, ANSWER, others.into());
    for alike in rules.chunk_by(|one, next| one.allow == next.allow) {
        compile_alike(&mut program, alike);
    }
    program.load(MINOR, 8);
    program.load(MAJOR, 4);
    program.push(SHIFT_RIGHT, ACCESS, 16);
    program.push(AND, KIND, 0xffff);
    program.copy(ACCESS, KIND);
    program.load(KIND, 0);
    program.0.reverse();
    program.0
}

/// Rules with one answer, whose order therefore does not matter.
fn compile_alike(program: &mut Backwards, rules: &[Rule]) {
    const BLOCK: i32 = 1;
    const CHARACTER: i32 = 2;
    let mut rules = join_access(rules);
    join_kinds(&mut rules);
    // The most general first, so last in the program, since nothing can come after what always matches.
    rules.sort_unstable_by_key(|rule| (rule.kind, std::cmp::Reverse(rule.access), rule.major, rule.minor));
    for kind in rules.chunk_by(|one, next| one.kind == next.kind) {
        let next = program.here();
        for access in kind.chunk_by(|one, next| one.access == next.access) {
            compile_numbers(program, access);
        }
        match kind[0].kind {
            'b' => program.jump(JUMP_NOT_EQUAL, KIND, BLOCK, next),
            'c' => program.jump(JUMP_NOT_EQUAL, KIND, CHARACTER, next),
            _ => {}
        }
    }
    program.push(MOVE, ANSWER, rules[0].allow.into());
}

/// One rule for each device.
fn join_access(rules: &[Rule]) -> Vec<Rule> {
    let mut joined: Vec<Rule> = Vec::new();
    for rule in rules {
        let same = |other: &&mut Rule| (other.kind, other.major, other.minor) == (rule.kind, rule.major, rule.minor);
        match joined.iter_mut().find(same) {
            Some(other) => other.access |= rule.access,
            None => joined.push(*rule),
        }
    }
    joined
}

/// A rule for both kinds in the place of two that differ in nothing else.
fn join_kinds(rules: &mut Vec<Rule>) {
    for place in (0..rules.len()).rev() {
        let rule = rules[place];
        let other = Rule { kind: if rule.kind == 'b' { 'c' } else { 'b' }, ..rule };
        // What always matches would make the rest of the program unreachable, which the kernel refuses.
        let always = rule.access == ALL && rule.major.is_none() && rule.minor.is_none();
        if rule.kind != 'a' && !always && rules[..place].contains(&other) {
            rules.remove(place);
            if let Some(other) = rules.iter_mut().find(|rule| **rule == other) {
                other.kind = 'a';
            }
        }
    }
}

/// Rules that differ in their numbers only, sorted.
fn compile_numbers(program: &mut Backwards, rules: &[Rule]) {
    const END: usize = 0;
    let Rule { access, allow, .. } = rules[0];
    let next = program.here();
    let mut found = END;
    // One for all devices makes the others needless.
    let all = rules[0].major.is_none() && rules[0].minor.is_none();
    if allow && access != ALL {
        program.jump(JUMP_EQUAL, ACCESS, 0, END);
        program.push(AND, ACCESS, (!access & ALL).into());
        found = program.here();
        if !all {
            program.jump(JUMP, 0, 0, next);
        }
    } else if all {
        program.jump(JUMP, 0, 0, END);
    }
    let numbered = if all { &[] } else { rules };
    for major in numbered.chunk_by(|one, next| one.major == next.major) {
        let next = program.here();
        match (major[0].major, major[0].minor) {
            (Some(number), None) => program.jump(JUMP_EQUAL, MAJOR, number as i32, found),
            (number, _) => {
                for minor in major.iter().filter_map(|rule| rule.minor) {
                    program.jump(JUMP_EQUAL, MINOR, minor as i32, found);
                }
                if let Some(number) = number {
                    program.jump(JUMP_NOT_EQUAL, MAJOR, number as i32, next);
                }
            }
        }
    }
    if !allow && access != ALL {
        program.jump(JUMP_EQUAL, SCRATCH, 0, next);
        program.push(AND, SCRATCH, access.into());
        program.copy(SCRATCH, ACCESS);
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxDeviceCgroup;

    use super::super::{MKNOD, READ, WRITE, plan};
    use super::*;

    fn rules(json: &str) -> Vec<Rule> {
        plan(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap()).unwrap()
    }

    /// Runs a program as the kernel would.
    fn run(program: &[u64], kind: u32, access: u8, major: u32, minor: u32) -> bool {
        let words = [u64::from(u32::from(access) << 16 | kind), u64::from(major), u64::from(minor)];
        let mut registers = [0_u64; 11];
        let mut place = 0;
        loop {
            let word = program[place];
            let (destination, source) = ((word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
            let (offset, immediate) = ((word >> 16) as i16, i64::from((word >> 32) as i32) as u64);
            place += 1;
            match word as u8 {
                LOAD_WORD => registers[destination] = words[offset as usize / 4],
                MOVE => registers[destination] = immediate,
                MOVE_REGISTER => registers[destination] = registers[source],
                AND => registers[destination] &= immediate,
                SHIFT_RIGHT => registers[destination] >>= immediate,
                JUMP_EQUAL if registers[destination] == immediate => {
                    place = (place as i64 + i64::from(offset)) as usize;
                }
                JUMP_NOT_EQUAL if registers[destination] != immediate => {
                    place = (place as i64 + i64::from(offset)) as usize;
                }
                JUMP_EQUAL | JUMP_NOT_EQUAL => {}
                JUMP => place = (place as i64 + i64::from(offset)) as usize,
                EXIT => return registers[0] == 1,
                other => panic!("operation {other:#x}"),
            }
        }
    }

    #[test]
    fn the_usual_list_leaves_the_default_devices() {
        let program = compile(&rules(
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"r"}]"#,
        ));
        assert!(run(&program, 2, READ | WRITE, 1, 3));
        assert!(run(&program, 2, READ | WRITE, 136, 42));
        assert!(run(&program, 2, READ, 10, 229));
        assert!(!run(&program, 2, READ | WRITE, 10, 229));
        assert!(!run(&program, 1, READ, 8, 0));
        assert!(run(&program, 1, MKNOD, 8, 0));
        assert!(!run(&program, 1, MKNOD | READ, 8, 0));
    }

    #[test]
    fn later_rules_win() {
        let program =
            compile(&rules(r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"access":"w"}]"#));
        assert!(run(&program, 1, READ, 8, 1));
        assert!(!run(&program, 1, READ | WRITE, 8, 1));
        assert!(run(&program, 2, READ | WRITE, 8, 1));
    }

    #[test]
    fn access_for_the_same_device_adds_up() {
        let list = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":7,"minor":0,"access":"r"},
            {"allow":true,"type":"b","major":7,"minor":0,"access":"w"}]"#;
        assert!(run(&compile(&rules(list)), 1, READ | WRITE, 7, 0));
    }

    /// What the list says: for each kind of access the last rule that matches decides.
    fn judge(rules: &[Rule], kind: char, access: u8, major: u32, minor: u32) -> bool {
        let may = |access: u8| {
            let matches = |rule: &&Rule| {
                (rule.kind == 'a' || rule.kind == kind)
                    && rule.major.is_none_or(|number| number == major)
                    && rule.minor.is_none_or(|number| number == minor)
                    && rule.access & access != 0
            };
            rules.iter().rev().find(matches).is_none_or(|rule| rule.allow)
        };
        [READ, WRITE, MKNOD].into_iter().filter(|bit| access & bit != 0).all(may)
    }

    #[test]
    fn the_program_does_what_the_list_says() {
        // A cheap generator of numbers, so that a failure can be repeated.
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..3000 {
            let mut list = Vec::new();
            for _ in 0..random(9) {
                list.push(Rule {
                    allow: random(2) == 0,
                    kind: ['a', 'b', 'c'][random(3) as usize],
                    major: [None, Some(1), Some(2)][random(3) as usize],
                    minor: [None, Some(0), Some(1)][random(3) as usize],
                    access: 1 + random(7) as u8,
                });
            }
            let program = compile(&list);
            for (kind, number) in [('b', 1), ('c', 2)] {
                for (access, major, minor) in
                    (0..7 * 3 * 3).map(|index| (1 + index as u8 % 7, index / 7 % 3 + 1, index / 21))
                {
                    let said = judge(&list, kind, access, major, minor);
                    assert_eq!(
                        run(&program, number, access, major, minor),
                        said,
                        "{list:?} {kind} {major}:{minor} {access}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_rule_that_is_repeated_later_does_not_get_past_what_denies_between() {
        let deny = r#"{"allow":false,"access":"rwm"},"#;
        // The default rules end with the right to make every node.
        let list = r#"{"allow":true,"type":"c","access":"rw"},{"allow":false,"type":"c","major":10,"minor":229}"#;
        let program = compile(&rules(&format!("[{deny}{list}]")));
        assert!(!run(&program, 2, READ, 10, 229) && !run(&program, 2, WRITE, 10, 229));
        assert!(run(&program, 2, MKNOD, 10, 229) && run(&program, 2, READ, 10, 228));
        let one = |allow: bool, access: &str| {
            format!(r#"{{"allow":{allow},"type":"c","major":10,"minor":229,"access":"{access}"}}"#)
        };
        let list = [one(true, "r"), one(false, "r"), one(true, "w")].join(",");
        let program = compile(&rules(&format!("[{deny}{list}]")));
        assert!(!run(&program, 2, READ, 10, 229) && run(&program, 2, WRITE, 10, 229));
        let list = [one(false, "r"), one(true, "r"), one(false, "w")].join(",");
        let program = compile(&rules(&format!(r#"[{{"allow":true,"access":"rwm"}},{list}]"#)));
        assert!(run(&program, 2, READ, 10, 229) && !run(&program, 2, WRITE, 10, 229));
    }

    #[test]
    fn the_usual_program_is_short() {
        assert_eq!(compile(&rules(r#"[{"allow":false,"access":"rwm"}]"#)).len(), 22);
    }

    #[test]
    fn a_rule_for_both_kinds_is_not_one_for_all() {
        let program = compile(&rules(r#"[{"allow":false,"access":"rwm"},{"allow":true,"major":10,"access":"r"}]"#));
        assert!(run(&program, 1, READ, 10, 1) && run(&program, 2, READ, 10, 1));
        assert!(!run(&program, 2, READ, 11, 1));
    }

    #[test]
    fn an_unknown_access_is_an_error() {
        let list = serde_json::from_str::<Vec<LinuxDeviceCgroup>>(r#"[{"allow":true,"access":"x"}]"#).unwrap();
        assert!(plan(&list).is_err());
    }
}
