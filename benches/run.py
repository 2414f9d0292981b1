#!/usr/bin/env python3
"""Compare container runtimes, interleaved: run, create + start + delete, and exec of /bin/true.

    run.py [--rounds N] [--what run,create,exec] [--config FILE] name=/path/to/runtime ... [bare=/path/to/bare]

As root, in a cgroup v2 view. Beside newer peers than the machine's, in a Debian tree (its `/host` is the machine):
    in-debian TREE python3 /host/REPO/benches/run.py kelson=/host/REPO/target/x86_64-unknown-linux-musl/release/kelson \
        crun=/usr/bin/crun runc=/usr/sbin/runc
Natively: unshare -m --propagation private sh -c 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"' sh run.py ...

The floor is bare.c, built on the spot with gcc (here or, by chroot, in /host) unless bare=PATH is given. Without
--config the config is `runc spec`'s, as the first runtime that has this verb prints it. Times are of whole commands;
CPU is that of all processes that descend from them, the container's init too, but not of the kernel's own workers
(which destroy namespaces and cgroups later). Needs nothing but Python, busybox (static) and the runtimes.
"""
import argparse
import ctypes
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CGROUPS = "/sys/fs/cgroup"
ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
APPLETS = ("true", "sh", "sleep")
TIMEOUT = 30
PR_SET_CHILD_SUBREAPER = 36
BARE = "bare"


class Failed(Exception):
    pass


class Cost:
    """What one command took; the usage of processes reaped later is added to it."""

    def __init__(self):
        self.wall = self.cpu = 0.0
        self.rss = 0  # KiB

    def add(self, usage):
        self.cpu += usage.ru_utime + usage.ru_stime
        self.rss = max(self.rss, usage.ru_maxrss)


class Bench:
    def __init__(self, work, runtimes, pause):
        self.work, self.runtimes, self.pause = work, runtimes, pause
        # On a real host this is /run: in memory. So it is here.
        self.state = tempfile.mkdtemp(prefix="bench-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.count = 0
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.errors = os.path.join(work, "stderr")
        self.living = {}  # containers that wait for exec: their processes are not to be waited for

    def bundle(self, name="bundle"):
        return os.path.join(self.work, name)

    def argv(self, name, *args):
        return [self.runtimes[name], "--root", os.path.join(self.state, name), *args]

    def new_id(self, name):
        self.count += 1
        return f"bench-{os.getpid()}-{name}-{self.count}"

    def spawn(self, argv):
        # posix_spawn is a vfork: forking this interpreter would cost more than some of the runtimes
        errors = os.open(self.errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            return os.posix_spawn(argv[0], argv, ENV, file_actions=[
                (os.POSIX_SPAWN_DUP2, self.null, 0), (os.POSIX_SPAWN_DUP2, self.null, 1),
                (os.POSIX_SPAWN_DUP2, errors, 2)])
        finally:
            os.close(errors)

    def complain(self, argv, status):
        with open(self.errors, errors="replace") as file:
            raise Failed(f"{' '.join(argv)}: status {os.waitstatus_to_exitcode(status)}: {file.read().strip()}")

    def wait(self, pid, cost):
        """Wait for a child, with a time limit."""
        signal.alarm(TIMEOUT)
        try:
            _, status, usage = os.wait4(pid, 0)
        finally:
            signal.alarm(0)
        cost.add(usage)
        return status

    def call(self, argv, cost):
        """Run one command to its end; its orphans stay for reap()."""
        start = time.perf_counter()
        pid = self.spawn(argv)
        status = self.wait(pid, cost)
        cost.wall += time.perf_counter() - start
        if status != 0:
            self.complain(argv, status)

    def reap(self, cost):
        """Reap what the command left to us, but for the containers that are meant to live."""
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                pid, _, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid:
                cost.add(usage)
            elif len(children()) <= len(self.living):
                return
            elif time.monotonic() > end:
                raise Failed(f"processes stay behind: {children()}")
            else:
                time.sleep(0.001)

    # --- what is measured: each returns a Cost, and its parts by name

    def run(self, name):
        cost = Cost()
        if name == BARE:
            argv = [self.runtimes[name], os.path.join(self.bundle(), "rootfs"), CGROUPS]
        else:
            argv = self.argv(name, "run", "--bundle", self.bundle(), self.new_id(name))
        self.call(argv, cost)
        self.reap(cost)
        return cost, {}

    def create(self, name):
        parts, cost, ident = {}, Cost(), self.new_id(name)
        pid_file = os.path.join(self.work, "pid")

        def part(verb, *args):
            parts[verb] = Cost()
            self.call(self.argv(name, verb, *args, ident), parts[verb])

        start = time.perf_counter()
        part("create", "--bundle", self.bundle(), "--pid-file", pid_file)
        with open(pid_file) as file:
            pid = int(file.read())
        part("start")
        if self.wait(pid, cost) != 0:
            raise Failed(f"{name}: the container's process failed")
        part("delete", "--force")
        cost.wall = time.perf_counter() - start
        for one in parts.values():
            cost.cpu += one.cpu
            cost.rss = max(cost.rss, one.rss)
        self.reap(cost)
        return cost, parts

    def exec(self, name):
        cost = Cost()
        if name not in self.living:
            self.living[name] = self.new_id(name)
            self.call(self.argv(name, "run", "--detach", "--bundle", self.bundle("sleeper"), self.living[name]), cost)
            cost = Cost()
        self.call(self.argv(name, "exec", self.living[name], "/bin/true"), cost)
        self.reap(cost)
        return cost, {}

    def peak(self, what, name):
        """Peak memory, in an unmeasured run. A process keeps the peak of what it was before exec, which would be
        this interpreter: hence a busybox in between, which leaves the command to us as an orphan."""
        note = os.path.join(self.work, "orphan")
        shell = [os.path.join(self.bundle(), "rootfs/bin/sh"), "-c", f'"$@" & echo $! >{note}', "sh"]
        plain, peaks = self.spawn, []

        def spawn(argv):
            os.waitpid(plain(shell + argv), 0)
            with open(note) as file:
                return int(file.read())

        self.spawn = spawn
        try:
            for _ in range(3):
                peaks.append(getattr(self, what)(name)[0].rss)
        finally:
            self.spawn = plain
        return max(peaks)

    def close(self):
        for name in self.runtimes:  # more than those that wait for exec, if a command failed
            state = os.path.join(self.state, name)
            for ident in sorted(os.listdir(state)) if os.path.isdir(state) else []:
                if ident.startswith("bench-"):
                    subprocess.run(self.argv(name, "delete", "--force", ident), env=ENV, check=False)
        self.living.clear()
        self.reap(Cost())


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def host_state():
    """What a run must leave as it was."""
    with open("/proc/self/mounts") as file:
        mounts = sorted(file.read().splitlines())
    groups = sorted(path for path, _, _ in os.walk(CGROUPS))
    return mounts, groups


def busybox():
    for path in ("/usr/bin/busybox", "/bin/busybox"):
        if os.path.exists(path):
            return path
    sys.exit("run.py: no busybox (Debian: busybox-static)")


def base_config(runtimes, work):
    if set(runtimes) == {BARE}:  # reads none
        return None
    where = os.path.join(work, "spec")
    os.mkdir(where)
    order = sorted(runtimes, key=lambda name: name != "runc")  # runc's own, if it takes part
    for name in order:
        if name != BARE and subprocess.run([runtimes[name], "spec"], cwd=where, env=ENV, check=False,
                                           capture_output=True).returncode == 0:
            return os.path.join(where, "config.json")
    sys.exit("run.py: no runtime knows `spec`: give --config")


def make_bundle(path, config, args):
    os.makedirs(os.path.join(path, "rootfs/bin"))
    shutil.copy(busybox(), os.path.join(path, "rootfs/bin/busybox"))
    for applet in APPLETS:
        os.symlink("busybox", os.path.join(path, "rootfs/bin", applet))
    if config is None:
        return
    with open(config) as file:
        config = json.load(file)
    config["root"]["path"] = "rootfs"
    config["process"].update(terminal=False, args=args)
    config["process"].pop("consoleSize", None)
    with open(os.path.join(path, "config.json"), "w") as file:
        json.dump(config, file)


def build_bare(work):
    """gcc here, or the machine's if this is a tree made by in-debian."""
    source, target = os.path.join(HERE, "bare.c"), os.path.join(work, BARE)
    if shutil.which("gcc"):
        done = subprocess.run(["gcc", "-O2", "-static", "-o", target, source], check=False)
        return target if done.returncode == 0 else None
    if os.path.exists("/host/usr/bin/gcc") and source.startswith("/host/"):
        with tempfile.TemporaryDirectory(dir="/host/tmp") as outside:
            done = subprocess.run(["chroot", "/host", "gcc", "-O2", "-static", "-o", outside[5:] + "/bare",
                                   source[5:]], env=ENV, check=False)
            if done.returncode == 0:
                return shutil.copy(outside + "/bare", target)
    print("run.py: no gcc, so no floor", file=sys.stderr)
    return None


def table(title, rows, peers):
    """rows: name -> (list of Cost, peak RSS)"""
    def median(name, field):
        return statistics.median(getattr(cost, field) for cost in rows[name][0])

    print(f"\n### {title}\n")
    against = [peer for peer in peers if peer in rows]
    head = ["runtime", "wall median ms", "wall min ms", "CPU median ms", "peak RSS KiB"]
    head += [f"{what} / {peer}" for peer in against for what in ("wall", "CPU")]
    print("| " + " | ".join(head) + " |\n|---" + "|---:" * (len(head) - 1) + "|")
    for name, (costs, peak) in sorted(rows.items(), key=lambda row: median(row[0], "cpu")):
        cells = [name, f"{median(name, 'wall') * 1e3:.2f}", f"{min(cost.wall for cost in costs) * 1e3:.2f}",
                 f"{median(name, 'cpu') * 1e3:.2f}", str(peak) if peak else ""]
        for peer in against:
            cells += [f"{median(name, field) / median(peer, field):.2f}" for field in ("wall", "cpu")]
        print("| " + " | ".join(cells) + " |")


def measure(bench, what, rounds):
    names = [name for name in bench.runtimes if what == "run" or name != BARE]
    costs, parts = {name: [] for name in names}, {}
    for name in names:  # the first run of each pays for cold caches
        getattr(bench, what)(name)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            time.sleep(bench.pause)  # lets the kernel's workers tidy up, so that nobody pays for the one before
            cost, pieces = getattr(bench, what)(name)
            costs[name].append(cost)
            for part, piece in pieces.items():
                parts.setdefault(part, {}).setdefault(name, []).append(piece)
    peaks = {name: bench.peak(what, name) for name in names}
    title = {"run": "run", "create": "create + start + delete", "exec": "exec"}[what]
    table(f"{title}, {rounds} rounds", {name: (costs[name], peaks[name]) for name in names}, ["crun", BARE])
    for part, rows in parts.items():
        table(f"of these, {part}", {name: (rows[name], None) for name in rows}, ["crun"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--what", default="run,create", help="of run, create, exec (default: run,create)")
    parser.add_argument("--config", help="a config.json to use in place of `runc spec`'s")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two commands (default: 0.02)")
    parser.add_argument("runtimes", nargs="+", metavar="name=path")
    options = parser.parse_args()
    whats = options.what.split(",")
    if unknown := set(whats) - {"run", "create", "exec"}:
        parser.error(f"unknown: {', '.join(unknown)}")
    runtimes = dict(pair.split("=", 1) for pair in options.runtimes if "=" in pair)
    if len(runtimes) != len(options.runtimes):
        parser.error("each runtime is given as name=path, each name once")
    for path in runtimes.values():
        if not os.access(path, os.X_OK):
            parser.error(f"{path} cannot be run")
    if not os.path.exists(CGROUPS + "/cgroup.procs"):
        sys.exit("run.py: /sys/fs/cgroup is not cgroup v2 (see the head of this file)")
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("run.py: cannot become a subreaper")

    def expired(_signal, _frame):
        raise Failed("a command took too long")

    signal.signal(signal.SIGALRM, expired)
    before = host_state()
    failed = None
    work = tempfile.mkdtemp(prefix="bench-")
    bench = Bench(work, runtimes, options.pause)
    try:
        if BARE not in runtimes and (floor := build_bare(work)):
            runtimes[BARE] = floor
        config = os.path.abspath(options.config) if options.config else base_config(runtimes, work)
        make_bundle(bench.bundle(), config, ["/bin/true"])
        make_bundle(bench.bundle("sleeper"), config, ["/bin/sleep", "1000"])
        for what in whats:
            measure(bench, what, options.rounds)
    except (Failed, OSError) as error:
        failed = error
    finally:
        bench.close()
        shutil.rmtree(work)
        shutil.rmtree(bench.state)
    if failed:
        sys.exit(f"run.py: {failed}")
    if (after := host_state()) != before:
        for old, new in zip(before, after):
            print("run.py: left behind:", sorted(set(new) ^ set(old)), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
