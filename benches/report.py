"""The results as markdown: tables with ratios, how they stand against the targets, and docs/benchmarks.md."""

import datetime
import os
import platform
import shlex
import subprocess
import sys

from containers import BARE
from host import read

# Of a field of Cost: the column's words, the factor, the format.
MEASURES = {"wall": ("ms", 1e3, ".2f"), "cpu": ("CPU ms", 1e3, ".2f"), "rss": ("MiB", 1 / 1024, ".1f"),
            "size": ("MB", 1e-6, ".2f")}
# Group, measure, peer, and at most this many times the peer's, in each row.
TARGETS = [("run", "wall", "crun", 0.35), ("run", "wall", "runc", 0.15), ("run", "wall", "bare", 1.5),
           ("create + start + delete", "wall", "crun", 0.35), ("create + start + delete", "wall", "runc", 0.15),
           ("exec", "wall", "crun", 0.35), ("exec", "wall", "runc", 0.15), ("A busy host", "wall", "crun", 0.35),
           ("8 at a time", "wall", "crun", 0.5), ("Memory", "rss", "crun", 0.5)]
LARGEST_BINARY = 2.0  # MB
GROWTH = ("Many mounts on the host", ["create + start + delete", "exec"], 1.1)

HEAD = """# Benchmarks

What kelson costs beside other runtimes, and beside `bare`: a C program of nothing but the system calls that a container
of `runc spec`'s needs ([benches/bare.c](../benches/bare.c)), which reads no config, keeps no state and checks no path.
`make bench` measures this anew on your machine, in some minutes, and writes this page.

Every table shows medians. The runtimes take turns, command by command, so that a machine's noise is everyone's: the
ratios are steadier than the times. *wall* is of the whole command; *CPU* is that of all the processes that descend from
it, the container's too, but not of the kernel's own workers, which destroy namespaces later; it is what busy machines
disturb least. `spec` is what `runc spec` prints, running `/bin/true`; `spec+seccomp` has docker's seccomp profile, too;
`podman`, `containerd` and `docker` are config.json files that those engines wrote
([benches/configs](../benches/configs)). Cgroups are v2, by the cgroupfs driver, and the states are kept in memory, as
in /run.
"""
PHASES = """By its own account (`--trace FILE`, which chrome://tracing and ui.perfetto.dev show, too). The processes
work side by side, so that the steps of one may be another's wait."""


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def number(value, measure):
    _, factor, form = MEASURES[measure]
    return "" if value is None else format(value * factor, form)


def taking_part(group, names):
    return [name for name in names if any(name in row for row in group.rows.values())]


def group_table(group, subject, names):
    """A row for each label: everyone's medians, and the subject's part of each other's."""
    names = taking_part(group, names)
    words = [MEASURES[measure][0] for measure in group.measures]
    words = ["wall" if word == "ms" and len(words) > 1 else word for word in words]
    others = [name for name in names if name != subject and subject in names]
    head = [", ".join(words)] + names + [f"{subject} / {other}" for other in others]
    rows = []
    for label in group.rows:
        cells = [label]
        for name in names:
            cells.append(" · ".join(number(group.median(label, name, measure), measure) for measure in group.measures))
        for other in others:
            ratios = [group.ratio(label, subject, other, measure) for measure in group.measures]
            cells.append(" · ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios))
        rows.append([cell if cell.strip(" ·") else "" for cell in cells])
    head[0] = head[0].replace("wall, CPU ms", "wall · CPU, ms")
    return table(head, rows)


def growths(group, name):
    """Of each label the median wall times (without the mounts, with them)."""
    pairs = [(label, loaded) for label in group.rows for loaded in group.rows if loaded.startswith(label + ", ")]
    found = {label: (group.median(label, name, "wall"), group.median(loaded, name, "wall")) for label, loaded in pairs}
    return {label: times for label, times in found.items() if all(times)}


def growth_table(group, names):
    columns = [growths(group, name) for name in names]
    labels = [label for label in group.rows if any(label in column for column in columns)]
    cells = [[f"{column[label][1] / column[label][0]:.2f}" if label in column else "" for column in columns]
             for label in labels]
    return table(["with the mounts / without", *names], [[label, *row] for label, row in zip(labels, cells)])


def targets(groups, subject):
    """[target, measured, whether it is met]; the worst of the rows counts."""
    found = {group.title: group for group in groups}
    rows = []

    def judge(text, values, bound, form=".2f"):
        values = [value for value in values if value is not None]
        if values:
            measured = " to ".join(dict.fromkeys(format(value, form) for value in (min(values), max(values))))
            rows.append([text, measured, "met" if max(values) <= bound else "**missed**"])

    for title, measure, peer, bound in TARGETS:
        if group := found.get(title):
            judge(f"{title}: at most {bound} × {peer}",
                  [group.ratio(label, subject, peer, measure) for label in group.rows], bound)
    if group := found.get("Size"):
        size = group.median("binary", subject, "size") / 1e6
        judge(f"binary: at most {LARGEST_BINARY:.0f} MB ({size * 1e6 / 2**20:.2f} MiB)", [size], LARGEST_BINARY)
    title, labels, bound = GROWTH
    if group := found.get(title):
        times, kernel = growths(group, subject), growths(group, BARE).get("run", (0, 0))
        for label in [label for label in labels if label in times]:
            without, loaded = times[label]
            judge(f"{label}: with 1,000 mounts on the host at most {bound} × without", [loaded / without], bound)
            if label.startswith("create") and kernel[0]:
                less = (loaded - (kernel[1] - kernel[0])) / without
                judge("the same, less what `run` of the bare calls loses by them", [less], bound)
    return rows


def phase_table(columns):
    steps = list(next(iter(columns.values())))
    threads = list(dict.fromkeys(thread for thread, _ in steps))
    steps.sort(key=lambda step: threads.index(step[0]))
    rows, before = [], None
    for step in steps:
        thread, name = step
        rows.append([thread if thread != before else "", name,
                     *(f"{columns[column][step]:.0f}" if columns[column][step] else "" for column in columns)])
        before = thread
    return table(["process", "step, µs", *columns], rows)


def machine():
    processors = read("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in processors.splitlines() if line.startswith("model name")]
    kind = "a virtual machine" if " hypervisor " in processors else "no virtual machine"
    memory = int(read("/proc/meminfo").split()[1]) / 2**20
    return (f"{platform.system()} {platform.release()} ({platform.machine()}), {os.cpu_count()} processors "
            f"({', '.join([*models[:1], kind])}), {memory:.0f} GiB")


def version(path):
    done = subprocess.run([path, "--version"], check=False, capture_output=True, text=True)
    return (done.stdout.strip().splitlines() or ["of unknown version"])[0]


def settings(runtimes, seconds, load, rounds, notes):
    versions = "; ".join(f"{name} is {version(path)}" for name, path in runtimes.items() if name != BARE)
    command = shlex.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    text = (f"Made on {datetime.date.today()} in {seconds:.0f} s, with {rounds} rounds, on {machine()}; the load "
            f"before was {load[0]:.1f} (1 min), {load[1]:.1f} (5 min). {versions}. By\n\n    {command}\n")
    return text + "".join(f"\n- {note}" for note in notes) + ("\n" if notes else "")


def sections(groups, columns, subject, names):
    """The tables, as they are printed and as they stand in the page."""
    parts = []
    if rows := targets(groups, subject):
        parts.append("## Against the targets\n\n" + table(["target", f"{subject}'s", ""], rows))
    for group in groups:
        if not group.rows:
            continue
        text = (f"## {group.title}\n\n" if group.note else f"{group.title}:\n\n")
        text += (group.note + "\n\n" if group.note else "") + group_table(group, subject, names)
        if group.title == GROWTH[0]:
            text += "\n" + growth_table(group, taking_part(group, names))
        parts.append(text)
    if columns:
        parts.append(f"## Where {subject}'s time goes\n\n{PHASES}\n\n" + phase_table(columns))
    return "\n".join(parts)


def page(path, plot, setting, body):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    picture = f"![kelson, crun, runc: each part of what crun takes]({os.path.basename(plot)})\n"
    with open(path, "w") as file:
        file.write("\n".join([HEAD, setting, picture, body]))
