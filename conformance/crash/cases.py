"""One case: a scenario in which one system call fails, or the runtime is killed before it."""

import collections
import os
import shutil
import signal
import time

from host import left, read
from containers import HERE, Container, Wrong, reap_orphans
from reports import report_of_program
from scenarios import SCENARIOS

ERRNOS = ["EIO", "EPERM", "ENOSYS", "ENOMEM", "EINTR"]
# Calls that the kernel lets fail with other errors, or, as they are made, with none.
SPECIAL = {
    **dict.fromkeys(["brk", "mmap", "mprotect", "munmap", "madvise", "poll"], ["ENOMEM"]),
    # It closes nevertheless.
    "close": ["EINTR"],
    "getrandom": ["ENOSYS", "EPERM"],
    "wait4": ["EINTR"],
    **dict.fromkeys(
        "exit exit_group rt_sigreturn rt_sigaction rt_sigprocmask sigaltstack arch_prctl set_tid_address getpid gettid "
        "getppid getuid geteuid getgid getegid umask sched_yield".split(), []),
}


# process and number (such as `open/3`) say which call it is, how is an errno or KILL; None for the undisturbed run.
Case = collections.namedtuple("Case", "scenario process number call how", defaults=[None] * 4)


def attempt(case, reference=None):
    """Runs a case; returns how it ended, the calls that were made, and the result."""
    scenario = SCENARIOS[case.scenario]
    container = Container(scenario.config)
    try:
        scenario.prepare(container)
        trace = os.path.join(container.path, "trace")
        place = f"{case.process}:{case.number}={case.how}" if case.how else "-"
        init = str(container.init()) if scenario.of_init else "-"
        done = container.call(scenario.words(container), [HERE.fault, trace, place, init, "--"])
        calls = [line.split() for line in read(trace).splitlines()]
        hit = next((line[2] for line in calls if len(line) > 3), None)
        how, result = judge(case, scenario, container, done, hit)
        if reference is not None and result is not None:
            compare(result, reference)
    finally:
        clean_up(container)
    return how if hit or not case.how else "not reached", hit, calls, result


def judge(case, scenario, container, done, hit):
    """Whether the verb `worked`, `failed` or was `killed`, and what it came to when it worked."""
    container.must("list")
    container.is_gone()
    if case.how == "KILL" and case.process == "0" and not scenario.of_init and hit:
        if done.code != -signal.SIGKILL:
            raise Wrong(f"it was killed, and ended with {done.code}")
        return "killed", None
    if done.code == 0:
        if "level=error" in done.err:
            raise Wrong(f"it succeeded with an error: {done.err!r}")
        if hit == "accept4" and not scenario.of_init:
            return judge_start(case, container)
        return "worked", scenario.result(container, done)
    # What a killed program ends a foreground verb with.
    if case.how == "KILL" and done.code == 128 + signal.SIGKILL:
        return "failed", None
    check_error(case, done)
    scenario.after_failure(container)
    return "failed", None


def judge_start(case, container):
    """What befalls an init that waits already is for `start` to tell."""
    started = container.call(["start", container.id])
    if started.code != 0:
        check_error(case, started)
        return "failed", None
    return "worked", report_of_program(container)


def check_error(case, done):
    """One line says what has failed; Rust itself has more to say where it finds no memory to begin with."""
    lines = [line for line in done.err.splitlines() if "level=warning" not in line]
    if len(lines) > 1 and "no memory for kelson" in lines[0]:
        del lines[0]
    if done.code == -signal.SIGABRT and case.how == "ENOMEM" and "Out of memory" in done.err:
        return
    if done.code < 0 or len(lines) != 1 or "level=error" not in lines[0]:
        raise Wrong(f"it ended with {done.code} and said {done.err!r}")


def compare(result, reference):
    if isinstance(result, dict):
        wrong = {key: (result.get(key), value) for key, value in reference.items() if result.get(key) != value}
    else:
        wrong = {"it": (result, reference)} if result != reference else {}
    if wrong:
        raise Wrong("it worked, but " + "; ".join(f"{key} is {a!r}, not {b!r}" for key, (a, b) in wrong.items()))


def clean_up(container):
    ended = container.call(["delete", "--force", container.id])
    if (ended.code, ended.err) != (0, ""):
        raise Wrong(f"delete --force: {ended}")
    end = time.monotonic() + 5
    while remains := left(container.id, container.state):
        if time.monotonic() > end:
            raise Wrong(f"left: {remains}")
        reap_orphans()
        time.sleep(0.005)
    shutil.rmtree(container.path)


def reference_of(name):
    """The calls of a scenario, and what is always the same of its result."""
    runs = [attempt(Case(name)) for _ in range(4)]
    if any(how != "worked" for how, *_ in runs):
        raise Wrong("the undisturbed run did not work")
    results = [result for *_, result in runs]
    if isinstance(results[0], dict):
        same = {key: value for key, value in results[0].items() if all(other.get(key) == value for other in results)}
    else:
        same = results[0]
    seen, calls = collections.Counter(), []
    for process, _, call in runs[0][2]:
        seen[process, call] += 1
        calls.append((process, f"{call}/{seen[process, call]}", call))
    return calls, same


def cases_of(name, calls):
    following = [call for _, _, call in calls[1:]] + [""]
    for (process, number, call), after in zip(calls, following):
        # The C library's first, without which it crashes.
        if (call, after) == ("mmap", "arch_prctl"):
            continue
        yield Case(name, process, number, call, "KILL")
        for errno in SPECIAL.get(call, ERRNOS):
            yield Case(name, process, number, call, errno)


def try_case(case, reference):
    try:
        how, hit, _, _ = attempt(case, reference)
        return case, how, hit, None
    except Wrong as wrong:
        return case, "WRONG", case.call, str(wrong)
