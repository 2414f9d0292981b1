//! NOTIFY_SOCKET: what a container says of itself reaches the service manager on the host.

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use kelson::sys::process::inherited;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};

use crate::harness::{Bundle, Call, Host, seconds, wait_until};
use crate::support::user_namespace;

/// A service manager: its socket.
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    fn new(host: &Host) -> Self {
        let path = host.temp.join("manager");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(seconds(60))).unwrap();
        Self { path, socket }
    }

    fn told(&self, call: Call) -> Call {
        call.env("NOTIFY_SOCKET", &self.path)
    }

    /// The next message, and the descriptor that came with it.
    fn next(&self) -> (String, Option<OwnedFd>) {
        let mut buffer = [0; 4096];
        let mut control = nix::cmsg_space!(i32);
        let (length, descriptor) = {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let number = self.socket.as_raw_fd();
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<UnixAddr>(number, &mut parts, Some(&mut control), flags).expect("a message");
            let sent = message.cmsgs().unwrap().find_map(|part| match part {
                ControlMessageOwned::ScmRights(numbers) => inherited(numbers[0]).ok(),
                _ => None,
            });
            (message.bytes, sent)
        };
        (String::from_utf8_lossy(&buffer[..length]).into_owned(), descriptor)
    }
}

/// A bundle whose program runs this python script of the host's: with functions to notify.
pub fn with_script<'a>(host: &'a Host, script: &str) -> Bundle<'a> {
    let mut bundle = host.bundle();
    for directory in ["/usr", "/lib", "/lib64"] {
        fs::create_dir_all(bundle.rootfs.join(&directory[1..])).unwrap();
        bundle.mount(directory, "bind", directory, &["rbind", "ro"]);
    }
    fs::create_dir_all(bundle.rootfs.join("run/notify")).unwrap();
    let functions = "import array, os, socket, sys, time\n\
        def say(text, *files):\n\
        \x20   to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        \x20   to.connect(os.environ['NOTIFY_SOCKET'])\n\
        \x20   rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', files))] if files else []\n\
        \x20   to.sendmsg([text.encode()], rights)\n";
    bundle.args(&["/usr/bin/python3", "-c", &format!("{functions}{script}")]);
    bundle
}

#[test]
fn a_container_that_talks_without_end_costs_the_runtime_no_memory() {
    let host = Host::new();
    let manager = Manager::new(&host);
    let script = "null = os.open('/dev/null', os.O_RDONLY)\nsay('STATUS=ready')\n\
        for _ in range(20000): say('READY=0\\nMAINPID=1', *[null] * 20)\nsay('STATUS=end')\ntime.sleep(100)";
    let bundle = with_script(&host, script);
    let run = manager.told(bundle.making("run", &[])).spawn();
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{}/status", run.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(manager.next().0, "STATUS=ready\n");
    let before = memory();
    while manager.next().0 != "STATUS=end\n" {}
    assert!(memory() < before + 512, "{before} KiB before, {} after", memory());
    bundle.kill("KILL").ok();
    run.wait();
}

#[test]
fn a_slow_manager_misses_nothing() {
    let host = Host::new();
    let manager = Manager::new(&host);
    let script = "for count in range(1000): say(f'STATUS={count}')\ntime.sleep(100)";
    let bundle = with_script(&host, script);
    let run = manager.told(bundle.making("run", &[])).spawn();
    for count in 0..1000 {
        assert_eq!(manager.next().0, format!("STATUS={count}\n"));
        if count % 100 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
    bundle.kill("KILL").ok();
    run.wait();
}

#[test]
fn start_waits_until_the_container_is_ready_and_the_manager_has_read_it() {
    let host = Host::new();
    let manager = Manager::new(&host);
    let script = "say('STATUS=loading')\nsay('STATUS=up\\nREADY=1\\nMAINPID=1\\nNOTIFYACCESS=all')\ntime.sleep(100)";
    for own_users in [false, true] {
        let mut bundle = with_script(&host, script);
        if own_users {
            user_namespace(&mut bundle, 100_000);
        }
        manager.told(bundle.making("create", &[])).run().ok();
        let start = manager.told(host.call(["start", &bundle.id])).spawn();
        assert_eq!(manager.next().0, "STATUS=loading\n");
        let pid = bundle.pid();
        assert_eq!(manager.next().0, format!("STATUS=up\nREADY=1\nMAINPID={pid}\n"));
        let (text, pipe) = manager.next();
        assert_eq!(text, "BARRIER=1");
        // Other verbs need not wait for it.
        bundle.kill("CONT").ok();
        drop(pipe);
        start.wait().ok();
        bundle.delete_by_force();
    }
}

#[test]
fn a_detached_run_waits_too_and_an_end_ends_the_wait() {
    let host = Host::new();
    let manager = Manager::new(&host);
    let bundle = with_script(&host, "say('READY=1')\ntime.sleep(100)");
    let run = manager.told(bundle.making("run", &["--detach"])).spawn();
    let text = manager.next().0;
    assert_eq!(text, format!("READY=1\nMAINPID={}\n", bundle.pid()));
    assert_eq!(manager.next().0, "BARRIER=1");
    run.wait().ok();
    bundle.delete_by_force();

    let bundle = with_script(&host, "say('STOPPING=1')");
    manager.told(bundle.making("run", &["--detach"])).run().ok();
    assert_eq!(manager.next().0, "STOPPING=1\n");
    host.reap_container(&bundle);
    bundle.delete_by_force();
}

#[test]
fn a_foreground_run_passes_everything_on_until_the_end() {
    let host = Host::new();
    let manager = Manager::new(&host);
    // The barrier comes back when the manager has closed the pipe; what is no pipe goes nowhere.
    let script = "say('READY=1')\nsay('BARRIER=1', os.open('/etc/passwd', os.O_RDONLY))\n\
        ours, theirs = os.pipe()\nsay('BARRIER=1', theirs)\nos.close(theirs)\nos.read(ours, 1)\n\
        say('WATCHDOG=1')\nsay('FDSTORE=1', ours)\nsay('STOPPING=1')\nsys.exit(7)";
    let bundle = with_script(&host, script);
    let run = manager.told(bundle.making("run", &[])).spawn();
    assert_eq!(manager.next().0, format!("READY=1\nMAINPID={}\n", run.pid()));
    let (text, pipe) = manager.next();
    assert_eq!((text.as_str(), pipe.is_some()), ("BARRIER=1", true));
    drop(pipe);
    assert_eq!(manager.next().0, "WATCHDOG=1\n");
    assert_eq!(manager.next().0, "STOPPING=1\n");
    assert_eq!(run.wait().code, 7);
}

#[test]
fn without_a_manager_there_is_no_socket_and_one_that_is_gone_stops_nothing() {
    let host = Host::new();
    let mut bundle = host.bundle();
    bundle.script("echo \"${NOTIFY_SOCKET-none}\"; ls /run 2>/dev/null; true");
    assert_eq!(bundle.run().ok().stdout, "none\n");
    for address in ["/nowhere", "@kelson-nobody", "vsock:2:1"] {
        fs::create_dir_all(bundle.rootfs.join("run/notify")).unwrap();
        bundle.script("echo $NOTIFY_SOCKET");
        let output = bundle.making("run", &[]).env("NOTIFY_SOCKET", address).run().ok();
        assert_eq!(output.stdout, "/run/notify/notify.sock\n");
        assert!(output.stderr.contains("not passed on to NOTIFY_SOCKET"), "{output:?}");
    }
    // `create` without `start` being told, and the other way round.
    let manager = Manager::new(&host);
    manager.told(bundle.making("create", &[])).run().ok();
    bundle.start().ok();
    host.reap_container(&bundle);
    bundle.delete_by_force();
    bundle.create().ok();
    manager.told(host.call(["start", &bundle.id])).run().ok();
    host.reap_container(&bundle);
    bundle.delete_by_force();
}

#[test]
fn what_a_container_leaves_beside_its_socket_is_removed() {
    let host = Host::new();
    let manager = Manager::new(&host);
    let bundle = with_script(&host, "time.sleep(100)");
    manager.told(bundle.making("create", &[])).run().ok();
    fs::create_dir(bundle.state_path("notify/junk")).unwrap();
    fs::write(bundle.state_path("notify/junk/file"), "").unwrap();
    std::os::unix::fs::symlink("/etc", bundle.state_path("notify/link")).unwrap();
    wait_until("it is created", || bundle.status() == "created");
    bundle.delete_by_force();
    assert!(!host.root.join(&bundle.id).exists());
}

#[test]
fn a_manager_that_does_not_read_keeps_no_signal_from_the_container() {
    let host = Host::new();
    let manager = Manager::new(&host);
    let script = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(9))\nprint('set', flush=True)\n\
        while True: say('STATUS=x')";
    let bundle = with_script(&host, script);
    let running = manager.told(bundle.making("run", &[])).spawn();
    wait_until("it talks", || running.stdout().contains("set"));
    std::thread::sleep(seconds(1));
    running.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(running.wait().code, 9);
}
