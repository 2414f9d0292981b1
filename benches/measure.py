"""Running commands and what they cost; and running many of them in turn, so that the machine's noise is everyone's."""

import contextlib
import os
import signal
import time

ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
DEADLINE = 30


class Failed(Exception):
    """A command that did not do what it is measured for."""


class Cost:
    """What commands took; the usage of processes that are reaped later is added to it."""

    def __init__(self):
        self.wall = self.cpu = 0.0
        self.rss = 0  # KiB, of the largest process

    def add(self, usage):
        self.cpu += usage.ru_utime + usage.ru_stime
        self.rss = max(self.rss, usage.ru_maxrss)

    def include(self, other):
        self.cpu += other.cpu
        self.rss = max(self.rss, other.rss)


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


class Runner:
    """Starts commands. This process has to be a subreaper: whatever a command leaves behind is its child."""

    def __init__(self, directory, busybox):
        self.note, self.busybox = os.path.join(directory, "orphan"), busybox
        self.errors = os.path.join(directory, "stderr")
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.kept = len(children())  # that are meant to live
        self.through_busybox = False

        def expired(_signal, _frame):
            raise Failed("it took too long")

        signal.signal(signal.SIGALRM, expired)

    def spawn(self, argv, keep_errors=False):
        if self.through_busybox:
            # Not before the shell is gone, which would be the one to reap it.
            script = f'(while kill -0 $$ 2>/dev/null; do "$0" sleep 0.01; done; exec "$@") & echo $! >{self.note}'
            argv = [self.busybox, "sh", "-c", script, self.busybox, *argv]
        # posix_spawn is a vfork: forking this interpreter would cost more than some of the runtimes do.
        truncate = 0 if keep_errors else os.O_TRUNC
        errors = os.open(self.errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | truncate, 0o600)
        try:
            # Not of our process group: the terminal's interrupt is for us alone.
            pid = os.posix_spawn(argv[0], argv, ENV, setpgroup=0, file_actions=[
                (os.POSIX_SPAWN_DUP2, self.null, 0), (os.POSIX_SPAWN_DUP2, self.null, 1),
                (os.POSIX_SPAWN_DUP2, errors, 2)])
        finally:
            os.close(errors)
        if not self.through_busybox:
            return pid
        os.waitpid(pid, 0)
        with open(self.note) as file:
            return int(file.read())

    @contextlib.contextmanager
    def measuring_memory(self):
        """A process keeps the peak of what it was before exec, which would be this interpreter: hence a busybox in
        between, which leaves the command to us as an orphan. Times mean nothing then."""
        self.through_busybox = True
        try:
            yield
        finally:
            self.through_busybox = False

    def wait(self, pid, cost):
        """Wait for a child; one that takes too long is killed, and one that an interrupt finds may end."""
        signal.alarm(DEADLINE)
        try:
            _, status, usage = os.wait4(pid, 0)
        except ChildProcessError:
            raise Failed("its end was not seen") from None
        except (Failed, KeyboardInterrupt) as error:
            if isinstance(error, Failed):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        finally:
            signal.alarm(0)
        cost.add(usage)
        return status

    def call(self, argv):
        """One command, to its end; its orphans are for reap()."""
        cost = Cost()
        start = time.perf_counter()
        status = self.wait(self.spawn(argv), cost)
        cost.wall = time.perf_counter() - start
        if status != 0:
            self.complain(argv, status)
        return cost

    def complain(self, argv, status):
        with open(self.errors, errors="replace") as file:
            lines = file.read().strip().splitlines() or [""]
        raise Failed(f"{os.path.basename(argv[0])} {' '.join(argv[3:])}: "
                     f"status {os.waitstatus_to_exitcode(status)}: {lines[-1]}")

    def reap(self, cost):
        """Waits for what a command left to us, but for those that are meant to live."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                pid, _, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid:
                cost.add(usage)
            elif len(children()) <= self.kept:
                return
            elif time.monotonic() > end:
                raise Failed("processes stay behind")
            else:
                time.sleep(0.001)

    def at_once(self, commands, workers):
        """Runs all the commands, so many at a time; the whole's cost."""
        cost, running, failed, queue = Cost(), {}, None, list(reversed(commands))
        start = time.perf_counter()
        signal.alarm(DEADLINE + len(commands) // 4)
        try:
            while queue or running:
                while queue and len(running) < workers:
                    argv = queue.pop()
                    running[self.spawn(argv, bool(running))] = argv
                pid, status, usage = os.wait4(-1, 0)
                cost.add(usage)
                argv = running.pop(pid, None)  # or an orphan
                if argv and status != 0:
                    failed = (argv, status)
        finally:
            signal.alarm(0)
            for pid in running:  # what an interrupt finds
                os.waitpid(pid, 0)
        cost.wall = time.perf_counter() - start
        if failed:
            self.complain(*failed)
        return cost


def interleaved(jobs, rounds, pause, complain):
    """Runs every job once a round, in an order that turns. A job is (runtime, function), and the function returns
    {label: Cost}; so does this: {label: {runtime: [Cost]}}. One that fails at first is left out."""
    usable, costs = [], {}
    for runtime, job in jobs:  # the first of each pays for cold caches
        try:
            job()
            usable.append((runtime, job))
        except Failed as error:
            complain(runtime, error)
    for number in range(rounds):
        turn = number % max(len(usable), 1)
        for runtime, job in usable[turn:] + usable[:turn]:
            time.sleep(pause)  # the kernel's workers tidy up, so that nobody pays for the one before
            try:
                for label, cost in job().items():
                    costs.setdefault(label, {}).setdefault(runtime, []).append(cost)
            except Failed as error:
                complain(runtime, error)
    return costs
