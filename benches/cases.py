"""What is measured: each function returns groups for the report."""

import json
import os
import statistics
import types
from functools import partial

from containers import BARE, Namespace, unhurried
from measure import Cost, Failed, interleaved

WORKERS = 8
MOUNTS = 1000
NEIGHBOURS = 200
TRACES = 20


class Group:
    """A table: {label: {runtime: [Cost]}}, and of each Cost these fields; without a note, part of the one before."""

    def __init__(self, title, note, rows, measures=("wall", "cpu"), plotted=True):
        self.title, self.note, self.rows, self.measures, self.plotted = title, note, rows, measures, plotted

    def median(self, label, runtime, measure):
        costs = self.rows.get(label, {}).get(runtime)
        return statistics.median(getattr(cost, measure) for cost in costs) if costs else None

    def ratio(self, label, runtime, other, measure):
        one, two = (self.median(label, name, measure) for name in (runtime, other))
        return one / two if one is not None and two else None


class Lab:
    """The containers, and how they are measured."""

    def __init__(self, containers, configs, rounds, crowd, pause, complain):
        self.containers, self.configs, self.rounds, self.size_of_crowd = containers, configs, rounds, crowd
        self.pause, self.complain = pause, complain
        self.runner = containers.runner
        self.peers = [name for name in containers.runtimes if name != BARE]

    def measure(self, title, jobs, rounds=None):
        return interleaved(jobs, rounds or self.rounds, self.pause, partial(self.complain, title))


def run(lab):
    rows = {}
    for config in lab.configs:
        names = [name for name in lab.containers.runtimes if name != BARE or config == "spec"]
        jobs = [(name, partial(lab.containers.run, name, config, config)) for name in names]
        rows |= lab.measure(f"run, {config}", jobs)
    return [Group("run", "One command, from its start until the container is gone.", rows)]


def create(lab):
    rows, parts = {}, {}
    for config in lab.configs:
        jobs = [(name, partial(lab.containers.create, name, config, config)) for name in lab.peers]
        for label, costs in lab.measure(f"create, {config}", jobs).items():
            (parts if ": " in label else rows)[label] = costs
    note = "Three commands and the container's life between them, as engines have it."
    return [Group("create + start + delete", note, rows), Group("Of these", "", parts, plotted=False)]


def exec_(lab):
    rows = {}
    for config in [config for config in lab.configs if config in ("spec", "spec+seccomp")]:
        names = [name for name in lab.containers.runtimes if name != BARE or config == "spec"]
        jobs = [(name, partial(lab.containers.exec, name, config, config)) for name in names]
        rows |= lab.measure(f"exec, {config}", jobs)
    return [Group("exec", "`/bin/true` in a running container.", rows)]


def mounts(lab):
    """With many mounts on the host and without, in turn."""
    many = Namespace(os.path.join(lab.containers.bundles.work, "mounts"), MOUNTS)

    def inside(job):
        with many.entered():
            return job()

    rows = {}
    try:
        for verb, method in [("run", "run"), ("create + start + delete", "create"), ("exec", "exec")]:
            jobs = []
            for name in lab.peers if verb.startswith("create") else lab.containers.runtimes:
                for label in [verb, f"{verb}, {MOUNTS:,} mounts"]:
                    job = partial(getattr(lab.containers, method), name, lab.configs[0], label)
                    jobs.append((name, job if label == verb else partial(inside, job)))
            found = lab.measure(f"{verb} with mounts", jobs)
            rows |= {label: costs for label, costs in found.items() if ": " not in label}
    finally:
        many.close()
    note = (f"{MOUNTS:,} bind mounts in the mount namespace of the caller. A container's mount namespace starts as a "
            "copy of it, which the kernel makes and drops: what the bare calls lose by them is its part. "
            "From Linux 7.1 on kelson asks for an empty one, and nothing is copied.")
    return [Group("Many mounts on the host", note, rows, plotted=False)]


def busy(lab):
    """exec on a host with many mounts and many containers."""
    first, config = lab.peers[0], lab.configs[0]
    label = f"exec, {MOUNTS:,} mounts and {NEIGHBOURS} containers"
    many = Namespace(os.path.join(lab.containers.bundles.work, "busy"), MOUNTS)

    def there(name):
        with many.entered():
            return lab.containers.exec(name, config, label)

    try:
        for name in lab.peers:  # the one that it goes into is there before the others
            lab.containers.exec(name, config, label)
        with lab.containers.crowd(first, config, NEIGHBOURS, WORKERS):
            rows = lab.measure(label, [(name, partial(there, name)) for name in lab.peers])
    finally:
        many.close()
    return [Group("A busy host", f"The containers run, and are {first}'s.", rows, plotted=False)]


def crowd(lab):
    """One runtime after the other: each alone, then among its own many."""
    rows, config = {}, lab.configs[0]
    many = f"{lab.size_of_crowd:,} containers"
    for name in lab.peers:
        def measure(title):
            jobs = [(name, partial(lab.containers.look, name, config, f"state, {title}")),
                    (name, partial(lab.containers.list, name, f"list, {title}")),
                    (name, partial(lab.containers.exec, name, config, f"exec, {title}")),
                    (name, partial(lab.containers.create, name, config, f"create + start + delete, {title}"))]
            for label, costs in lab.measure(title, jobs).items():
                if ": " not in label:
                    rows.setdefault(label, {}).update(costs)
        try:
            measure("1 container")
            with lab.containers.crowd(name, config, lab.size_of_crowd, WORKERS):
                measure(many)
        except Failed as error:
            lab.complain(many, name, error)
    note = f"Of {many} all run; the runtimes are measured one after the other here, not in turn."
    among = {label: costs for label, costs in rows.items() if label.endswith(many)}
    alone = {label: costs for label, costs in rows.items() if label not in among}
    return [Group("Many containers", note, among), Group("Before them", "", alone, plotted=False)]


def parallel(lab):
    """Batches of runs by so many workers; the wall time is that of one batch, divided."""
    batch, config = 8 * WORKERS, lab.configs[0]

    def job(name):
        commands = [lab.containers.command_to_run(name, config, f"-{number}") for number in range(batch)]
        with unhurried():  # all processors are busy: the kernel's workers must get their part
            cost = lab.runner.at_once(commands, WORKERS)
        lab.runner.reap(cost)
        cost.wall, cost.cpu = cost.wall / batch, cost.cpu / batch
        return {f"run, {WORKERS} at a time": cost}

    rows = lab.measure("at once", [(name, partial(job, name)) for name in lab.containers.runtimes],
                       max(2, lab.rounds // 20))
    note = f"Batches of {batch} runs; the time for each container is the batch's, divided."
    return [Group(f"{WORKERS} at a time", note, rows)]


def memory(lab):
    rows, config = {}, lab.configs[-1]
    verbs = [("run", lab.containers.run), ("create", lab.containers.create), ("exec", lab.containers.exec),
             ("state", lab.containers.look)]
    for name in lab.peers:
        for verb, method in verbs:
            try:
                method(name, config, verb)
                with lab.runner.measuring_memory():
                    found = [method(name, config, verb) for _ in range(3)]
            except Failed as error:
                lab.complain("memory", name, error)
                continue
            for label in found[0]:
                if label != "create":  # the whole of it
                    rows.setdefault(label.removeprefix("create: "), {})[name] = [costs[label] for costs in found]
    note = f"The largest process of each command, at its peak: resident, in MiB. With `{config}`'s config."
    return [Group("Memory", note, rows, ("rss",))]


def size(lab):
    rows = {"binary": {name: [types.SimpleNamespace(size=os.stat(lab.containers.runtimes[name]).st_size)]
                       for name in lab.peers}}
    note = "Of the program, in MB of a million bytes, without the libraries that it may load."
    return [Group("Size", note, rows, ("size",), plotted=False)]


def phases(lab):
    """Of the first runtime: where its time goes, by its own account (--trace): {column: {step: median}}."""
    name, columns, order = lab.peers[0], {}, {}
    first, last = lab.configs[0], lab.configs[-1]
    for verb, method, config in [("run", lab.containers.run, first), ("run", lab.containers.run, last),
                                 ("create", lab.containers.create, last)]:
        column = columns.setdefault(f"{verb}, {config}", {})
        for _ in range(min(TRACES, lab.rounds)):
            try:
                taken = traced(lab, partial(method, name, config, verb))
            except (Failed, OSError) as error:
                lab.complain("phases", name, error)
                return None
            for step, microseconds in taken.items():
                order.setdefault(step, len(order))
                column.setdefault(step, []).append(microseconds)
    return {column: {step: statistics.median(steps.get(step, [0])) for step in order}
            for column, steps in columns.items()}


def traced(lab, job):
    """{(process, step): microseconds}, in the order in which they begin."""
    trace = os.path.join(lab.containers.bundles.work, "trace.json")
    job("--trace", trace)
    with open(trace) as file:
        events = json.load(file)
    os.remove(trace)
    processes = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    taken = {}
    for event in sorted((event for event in events if event["ph"] == "X"), key=lambda event: event["ts"]):
        step = (processes.get(event["tid"], str(event["tid"])), event["name"])
        taken[step] = taken.get(step, 0) + event["dur"]
    return taken


CASES = {"run": run, "create": create, "exec": exec_, "mounts": mounts, "busy": busy, "crowd": crowd,
         "parallel": parallel, "memory": memory, "size": size}
