//! What a process that was made from a checkpoint may do, beside what the configuration allows: the images decide.

use super::ProcessPlan;
use super::capability::names;
use crate::error::{Context, Error, Result};
use crate::sys::fs;

/// Refuses a restored process that has more privileges than the configuration gives; what it has given up itself is its
/// own affair, as is a user that it has changed to.
pub fn check(process: &ProcessPlan, has_filter: bool, pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read(path.as_str()).on_path("cannot look at the restored process", path)?;
    check_status(process, has_filter, &String::from_utf8_lossy(&status))
}

fn check_status(process: &ProcessPlan, has_filter: bool, status: &str) -> Result<()> {
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim);
    // What cannot be read is taken for everything.
    let set = |name: &str| u64::from_str_radix(field(name), 16).unwrap_or(u64::MAX);
    let given = &process.capabilities;
    let more =
        set("CapBnd") & !given.bounding | (set("CapPrm") | set("CapInh")) & !(given.bounding | given.inheritable);
    let wrong = |what: String, pointer: &str| {
        Err(Error::new(format!("the checkpoint is of a process with more privileges than the configuration's: {what}"))
            .pointer(pointer))
    };
    if more != 0 {
        return wrong(names(more).collect::<Vec<_>>().join(", "), "/process/capabilities");
    }
    if process.no_new_privileges && field("NoNewPrivs") != "1" {
        return wrong("no_new_privs is not set".to_owned(), "/process/noNewPrivileges");
    }
    if has_filter && field("Seccomp") != "2" {
        return wrong("there is no seccomp filter".to_owned(), "/linux/seccomp");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::capability::Capabilities;
    use crate::process::plan;
    use crate::spec::Process;

    const STATUS: &str = "Name:\tsh\nUid:\t0\t0\t0\t0\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000003\n\
        CapEff:\t0000000000000003\nCapBnd:\t0000000000000007\nNoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n";

    #[test]
    fn more_than_the_configuration_gives_is_refused() {
        let mut process = plan(&Process { cwd: "/".into(), ..Process::default() }).unwrap();
        let mut check = |bounding, no_new_privileges, filter, status: &str| {
            process.capabilities = Capabilities { bounding, ..Capabilities::default() };
            process.no_new_privileges = no_new_privileges;
            check_status(&process, filter, status)
        };
        check(0xf, false, false, STATUS).unwrap();
        let error = check(5, false, false, STATUS).unwrap_err().to_string();
        assert!(error.contains("CAP_DAC_OVERRIDE") && !error.contains("CAP_CHOWN"), "{error}");
        assert!(check(7, true, false, STATUS).unwrap_err().to_string().contains("no_new_privs"));
        assert!(check(7, false, true, STATUS).unwrap_err().to_string().contains("seccomp"));
        check(7, true, true, &STATUS.replace("Privs:\t0", "Privs:\t1").replace("Seccomp:\t0", "Seccomp:\t2")).unwrap();
        check(7, false, false, "").unwrap_err();
    }
}
