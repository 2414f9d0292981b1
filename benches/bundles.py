"""The bundles that are measured: `spec`'s config.json, and those that engines write (configs/)."""

import copy
import json
import os
import shutil
import subprocess
import sys

from host import CGROUPS, make_rootfs, read

CONFIGS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs")
ENGINES = ["podman", "containerd", "docker"]
NAMES = ["spec", "spec+seccomp", *ENGINES]
# What of resources needs which controller.
CONTROLLERS = {"cpu": "cpu", "memory": "memory", "pids": "pids", "blockIO": "io", "hugepageLimits": "hugetlb"}


def spec(runtimes, directory):
    """What `spec` prints: runc's, if it takes part."""
    file = os.path.join(directory, "config.json")
    if not os.path.exists(file):
        for path in sorted(runtimes.values(), key=lambda path: not path.endswith("runc")):
            if subprocess.run([path, "spec"], cwd=directory, check=False, capture_output=True).returncode == 0:
                break
    if os.path.exists(file):
        return load(file)
    sys.exit("benches: no runtime knows `spec`")


def load(path):
    with open(path) as file:
        return json.load(file)


class Bundles:
    """Bundles with a shared rootfs. Each container has a cgroup of its own below /NAME."""

    def __init__(self, name, work, names, runtimes):
        self.name, self.work = name, work
        self.rootfs = os.path.join(work, "rootfs")
        self.controllers = read(CGROUPS + "/cgroup.controllers").split()
        self.dropped = set()
        make_rootfs(self.rootfs)
        self.configs = {name: self.adapt(self.original(name, runtimes)) for name in names}

    def original(self, name, runtimes):
        if name.endswith(".json"):
            return load(name)
        if name in ENGINES:
            return load(os.path.join(CONFIGS, name + ".json"))
        config = spec(runtimes, self.work)
        if name == "spec+seccomp":
            config["linux"]["seccomp"] = load(os.path.join(CONFIGS, "docker.json"))["linux"]["seccomp"]
        return config

    def adapt(self, config):
        """Puts this directory's paths in the place of the engine's, and drops what this host has not got."""
        config["root"]["path"] = self.rootfs
        config["process"]["terminal"] = False
        config["process"].pop("consoleSize", None)
        for mount in config["mounts"]:
            if "bind" in mount.get("options", []) or "rbind" in mount.get("options", []):
                mount["source"] = self.source(mount["destination"])
        resources = config["linux"].get("resources", {})
        for field, controller in CONTROLLERS.items():
            if field in resources and controller not in self.controllers:
                self.dropped.add(f"{field} ({', '.join(resources.pop(field)) or 'empty'})")
        return config

    def source(self, destination):
        """A file to bind there; a directory for podman's /dev/shm."""
        path = os.path.join(self.work, "sources", destination.strip("/").replace("/", "-"))
        os.makedirs(path if destination == "/dev/shm" else os.path.dirname(path), exist_ok=True)
        if destination != "/dev/shm":
            with open(path, "w"):
                pass
        return path

    def make(self, config, key, *args):
        """A bundle, made when it is first asked for."""
        path = os.path.join(self.work, "bundles", key)
        if not os.path.exists(path):
            document = copy.deepcopy(self.configs[config])
            document["process"]["args"] = list(args)
            document["linux"]["cgroupsPath"] = f"/{self.name}/{key}"
            os.makedirs(path)
            with open(path + "/config.json", "w") as file:
                json.dump(document, file, separators=(",", ":"))
        return path


def build_bare(work):
    """bare.c's program; nothing where there is no gcc."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bare.c")
    path = os.path.join(work, "bare")
    made = shutil.which("gcc") and subprocess.run(["gcc", "-O2", "-static", "-o", path, source], check=False)
    return path if made and made.returncode == 0 else None
