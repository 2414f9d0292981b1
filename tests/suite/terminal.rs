//! `process.terminal` and `process.consoleSize`: over a console socket, and for a `run` in the foreground.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command};

use kelson::sys::process::inherited;
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use serde_json::json;

use crate::descriptors::receive;
use crate::harness::{Bundle, Host, program, wait_until};
use crate::support::{Canary, fails_at, race, replace_by_link, user_namespace};

/// A bundle with a terminal of 33 lines and 77 columns.
fn with_terminal<'a>(host: &'a Host, script: &str) -> Bundle<'a> {
    let mut bundle = host.bundle();
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({ "height": 33, "width": 77 });
    bundle.script(script);
    bundle
}

/// Listens for a terminal, and tells the bundle where to send it.
fn listen(host: &Host, bundle: &mut Bundle<'_>) -> UnixListener {
    let path = host.temp.join("console.sock");
    let _ = fs::remove_file(&path);
    bundle.flags = ["--console-socket", path.to_str().unwrap()].map(Into::into).to_vec();
    UnixListener::bind(&path).unwrap()
}

pub fn accept(listener: &UnixListener) -> File {
    let (connection, _) = listener.accept().unwrap();
    File::from(inherited(receive(&connection)).unwrap())
}

/// Everything until the other end is closed, which a terminal tells as an error.
pub fn read_all(mut master: File) -> String {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Creates and starts with a console socket; what was printed on the terminal.
fn printed(host: &Host, bundle: &mut Bundle<'_>) -> String {
    let listener = listen(host, bundle);
    bundle.create().ok();
    let master = accept(&listener);
    let pid = bundle.pid();
    bundle.start().ok();
    let text = read_all(master);
    host.reap(pid);
    bundle.delete_by_force();
    text
}

#[test]
fn a_terminal_is_sent_over_the_console_socket() {
    let host = Host::new();
    for own_users in [false, true] {
        let mut bundle =
            with_terminal(&host, "probe tty sid pid; tty; stat -c '%t %T' /dev/console /dev/pts/0; stty size");
        if own_users {
            user_namespace(&mut bundle, 100_000);
        }
        let text = printed(&host, &mut bundle);
        let report: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let tty = json!({ "0": true, "1": true, "2": true, "rdev": "136:0", "winsize": [33, 77] });
        assert_eq!((&report["tty"], &report["sid"]), (&tty, &json!(1)), "{text}");
        let rest: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(rest, ["/dev/pts/0", "88 0", "88 0", "33 77"], "{text}");
    }
}

#[test]
fn the_terminal_is_the_controlling_one_and_its_users() {
    let host = Host::new();
    let mut bundle = with_terminal(&host, "echo through > /dev/tty; stat -c %u /dev/pts/0");
    bundle.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    assert_eq!(printed(&host, &mut bundle), "through\r\n1000\r\n");
}

#[test]
fn impossible_terminals_are_refused() {
    let host = Host::new();
    let mut bundle = with_terminal(&host, "true");
    fails_at(&bundle.create(), "/process/terminal");
    fails_at(&bundle.making("run", &["--detach"]).run(), "/process/terminal");
    bundle.flags = ["--console-socket", "/nowhere"].map(Into::into).to_vec();
    bundle.create().fails_with("cannot connect to a socket: /nowhere");
    bundle.config["process"]["terminal"] = json!(false);
    fails_at(&bundle.create(), "/process/terminal");
    bundle.config["process"]["terminal"] = json!(true);
    bundle.flags.clear();
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/pts");
    fails_at(&bundle.run(), "/process/terminal");
}

/// A `run` in the foreground.
fn foreground(host: &Host, bundle: &Bundle<'_>) -> (Child, OpenptyResult) {
    bundle.write_config();
    let path = bundle.path.to_str().unwrap();
    on_terminal(host, &["run", "--bundle", path, &bundle.id])
}

/// kelson on a terminal of 44 lines and 55 columns.
fn on_terminal(host: &Host, arguments: &[&str]) -> (Child, OpenptyResult) {
    let size = Winsize { ws_row: 44, ws_col: 55, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).unwrap();
    let end = || pty.slave.try_clone().unwrap();
    let child = Command::new("setsid")
        .arg(program("kelson"))
        .arg("--root")
        .arg(&host.root)
        .args(arguments)
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    (child, pty)
}

#[test]
fn a_run_in_the_foreground_relays_the_callers_terminal() {
    let host = Host::new();
    let bundle = with_terminal(&host, "stty size; read line; echo got $line; exit 5");
    let (mut child, pty) = foreground(&host, &bundle);
    let mut master = File::from(pty.master);
    master.write_all(b"hello\r").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    // As it was before.
    assert!(tcgetattr(&pty.slave).unwrap().local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON));
    drop::<OwnedFd>(pty.slave);
    let text = read_all(master);
    assert!(text.contains("44 55\r\n") && text.contains("got hello\r\n"), "{text:?}");
}

#[test]
fn a_terminal_that_cannot_be_set_up_leaves_no_container() {
    let host = Host::new();
    let bundle = with_terminal(&host, "sleep 100");
    // The first call is for what the master is set to, the second sets it.
    let (fault, trace) = (program("fault"), host.temp.join("trace"));
    let fault = [fault.to_str().unwrap(), trace.to_str().unwrap(), "0:ioctl/2=EIO", "-", "--"];
    bundle.making("run", &[]).before(fault).run().fails_with("cannot set up the container's terminal");
    host.kelson(["state", &bundle.id]).fails_with("does not exist");
    assert_eq!(host.wait_for_no_differences(), Vec::<String>::new());
}

#[test]
fn without_a_terminal_of_the_callers_a_run_relays_its_standard_streams() {
    let host = Host::new();
    let bundle = with_terminal(&host, "read line; echo got $line; exit 6");
    let output = bundle.making("run", &[]).stdin("hello\n").run();
    assert_eq!(output.code, 6);
    assert!(output.stdout.contains("got hello"), "{output:?}");
}

#[test]
fn cve_2017_5226_nothing_is_typed_into_the_callers_terminal() {
    let host = Host::new();
    let mut bundle = host.bundle();
    // Its streams are the caller's terminal, but that is not its controlling one.
    bundle.script("tty; echo x 2>/dev/null > /dev/tty && exit 1; ps -o sid | tail -n 1; exit 0");
    let (mut child, pty) = foreground(&host, &bundle);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(pty);
}

/// A bundle with a terminal whose /dev is the image's own.
fn own_dev<'a>(host: &'a Host, script: &str) -> Bundle<'a> {
    let mut bundle = with_terminal(host, script);
    bundle.writable();
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev");
    bundle
}

#[test]
fn cve_2025_52565_a_link_for_the_console_is_not_followed() {
    let host = Host::new();
    let canary = Canary::new(&host);
    for target in [PathBuf::from("/proc/sysrq-trigger"), "/etc/passwd".into(), canary.path.join("console"), "x".into()]
    {
        let mut bundle = own_dev(&host, "true");
        symlink(&target, bundle.rootfs.join("dev/console")).unwrap();
        let _listener = listen(&host, &mut bundle);
        bundle.create().fails_with("ELOOP");
    }
    let mut bundle = own_dev(&host, "true");
    canary.link_from(&bundle.rootfs.join("dev/pts"));
    let _listener = listen(&host, &mut bundle);
    bundle.create().fails_with("ELOOP");
    canary.is_untouched();
}

#[test]
fn cve_2025_52565_a_console_that_is_swapped_is_the_terminal_or_an_error() {
    let host = Host::new();
    let canary = Canary::new(&host);
    let bundle =
        own_dev(&host, "test \"$(stat -c '%t %T' /dev/pts/0)\" = '88 0' && ! grep -q ' /etc/' /proc/self/mountinfo");
    let console = bundle.rootfs.join("dev/console");
    let link = bundle.rootfs.join("dev/other");
    fs::write(&console, "").unwrap();
    replace_by_link(&link, "/etc/passwd".as_ref());
    let racer = race(&host, &console, &link);
    let mut worked = 0;
    for _ in 0..50 {
        let output = bundle.making("run", &[]).run();
        assert!(output.code == 0 || output.stderr.contains("console"), "{output:?}");
        worked += i32::from(output.code == 0);
    }
    drop(racer);
    assert!(worked > 0, "never");
    canary.is_untouched();
}

/// Whether the caller's terminal is as it was before: raw mode is over.
fn is_restored(pty: &OpenptyResult) -> bool {
    tcgetattr(&pty.slave).unwrap().local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG)
}

#[test]
fn the_callers_terminal_is_restored_after_an_error_and_a_signal() {
    let host = Host::new();
    // What only the start finds out: the terminal is in raw mode by then.
    let mut bundle = with_terminal(&host, "true");
    fs::write(bundle.rootfs.join("bad"), "#!/no/interpreter\n").unwrap();
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        &bundle.rootfs.join("bad"),
        nix::sys::stat::Mode::S_IRWXU,
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
    .unwrap();
    bundle.args(&["/bad"]);
    let (mut child, pty) = foreground(&host, &bundle);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(is_restored(&pty));
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGALRM] {
        let name = signal.as_str().trim_start_matches("SIG");
        let bundle = with_terminal(&host, &format!("trap 'exit 9' {name}; echo set; while :; do sleep 0.01; done"));
        let (mut child, pty) = foreground(&host, &bundle);
        let mut master = File::from(pty.master.try_clone().unwrap());
        read_until(&mut master, "set");
        assert!(!is_restored(&pty), "not raw");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(9), "{signal}");
        assert!(is_restored(&pty), "{signal}");
    }
}

#[test]
fn the_callers_terminal_is_restored_after_an_exec() {
    let host = Host::new();
    let mut bundle = with_terminal(&host, "sleep 100");
    bundle.config["process"]["terminal"] = json!(false);
    bundle.up();
    let script = "trap 'exit 9' TERM HUP; echo set; while :; do sleep 0.01; done";
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let (mut child, pty) = on_terminal(&host, &["exec", "-t", &bundle.id, "sh", "-c", script]);
        let mut master = File::from(pty.master.try_clone().unwrap());
        read_until(&mut master, "set");
        assert!(!is_restored(&pty), "not raw");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(9), "{signal}");
        assert!(is_restored(&pty), "{signal}");
    }
    // What fails once the terminal was taken.
    let (mut child, pty) =
        on_terminal(&host, &["exec", "-t", "--pid-file", "/nowhere/pid", &bundle.id, "sleep", "100"]);
    assert_eq!(child.wait().unwrap().code(), Some(255));
    assert!(is_restored(&pty), "after an error");
    bundle.delete_by_force();
}

/// Reads until `text` has come.
fn read_until(master: &mut File, text: &str) -> String {
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains(text) {
        let length = master.read(&mut buffer).unwrap();
        seen += &String::from_utf8_lossy(&buffer[..length]);
    }
    seen
}

#[test]
fn changes_of_the_windows_size_are_passed_on() {
    let host = Host::new();
    let bundle = with_terminal(&host, "trap 'stty size; exit 0' WINCH; echo set; while :; do sleep 0.01; done");
    let (mut child, pty) = foreground(&host, &bundle);
    let mut master = File::from(pty.master.try_clone().unwrap());
    read_until(&mut master, "set");
    kelson::sys::fs::set_window_size(&master, (50, 60)).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGWINCH).unwrap();
    read_until(&mut master, "50 60");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_container_that_does_not_read_keeps_no_signal_from_itself() {
    let host = Host::new();
    let bundle = with_terminal(&host, "trap 'exit 9' TERM; echo set; while :; do sleep 0.01; done");
    let running = bundle.making("run", &[]).stdin(vec![b'x'; 1 << 20]).spawn();
    wait_until("it runs", || running.stdout().contains("set"));
    std::thread::sleep(std::time::Duration::from_millis(100));
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code, 9);
}

#[test]
fn a_terminal_that_is_closed_for_a_while_comes_back() {
    let host = Host::new();
    let bundle =
        with_terminal(&host, "trap '' HUP; exec 0<&- 1>&- 2>&-; sleep 0.3; exec 1>/dev/console; echo back; exit 8");
    let output = bundle.making("run", &[]).run();
    assert_eq!((output.code, output.stdout.contains("back")), (8, true), "{output:?}");
}

#[test]
fn all_that_was_written_is_there_at_the_end() {
    let host = Host::new();
    let bundle = with_terminal(&host, "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done");
    let output = bundle.making("run", &[]).run().ok();
    assert!(output.stdout.ends_with("line 19999\n"), "{}", output.stdout.len());
    assert_eq!(output.stdout.lines().count(), 20_000);
    // Others that go on to write do not keep it from its end.
    let mut bundle = with_terminal(
        &host,
        "trap '' HUP; (i=0; while [ $i -lt 300 ]; do echo x; sleep 0.01; i=$((i+1)); done) & exit 5",
    );
    bundle.share("pid");
    assert_eq!(bundle.making("run", &[]).run().code, 5);
}

#[test]
fn a_caller_that_does_not_read_keeps_no_signal_from_the_container() {
    let host = Host::new();
    let bundle = with_terminal(&host, "trap 'exit 9' TERM; yes & while :; do sleep 0.01; done");
    let (mut child, pty) = foreground(&host, &bundle);
    wait_until("it runs", || host.kelson(["list", "-q"]).stdout.contains(&bundle.id) && bundle.status() == "running");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let kelson = Pid::from_raw(child.id() as i32);
    kill(kelson, Signal::SIGTERM).unwrap();
    wait_until("the container's end", || !host.kelson(["list"]).stdout.contains("running"));
    kill(kelson, Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    drop(pty);
}

#[test]
fn a_container_goes_on_when_nobody_takes_its_output() {
    let host = Host::new();
    let mut bundle = with_terminal(
        &host,
        "trap 'echo hung up > /tmp/end' HUP; i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; \
         sleep 0.5; echo more; test -e /tmp/end || echo done > /tmp/end",
    );
    bundle.writable().write_config();
    let words = format!(
        "{} --root {} run --bundle {} {} | head -n 1",
        program("kelson").display(),
        host.root.display(),
        bundle.path.display(),
        bundle.id
    );
    let output = host.command(["sh", "-c", &words]).run().ok();
    assert_eq!(output.stdout.trim(), "line 0");
    assert_eq!(fs::read_to_string(bundle.rootfs.join("tmp/end")).unwrap(), "done\n");
}

#[test]
fn output_to_a_terminals_master_arrives_at_its_other_end() {
    let host = Host::new();
    let bundle = with_terminal(&host, "echo hello");
    bundle.write_config();
    let pty = openpty(None, None).unwrap();
    let status = Command::new(program("kelson"))
        .arg("--root")
        .arg(&host.root)
        .args(["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id])
        .stdin(std::process::Stdio::null())
        .stdout(pty.master.try_clone().unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    let mut text = [0; 16];
    let length = nix::unistd::read(&pty.slave, &mut text).unwrap();
    assert!(text[..length].starts_with(b"hello"), "{text:?}");
}
