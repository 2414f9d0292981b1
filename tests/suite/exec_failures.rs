//! A program that cannot be executed: what is said about it, in the words that engines look for, with the cause.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use crate::harness::{Bundle, Host};
use crate::support::set;

/// Puts a file into the rootfs, with this mode.
fn file(bundle: &Bundle<'_>, path: &str, content: impl AsRef<[u8]>, mode: u32) {
    let path = bundle.rootfs.join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Busybox, with these bytes changed.
fn changed_busybox(bundle: &Bundle<'_>, place: usize, bytes: &[u8]) -> Vec<u8> {
    let mut program = fs::read(bundle.rootfs.join("bin/busybox")).unwrap();
    program[place..place + bytes.len()].copy_from_slice(bytes);
    program
}

/// As the log in text form has it.
fn logged(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Asserts that `program` fails at `create` or `start` with the kernel's words and then what was found.
#[track_caller]
fn fails(bundle: &mut Bundle<'_>, program: &str, words: &str, found: &str) {
    bundle.args(&[program]);
    let output = bundle.run();
    assert_eq!(output.code, 1, "{program}: {output:?}");
    let expected = format!("exec: {program:?}: {words}{}{found}", if found.is_empty() { "" } else { ": " });
    assert!(output.stderr.contains(&logged(&expected)), "{expected}\nis not in\n{}", output.stderr);
    assert!(output.stderr.contains("(config.json /process/args/0)"), "{output:?}");
    assert_eq!(output.stderr.matches("exec: ").count(), 1, "{output:?}");
}

#[test]
fn a_missing_program_and_one_that_is_none() {
    let host = Host::new();
    let mut bundle = host.bundle();
    fails(&mut bundle, "nosuch", "executable file not found in $PATH", "");
    for path in ["PATH=", "PATH=:/nowhere", "PATH=bin:.", "PATH=/nowhere:"] {
        bundle.config["process"]["env"] = json!([path]);
        bundle.config["process"]["cwd"] = json!("/bin");
        fails(&mut bundle, "true", "executable file not found in $PATH", "");
    }
    bundle.config["process"]["env"] = json!(["PATH=:/bin"]);
    bundle.args(&["true"]).run().ok();
    fails(&mut bundle, "", "executable file not found in $PATH", "");
    fails(&mut bundle, "/no/such", "no such file or directory", "");
    fails(&mut bundle, "/etc", "permission denied", "it is a directory");
    fails(&mut bundle, "/etc/passwd/x", "not a directory", "");
    symlink("/gone", bundle.rootfs.join("link")).unwrap();
    let found = "it is a symbolic link to \"/gone\", which is missing";
    fails(&mut bundle, "/link", "no such file or directory", found);
    nix::unistd::mkfifo(&bundle.rootfs.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fails(&mut bundle, "/fifo", "permission denied", "it is not a regular file");
    file(&bundle, "/object", changed_busybox(&bundle, 16, &[1, 0]), 0o755);
    fails(&mut bundle, "/object", "exec format error", "it is an ELF file that is no program");
    file(&bundle, "/empty", "", 0o755);
    fails(&mut bundle, "/empty", "exec format error", "it is empty");
    file(&bundle, "/exe", "MZ\u{90}\0", 0o755);
    fails(&mut bundle, "/exe", "exec format error", "it is a program for Windows");
}

#[test]
fn permissions_that_are_missing() {
    let host = Host::new();
    let mut bundle = host.bundle();
    file(&bundle, "/plain", "#!/bin/sh\n", 0o644);
    fails(&mut bundle, "/plain", "permission denied", "it has no execute permission (mode 0644)");
    file(&bundle, "/bin/unmarked", "#!/bin/sh\n", 0o600);
    fails(&mut bundle, "unmarked", "permission denied", "it has no execute permission (mode 0600): /bin/unmarked");
    set(&mut bundle.config, "/process/user", json!({"uid": 1000, "gid": 1000}));
    file(&bundle, "/own", "#!/bin/sh\n", 0o700);
    let found = "user 1000 may not execute it: it has mode 0700 and owner 0:0";
    fails(&mut bundle, "/own", "permission denied", found);
    file(&bundle, "/closed/program", "#!/bin/sh\n", 0o755);
    fs::set_permissions(bundle.rootfs.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let found = "user 1000 may not enter the directory \"/closed\"";
    fails(&mut bundle, "/closed/program", "permission denied", found);
    file(&bundle, "/script", "#!/closed/program\n", 0o755);
    fails(&mut bundle, "/script", "permission denied", found);
}

#[test]
fn scripts_whose_interpreter_does_not_run() {
    let host = Host::new();
    let mut bundle = host.bundle();
    file(&bundle, "/bare", "echo hi\n", 0o755);
    fails(&mut bundle, "/bare", "exec format error", "it is text whose first line names no interpreter");
    file(&bundle, "/marked", "\u{feff}#!/bin/sh\n", 0o755);
    fails(&mut bundle, "/marked", "exec format error", "it has a byte order mark before its #!");
    file(&bundle, "/crlf", "#!/bin/sh\r\necho\r\n", 0o755);
    let found = "it is a script whose lines end in CRLF, which makes its interpreter \"/bin/sh\\r\"";
    fails(&mut bundle, "/crlf", "no such file or directory", found);
    file(&bundle, "/bash", "#!/bin/bash\n", 0o755);
    let found = "its interpreter \"/bin/bash\" is missing";
    fails(&mut bundle, "/bash", "no such file or directory", found);
    file(&bundle, "/etc/plain", "", 0o644);
    file(&bundle, "/unmarked", "#!/etc/plain\n", 0o755);
    let found = "its interpreter \"/etc/plain\" has no execute permission (mode 0644)";
    fails(&mut bundle, "/unmarked", "permission denied", found);
    file(&bundle, "/again", "#!/again\n", 0o755);
    fails(&mut bundle, "/again", "too many levels of symbolic links", "scripts follow each other as interpreters");
    // What the name leads to is the runtime itself, sealed: nothing of it is shown, and it does not run.
    file(&bundle, "/self", "#!/proc/self/exe\n", 0o755);
    let output = bundle.args(&["/self"]).run();
    assert_ne!(output.code, 0, "{output:?}");
}

#[test]
fn programs_for_another_machine_or_without_their_loader() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let other: [u8; 2] = if cfg!(target_arch = "aarch64") { [22, 0] } else { [183, 0] };
    file(&bundle, "/other", changed_busybox(&bundle, 18, &other), 0o755);
    let (own, name) = if cfg!(target_arch = "aarch64") { ("arm64", "s390x") } else { ("amd64", "arm64") };
    let found = format!("it is for {name}, and this machine is {own}");
    fails(&mut bundle, "/other", "exec format error", &found);
    fs::copy("/bin/ls", bundle.rootfs.join("dynamic")).unwrap();
    fails(&mut bundle, "/dynamic", "no such file or directory", "its loader \"/lib");
    file(&bundle, "/short", &changed_busybox(&bundle, 16, &[2, 0])[..80], 0o755);
    assert_eq!(bundle.args(&["/short"]).run().code, 1);
}

#[test]
fn a_mount_without_execution_is_named() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let volume = host.temp.join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::copy(bundle.rootfs.join("bin/busybox"), volume.join("sub/true")).unwrap();
    bundle.mount("/volume", "bind", &volume, &["rbind", "noexec"]);
    fails(&mut bundle, "/volume/sub/true", "permission denied", "it is on the mount /volume, which has noexec");
    file(&bundle, "/script", "#!/volume/sub/true\n", 0o755);
    let found = "its interpreter \"/volume/sub/true\" is on the mount /volume, which has noexec";
    fails(&mut bundle, "/script", "permission denied", found);
}

#[test]
fn what_the_kernel_refuses_for_another_reason() {
    let host = Host::new();
    let mut bundle = host.bundle();
    fs::copy(bundle.rootfs.join("bin/busybox"), bundle.rootfs.join("busy")).unwrap();
    let open = fs::File::options().append(true).open(bundle.rootfs.join("busy")).unwrap();
    fails(&mut bundle, "/busy", "text file busy", "it is open for writing");
    drop(open);
    let rule = json!([{"names": ["execve"], "action": "SCMP_ACT_ERRNO"}]);
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule});
    for last in [true, false] {
        set(&mut bundle.config, "/process/noNewPrivileges", json!(last));
        let found = "a seccomp profile is in force that may forbid execve(2)";
        fails(&mut bundle, "/bin/true", "permission denied", found);
    }
}

#[test]
fn file_capabilities_that_the_process_may_not_get() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let path = bundle.rootfs.join("privileged");
    fs::copy(bundle.rootfs.join("bin/busybox"), &path).unwrap();
    // Version 2, effective; CAP_SYS_MODULE permitted.
    let value = "0x0100000200000100000000000000000000000000";
    let python = "import os, sys; os.setxattr(sys.argv[1], 'security.capability', bytes.fromhex(sys.argv[2][2:]))";
    host.command(["python3", "-c", python, path.to_str().unwrap(), value]).run().ok();
    fails(&mut bundle, "/privileged", "permission denied", "it has file capabilities that the process may not get");
}

#[test]
fn a_filter_that_lets_nothing_be_said_is_no_success() {
    let host = Host::new();
    let mut bundle = host.bundle();
    let rules = json!([{"names": ["execve"], "action": "SCMP_ACT_ERRNO"}, {"names": ["write"], "action": "SCMP_ACT_KILL_PROCESS"}]);
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
    set(&mut bundle.config, "/process/noNewPrivileges", json!(true));
    bundle.run().fails_with("SIGSYS");
    assert!(!host.root.join(&bundle.id).exists());
    bundle.create().ok();
    let pid = bundle.pid();
    let output = bundle.start();
    // A parent that reaps at once leaves nothing to be seen.
    assert_eq!(output.code, 1, "{output:?}");
    host.reap(pid);
    bundle.delete(false).ok();
}

#[test]
fn start_tells_what_create_could_not_know() {
    let host = Host::new();
    let mut bundle = host.bundle();
    file(&bundle, "/crlf", "#!/bin/sh\r\n", 0o755);
    bundle.args(&["/crlf"]).create().ok();
    let pid = bundle.pid();
    let told = "exec: \"/crlf\": no such file or directory: it is a script whose lines end in CRLF";
    bundle.start().fails_with(&logged(told));
    host.reap(pid);
    assert_eq!(bundle.status(), "stopped");
    bundle.delete(false).ok();
}
