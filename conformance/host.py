"""What the scripts here share: bundles to run, and looks at what of a container is left on the host."""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys

CGROUPS = "/sys/fs/cgroup"
PR_SET_CHILD_SUBREAPER = 36


def become_subreaper():
    """Orphans become children of this process: it can wait for them, and is faster to take them in than some a PID 1."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("cannot become a subreaper")


def hierarchies():
    """Where the cgroup hierarchies are mounted."""
    if os.path.exists(os.path.join(CGROUPS, "cgroup.controllers")):
        return [CGROUPS]
    paths = [os.path.join(CGROUPS, name) for name in sorted(os.listdir(CGROUPS))]
    return [path for path in paths if not os.path.islink(path) and os.path.exists(os.path.join(path, "cgroup.procs"))]


def view():
    """What tests/run calls the layout of the cgroups."""
    if hierarchies() == [CGROUPS]:
        return "v2"
    return "hybrid" if os.path.join(CGROUPS, "unified") in hierarchies() else "v1"


def enter_view(wanted):
    """Continues in a mount namespace of its own, with the cgroups laid out as `wanted`."""
    if "KELSON_VIEW_ENTERED" in os.environ:
        return
    prepare = {"v1": "mount -t tmpfs none /sys/fs/cgroup/unified;", "v2": "mount -t cgroup2 cgroup2 /sys/fs/cgroup;"}
    script = (prepare[wanted] if wanted != view() else "") + 'exec "$@"'
    words = ["unshare", "-m", "--propagation", "private", "sh", "-ec", script, "sh", sys.executable, *sys.argv]
    os.execvpe("unshare", words, {**os.environ, "KELSON_VIEW_ENTERED": "1"})


@contextlib.contextmanager
def cgroups_of_ours(name):
    """Has a cgroup of this name in each hierarchy, with a process in it: so tests/suite, which looks at the whole machine
    and may run meanwhile, sees that what is in it is another's."""
    holder = subprocess.Popen(["sleep", "infinity"])
    places = [f"{hierarchy}/{name}/holder" for hierarchy in hierarchies()]
    for place in places:
        os.makedirs(place)
        for file in ["cpuset.cpus", "cpuset.mems"]:
            for directory in [os.path.dirname(place), place] if os.path.exists(f"{place}/{file}") else []:
                inherited = read(f"{os.path.dirname(directory)}/{file}")
                if inherited and not read(f"{directory}/{file}").strip() and view() != "v2":
                    with open(f"{directory}/{file}", "w") as out:
                        out.write(inherited)
        with open(place + "/cgroup.procs", "w") as file:
            file.write(str(holder.pid))
    try:
        yield
    finally:
        holder.kill()
        holder.wait()
        for place in places:
            for directory in [place, os.path.dirname(place)]:
                with contextlib.suppress(OSError):
                    os.rmdir(directory)


def make_rootfs(path):
    """A root file system of busybox."""
    os.makedirs(os.path.join(path, "bin"))
    for name in ["proc", "sys", "dev", "tmp"]:
        os.mkdir(os.path.join(path, name))
    shutil.copy("/usr/bin/busybox", os.path.join(path, "bin"))
    for name in ["sh", "sleep", "true"]:
        os.symlink("busybox", os.path.join(path, "bin", name))


def default_config(kelson, directory):
    """config.json as `kelson spec` writes it, without a terminal."""
    subprocess.run([kelson, "spec"], cwd=directory, check=True)
    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)
    config["process"]["terminal"] = False
    return config


def read(path):
    """A file's text; nothing where there is none."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def cgroups_left(name):
    found = []
    for hierarchy in hierarchies():
        for directory, names, _ in os.walk(hierarchy):
            found += [f"cgroup {os.path.join(directory, entry)}" for entry in names if name in entry]
    return found


def processes_left(name):
    """Processes that have `name` in their cgroups or command lines; zombies wait for PID 1 only."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        words = read(f"/proc/{pid}/cmdline")
        if int(pid) == os.getpid() or name not in words + read(f"/proc/{pid}/cgroup"):
            continue
        state = read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1]
        if state and state[0] not in "ZX":
            found.append(f"process {pid}: {words.replace(chr(0), ' ')}")
    return found


def keys_left(name):
    """Keyrings, which a zombie keeps."""
    return [f"key {line}" for line in read("/proc/keys").splitlines() if name in line]


def left(name, state):
    """What the host has that carries `name`, and what is in the state directory."""
    found = cgroups_left(name) + processes_left(name)
    found += [f"mount {line.split()[4]}" for line in read("/proc/self/mountinfo").splitlines() if name in line]
    found += [f"state {entry}" for entry in (os.listdir(state) if os.path.isdir(state) else [])]
    return found
