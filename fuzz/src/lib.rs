//! What the targets share.

use std::fmt::{Debug, Display};
use std::sync::Once;

use kelson::error::Result;
use kelson::{seccomp, sys};
use serde_json::json;

/// System calls that change something outside of the process.
const CHANGES: &[&str] = &[
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "symlink",
    "symlinkat",
    "link",
    "linkat",
    "rename",
    "renameat",
    "renameat2",
    "unlinkat",
    "rmdir",
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "lchown",
    "fchown",
    "fchownat",
    "truncate",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "creat",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "chdir",
    "fchdir",
    "open_tree",
    "move_mount",
    "fsopen",
    "fspick",
    "fsconfig",
    "fsmount",
    "mount_setattr",
    "setns",
    "unshare",
    "clone",
    "clone3",
    "fork",
    "vfork",
    "execve",
    "execveat",
    "socket",
    "socketpair",
    "bpf",
    "add_key",
    "keyctl",
    "sethostname",
    "setdomainname",
    "setrlimit",
    "sched_setattr",
    "ioprio_set",
    "setuid",
    "setgid",
    "setgroups",
    "setresuid",
    "setresgid",
    "capset",
    "personality",
    "set_mempolicy",
    "umask",
    "setsid",
    "kill",
    "pidfd_send_signal",
    "pidfd_open",
];

/// From here on the process ends, as by a panic, when it changes anything outside of itself. libFuzzer opens the files
/// that it writes without O_CLOEXEC, and Rust never does: that tells them apart.
pub fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        let flags = |bits: i32| json!([{"index": 2, "op": "SCMP_CMP_MASKED_EQ", "value": bits, "valueTwo": bits}]);
        let mut rules = vec![json!({"names": CHANGES, "action": "SCMP_ACT_TRAP"})];
        for way in [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT] {
            let args = flags(way | libc::O_CLOEXEC);
            rules.push(json!({"names": ["openat"], "action": "SCMP_ACT_TRAP", "args": args}));
        }
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
        let profile = serde_json::from_value(profile).expect("a profile");
        // SAFETY: the handler calls nothing but abort(3), which a handler may.
        unsafe { libc::signal(libc::SIGSYS, end as *const () as libc::sighandler_t) };
        sys::process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).expect("no new privileges");
        seccomp::plan(&profile).and_then(|filter| filter.load(None, &[], None)).expect("a filter");
    });
}

extern "C" fn end(_signal: libc::c_int) {
    // SAFETY: always safe; libFuzzer notes the input.
    unsafe { libc::abort() }
}

/// What may be wrong must be said without a panic, and what is right can be printed.
pub fn show<T: Debug>(result: &Result<T>) {
    match result {
        Ok(value) => text(&format_args!("{value:?}")),
        Err(error) => {
            text(error);
            assert!(!error.details().is_empty() || !error.to_string().is_empty(), "an error without a word");
        }
    }
}

fn text(value: &impl Display) {
    std::hint::black_box(value.to_string());
}
