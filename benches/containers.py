"""What is done with each runtime's containers, and with the bare system calls where they do the same."""

import contextlib
import ctypes
import os
import time

from host import CGROUPS
from measure import Cost, Failed

BARE = "bare"
CLONE_NEWNS, MS_BIND = 0x20000, 4096
libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Namespace:
    """A mount namespace like ours, with so many mounts more. They go with it."""

    def __init__(self, directory, mounts):
        self.home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        checked(libc.unshare(CLONE_NEWNS))
        try:
            for number in range(mounts):
                path = os.path.join(directory, f"mount-{number}").encode()
                os.makedirs(path)
                checked(libc.mount(directory.encode(), path, None, MS_BIND, None))
            self.inside = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            checked(libc.setns(self.home, CLONE_NEWNS))

    @contextlib.contextmanager
    def entered(self):
        checked(libc.setns(self.inside, CLONE_NEWNS))
        try:
            yield
        finally:
            checked(libc.setns(self.home, CLONE_NEWNS))

    def close(self):
        os.close(self.inside)
        os.close(self.home)


@contextlib.contextmanager
def unhurried():
    """Without --realtime."""
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


class Containers:
    """Runtimes by name, BARE among them. A method that measures returns {label: Cost}."""

    def __init__(self, runtimes, bundles, runner, state):
        self.runtimes, self.bundles, self.runner, self.state = runtimes, bundles, runner, state
        # In memory, as engines have it: to replace a file on a disk may be dearer than all else of `create`.
        self.pid_file = os.path.join(state, "pid")
        self.count = 0
        self.waiting = {}  # (id, PID) for exec and state, by runtime and config

    def argv(self, runtime, *args):
        return [self.runtimes[runtime], "--root", os.path.join(self.state, runtime), *args]

    def new_id(self, runtime):
        self.count += 1
        return f"{self.bundles.name}-{runtime}-{self.count}"

    def command_to_run(self, runtime, config, key="", *flags):
        """The whole command for a container of /bin/true."""
        if runtime == BARE:
            return [self.runtimes[BARE], self.bundles.rootfs, f"{CGROUPS}/{self.bundles.name}"]
        bundle = self.bundles.make(config, f"{config}-{runtime}{key}", "/bin/true")
        return self.argv(runtime, "run", *flags, "--bundle", bundle, self.new_id(runtime))

    def run(self, runtime, config, label, *flags):
        cost = self.runner.call(self.command_to_run(runtime, config, "", *flags))
        self.runner.reap(cost)
        return {label: cost}

    def create(self, runtime, config, label, *flags):
        """create, start, the container's end, delete: as engines have it."""
        bundle, ident = self.bundles.make(config, f"{config}-{runtime}", "/bin/true"), self.new_id(runtime)
        whole, parts = Cost(), {}
        start = time.perf_counter()
        parts["create"] = self.runner.call(
            self.argv(runtime, "create", *flags, "--bundle", bundle, "--pid-file", self.pid_file, ident))
        with open(self.pid_file) as file:
            init = int(file.read())
        parts["start"] = self.runner.call(self.argv(runtime, "start", ident))
        if self.runner.wait(init, whole) != 0:
            raise Failed(f"{runtime}: the container's process failed")
        parts["delete"] = self.runner.call(self.argv(runtime, "delete", ident))
        whole.wall = time.perf_counter() - start
        for part in parts.values():
            whole.include(part)
        self.runner.reap(whole)
        return {label: whole, **{f"{label}: {verb}": cost for verb, cost in parts.items()}}

    def background(self, runtime, config, key):
        """The command for a container that sleeps, and its id."""
        ident = self.new_id(runtime)
        bundle = self.bundles.make(config, f"{config}-{runtime}-sleeps{key}", "/bin/sleep", "100000")
        return ident, self.argv(runtime, "run", "--detach", "--bundle", bundle, "--pid-file", bundle + "/pid", ident)

    def sleeping(self, runtime, config):
        """A container to look at."""
        if (runtime, config) not in self.waiting:
            ident, argv = self.background(runtime, config, "")
            cost = self.runner.call(argv)
            self.runner.kept += 1
            self.runner.reap(cost)
            with open(argv[-2]) as file:
                self.waiting[runtime, config] = ident, file.read()
        return self.waiting[runtime, config]

    def exec(self, runtime, config, label):
        """/bin/true in a running container; the bare calls enter one of the first runtime's."""
        if runtime == BARE:
            owner = next(name for name in self.runtimes if name != BARE)
            group = f"{CGROUPS}/{self.bundles.name}/{config}-{owner}-sleeps"
            argv = [self.runtimes[BARE], "exec", self.sleeping(owner, config)[1], group]
        else:
            argv = self.argv(runtime, "exec", self.sleeping(runtime, config)[0], "/bin/true")
        cost = self.runner.call(argv)
        self.runner.reap(cost)
        return {label: cost}

    def look(self, runtime, config, label):
        return {label: self.runner.call(self.argv(runtime, "state", self.sleeping(runtime, config)[0]))}

    def list(self, runtime, label):
        return {label: self.runner.call(self.argv(runtime, "list"))}

    @contextlib.contextmanager
    def crowd(self, runtime, config, count, workers):
        """So many sleeping containers of a runtime."""
        made = [self.background(runtime, config, f"-{number}") for number in range(count)]
        kept = self.runner.kept
        try:
            with unhurried():
                self.runner.at_once([argv for _, argv in made], workers)
            self.runner.kept += count
            yield
        finally:
            self.runner.kept = kept
            with unhurried():
                self.runner.at_once([self.argv(runtime, "delete", "--force", ident) for ident, _ in made], workers)
                self.runner.reap(Cost())

    def close(self):
        """Removes every container that there is, also of a command that was interrupted."""
        for runtime in self.runtimes:
            state = os.path.join(self.state, runtime)
            for ident in sorted(os.listdir(state)) if os.path.isdir(state) else []:
                if ident.startswith(self.bundles.name):
                    with contextlib.suppress(Failed):
                        self.runner.call(self.argv(runtime, "delete", "--force", ident))
        self.waiting.clear()
