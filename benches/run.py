#!/usr/bin/env python3
"""Compare container runtimes, in turn: what they cost, with ratios, as tables and as a plot.

    run.py [--rounds N] [--only CASE,...] [--configs NAME,...] [--realtime] [--page FILE] NAME=PATH ... [bare=PATH]

As root; works in a mount namespace of its own, with cgroup v2. The first runtime is compared with the others.
`--rounds 3` gives a first look in a minute. Cases: run, create, exec, mounts (the same with 1,000 mounts on the host),
busy (exec with these and 200 containers), crowd (list, state, exec and create among 1,000 containers; with few rounds
among fewer), parallel, memory, size, phases. Configs: spec, spec+seccomp, podman, containerd, docker, or paths of
config.json files. `--page docs/benchmarks.md` writes that and docs/benchmarks.svg. On a busy machine the wall times are
mostly of waiting for a processor: `--realtime` has everything measured go before others. The floor, `bare`, is bare.c,
built where there is gcc.

Needs Python, busybox (static) and the runtimes. Leaves the host as it was, and says so if it does not.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../conformance"))
from host import CGROUPS, become_subreaper, cgroups_of_ours, enter_view, left

import bundles
import cases
import plot
import report
from containers import BARE, Containers
from measure import Cost, Failed, Runner, children

BUSYBOX = "/usr/bin/busybox"


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="of each case (default: 100)")
    parser.add_argument("--only", default=",".join([*cases.CASES, "phases"]), help="cases, by comma")
    parser.add_argument("--configs", default=",".join(bundles.NAMES), help="by comma (default: all)")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two commands (default: 0.02)")
    parser.add_argument("--realtime", action="store_true", help="go before other work (SCHED_RR)")
    parser.add_argument("--page", help="the page to write; its plot goes beside it")
    parser.add_argument("runtimes", nargs="+", metavar="NAME=PATH")
    given = parser.parse_args()
    given.only, given.configs = given.only.split(","), given.configs.split(",")
    if unknown := set(given.only) - {*cases.CASES, "phases"}:
        parser.error(f"unknown cases: {', '.join(unknown)}")
    if unknown := [name for name in given.configs if name not in bundles.NAMES and not name.endswith(".json")]:
        parser.error(f"unknown configs: {', '.join(unknown)}")
    if not all("=" in pair for pair in given.runtimes):
        parser.error("each runtime is given as NAME=PATH")
    given.runtimes = {name: os.path.abspath(path) for name, path in (pair.split("=", 1) for pair in given.runtimes)}
    if bad := [path for path in given.runtimes.values() if not os.access(path, os.X_OK)]:
        parser.error(f"cannot be run: {', '.join(bad)}")
    given.page = given.page and os.path.abspath(given.page)  # who enters a mount namespace starts at its root
    if given.rounds < 1 or set(given.runtimes) == {BARE}:
        parser.error("there has to be a round, and a runtime")
    return given


class Complaints:
    """What went wrong with whom: said at once, and once in the report."""

    def __init__(self):
        self.notes, self.remarks = {}, []

    def __call__(self, case, runtime, error):
        self.notes.setdefault((case, runtime), []).append(str(error))
        print(f"run.py: {case}: {runtime}: {error}", file=sys.stderr)

    def lines(self):
        yield from self.remarks
        for (case, runtime), errors in self.notes.items():
            times = f" ({len(errors)} times)" if len(errors) > 1 else ""
            yield f"{case}: {runtime} failed{times}: {errors[0]}"


def interruptible():
    """The first interrupt ends the work, and the tidying up is not interrupted."""
    def interrupted(_signal, _frame):
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, lambda _signal, _frame: None)
        raise KeyboardInterrupt

    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, interrupted)


@contextlib.contextmanager
def directories(name):
    """One to work in, and one for the states: in memory, as /run is."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    made = [tempfile.mkdtemp(prefix=name), tempfile.mkdtemp(prefix=name, dir=memory)]
    try:
        yield made
    finally:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)


def measure(given, name, complain):
    """All the cases' groups, the phases, and what else there is to say."""
    with directories(name) as (work, state), cgroups_of_ours(name):
        if BARE not in given.runtimes and (floor := bundles.build_bare(work)):
            given.runtimes[BARE] = floor
        made = bundles.Bundles(name, work, given.configs, given.runtimes)
        runner = Runner(work, BUSYBOX)
        containers = Containers(given.runtimes, made, runner, state)
        crowd = 1000 if given.rounds >= 20 else 50
        lab = cases.Lab(containers, given.configs, given.rounds, crowd, given.pause, complain)
        groups, columns = [], None
        try:
            for case in [case for case in cases.CASES if case in given.only]:
                print(f"run.py: {case} ...", file=sys.stderr)
                groups += cases.CASES[case](lab)
            if "phases" in given.only:
                columns = cases.phases(lab)
        finally:
            containers.close()
            tidy(name, runner)
    if made.dropped:
        complain.remarks.append(f"The engines' {', '.join(sorted(made.dropped))} are left out for everyone: this "
                                "host's cgroup v2 has not got their controllers.")
    return groups, columns


def tidy(name, runner):
    """What runtimes that failed have left."""
    runner.kept = 1  # the cgroup's holder
    with contextlib.suppress(Failed):
        runner.reap(Cost())
    for directory, _, _ in os.walk(f"{CGROUPS}/{name}", topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def main():
    given = options()
    if not os.path.exists(BUSYBOX):
        sys.exit("run.py: no busybox (Debian: busybox-static)")
    enter_view("v2")
    become_subreaper()
    interruptible()
    if given.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    name, complain, start, load = f"bench-{os.getpid()}", Complaints(), time.monotonic(), os.getloadavg()
    try:
        groups, columns = measure(given, name, complain)
    except KeyboardInterrupt:
        groups = None
    if remains := left(name, ""):
        sys.exit("run.py: left behind: " + "; ".join(remains))
    if groups is None:
        sys.exit("run.py: interrupted")
    subject = next(runtime for runtime in given.runtimes if runtime != BARE)
    names = sorted(given.runtimes, key=lambda runtime: runtime != BARE)
    setting = report.settings(given.runtimes, time.monotonic() - start, load, given.rounds,
                              list(complain.lines()))
    body = report.sections(groups, columns, subject, names)
    print(setting, body, sep="\n")
    if given.page:
        peer = "crun" if "crun" in given.runtimes else names[-1]
        picture = os.path.splitext(given.page)[0] + ".svg"
        with open(picture, "w") as file:
            file.write(plot.draw([group for group in groups if group.plotted], names, peer))
        report.page(given.page, picture, setting, body)


if __name__ == "__main__":
    main()
