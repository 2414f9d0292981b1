//! `kelson seccomp explain` and `kelson seccomp compile`: the forms of a profile that they read, and what they say.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Host, Output};

/// A profile as engines have it.
fn engines_profile() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrno": "ENOSYS",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
        "syscalls": [
            {"names": ["read", "close", "no_such_call"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "files"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"name": "personality", "action": "SCMP_ACT_LOG",
                "args": [{"index": 0, "value": 0xffff_ffff_u32, "op": "SCMP_CMP_EQ"}]},
            {"names": ["personality"], "action": "SCMP_ACT_TRACE", "errnoRet": 7,
                "args": [{"index": 0, "value": 8, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}]},
        ],
    })
}

struct Tool<'a> {
    host: &'a Host,
    file: String,
}

impl<'a> Tool<'a> {
    fn new(host: &'a Host, content: &Value) -> Self {
        let file = host.temp.join("profile.json");
        fs::write(&file, content.to_string()).unwrap();
        Self { host, file: file.to_str().unwrap().to_owned() }
    }

    fn call(&self, words: &[&str]) -> Output {
        let words = words.iter().map(|word| if *word == "FILE" { &self.file } else { *word });
        self.host.kelson(["seccomp"].into_iter().chain(words))
    }

    #[track_caller]
    fn says(&self, words: &[&str], parts: &[&str]) {
        let output = self.call(words).ok();
        parts.iter().for_each(|part| assert!(output.stdout.contains(part), "{part:?} is not in {output:?}"));
    }
}

#[test]
fn a_call_is_explained_by_the_rule_that_decides() {
    let host = Host::new();
    let tool = Tool::new(&host, &engines_profile());
    let arch = ["explain", "--arch", "x86_64", "FILE"];
    for (call, parts) in [
        (&["read"][..], &["read() is 0 on SCMP_ARCH_X86_64", "SCMP_ACT_ALLOW", " /syscalls/0\n", "executed of"][..]),
        (&["0"], &["read() is 0 on", " /syscalls/0\n"]),
        (&["getppid"], &["SCMP_ACT_ERRNO ENOSYS: the call fails", " /defaultAction\n"]),
        (&["mount"], &["ENOSYS", "newer than every call", "/syscalls/1  only with CAP_SYS_ADMIN"]),
        (&["personality", "-1"], &["SCMP_ACT_TRACE 7", " /syscalls/3\n", "argument 0 == 0xffffffff: not met"]),
        (&["personality", "0xffffffff"], &["SCMP_ACT_LOG: the call is made, and logged"]),
        (&["personality", "0o3"], &["arguments decide", "argument 0 & 0x8 == 0x8: not met", " /defaultAction\n"]),
        (&["1073741824"], &["read() is 1073741824 on SCMP_ARCH_X32", " /syscalls/0\n"]),
    ] {
        tool.says(&[&arch, call].concat(), parts);
    }
    tool.says(&["explain", "--arch", "amd64", "--cap-add", "CAP_SYS_ADMIN", "FILE", "mount"], &[" /syscalls/1\n"]);
    tool.says(&["explain", "--arch=SCMP_ARCH_X86", "FILE", "read"], &["read() is 3 on SCMP_ARCH_X86\n", "/syscalls/0"]);
    tool.says(&["explain", "--arch", "s390x", "FILE", "0"], &["SCMP_ACT_ERRNO ENOSYS"]);
    tool.says(&["explain", "--arch", "s390", "FILE", "read"], &["SCMP_ACT_KILL_PROCESS", "not in /architectures"]);
}

#[test]
fn a_profile_of_a_configuration_has_its_places() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let rule = json!({"names": ["read"], "action": "SCMP_ACT_KILL"});
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    bundle.write_config();
    let file = bundle.path.join("config.json");
    for source in [&bundle.path, &file] {
        let output = host.kelson(["seccomp", "explain", source.to_str().unwrap(), "read"]).ok();
        assert!(output.stdout.contains(" /linux/seccomp/syscalls/0\n"), "{output:?}");
        assert!(output.stdout.contains("SIGSYS kills the thread"), "{output:?}");
    }
    bundle.config["linux"]["seccomp"] = Value::Null;
    bundle.write_config();
    let words = ["seccomp", "compile", file.to_str().unwrap()];
    host.kelson(words).fails_with("(config.json /linux/seccomp)");
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_MOON"});
    bundle.write_config();
    host.kelson(words).fails_with("(config.json /linux/seccomp/defaultAction)");
}

#[test]
fn a_filter_is_printed_and_written_and_always_the_same() {
    let host = Host::new();
    let tool = Tool::new(&host, &engines_profile());
    let text = tool.call(&["compile", "--arch", "x86_64", "FILE"]).ok().stdout;
    let length = text.lines().count() - 1;
    let title = format!("; {length} instructions for SCMP_ARCH_X86_64, SCMP_ARCH_X86, SCMP_ARCH_X32\n");
    assert!(text.starts_with(&title), "{text}");
    assert!(
        text.contains("; personality\n") && text.contains("ret 0x7ff00007                  ; SCMP_ACT_TRACE 7"),
        "{text}"
    );
    let raw = host.temp.join("raw");
    let write = |arch: &str| {
        let script = format!("\"$1\" seccomp compile --arch {arch} --raw \"$2\" > \"$3\"");
        let kelson = crate::harness::program("kelson");
        let words = ["sh", "-c", &script, "sh", kelson.to_str().unwrap(), &tool.file, raw.to_str().unwrap()];
        host.command(words).run().ok();
        fs::read(&raw).unwrap()
    };
    let first = write("x86_64");
    assert_eq!(first.len(), 8 * length);
    assert_eq!(first, write("x86_64"));
    // The one load of the architecture, in the byte order of the machine.
    assert_eq!(first[..8], [0x20, 0, 0, 0, 4, 0, 0, 0]);
    assert_eq!(write("s390x")[..8], [0, 0x20, 0, 0, 0, 0, 0, 4]);
}

#[test]
fn what_cannot_be_read_is_said_with_its_place() {
    let host = Host::new();
    let with = |pointer: &str, value: Value| {
        let mut profile = engines_profile();
        crate::support::set(&mut profile, pointer, value);
        profile
    };
    for (profile, place) in [
        (with("/defaultAction", json!("ALLOW")), "profile.json#/defaultAction"),
        (with("/architectures", json!(["SCMP_ARCH_X86"])), "profile.json#/archMap"),
        (with("/syscalls/0/name", json!("write")), "profile.json#/syscalls/0/name"),
        (with("/syscalls/1/errno", json!("EMOON")), "profile.json#/syscalls/1/errno"),
        (with("/syscalls/3/errnoRet", json!(65536)), "profile.json#/syscalls/3/errnoRet"),
        (with("/syscalls/1/includes", json!({"minKernel": "new"})), "profile.json#/syscalls/1"),
        (with("/syscalls/2/args/0/index", json!("a")), "profile.json#/syscalls/2/args/0/index"),
        (json!({}), "profile.json#/defaultAction"),
    ] {
        let output = Tool::new(&host, &profile).call(&["explain", "--arch", "x86_64", "FILE", "read"]);
        assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output:?}");
        assert!(output.stderr.contains(place) && !output.stderr.contains("config.json"), "{place}: {output:?}");
    }
    let tool = Tool::new(&host, &engines_profile());
    for (words, error) in [
        (&["FILE", "reed"][..], "unknown system call \\\"reed\\\""),
        (&["--arch", "x86_64", "FILE", "socketcall"], "SCMP_ARCH_X86_64 has no system call"),
        (&["--arch", "z80", "FILE", "read"], "unknown architecture"),
        (&["--cap-add", "CAP_MOON", "FILE", "read"], "unknown capability"),
        (&["FILE", "read", "one"], "it is no number of 64 bits"),
        (&["FILE", "read", "1", "2", "3", "4", "5", "6", "7"], "unexpected"),
        (&["/nowhere.json", "read"], "ENOENT"),
    ] {
        tool.call(&[&["explain"], words].concat()).fails_with(error);
    }
}

#[test]
fn names_that_nobody_knows_are_ignored_and_reported() {
    let host = Host::new();
    let tool = Tool::new(&host, &engines_profile());
    assert_eq!(tool.call(&["explain", "FILE", "read"]).ok().stderr, "");
    let output = tool.call(&["explain", "--debug", "FILE", "read"]).ok();
    assert!(output.stderr.contains("no_such_call") && output.stderr.contains("/syscalls/0/names"), "{output:?}");
    let mut bundle = host.bundle();
    let rule = json!({"names": ["no_such_call"], "action": "SCMP_ACT_KILL"});
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    bundle.args(&["/bin/true"]).write_config();
    let output = host.call(["--debug"]).with(["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]).run().ok();
    assert!(output.stderr.contains("no_such_call"), "{output:?}");
}
