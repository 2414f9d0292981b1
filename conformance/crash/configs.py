"""What the containers are made from."""

import json

from host import view
from containers import HERE

REPORT = (
    "pid uid gid groups umask caps noNewPrivs seccomp dumpable apparmor env cwd hostname domainname fds mounts "
    "namespaces cgroup rlimits sigBlk sigIgn scheduler ioprio affinity oomScoreAdj".split()
)


def resources(large):
    """Limits that this host has controllers for."""
    if view() == "v2":
        return {"hugepageLimits": [{"pageSize": "2MB", "limit": (8 if large else 4) << 20}]}
    return {
        "memory": {"limit": (64 if large else 32) << 20}, "pids": {"limit": 60 if large else 30},
        "cpu": {"shares": 600 if large else 300},
    }


def plain(container):
    """Much of what a configuration can ask for, without hooks."""
    config = json.loads(json.dumps(HERE.config))
    config["root"]["path"] = HERE.rootfs
    config["process"]["args"] = ["/bin/probe", *REPORT]
    config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5, 6]}
    config["process"]["oomScoreAdj"] = 100
    config["process"]["noNewPrivileges"] = True
    config["linux"]["cgroupsPath"] = f"/{HERE.name}/{container.id}/a/b"
    config["linux"]["resources"].update(resources(False))
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["reboot", "swapon"], "action": "SCMP_ACT_ERRNO"}],
    }
    config["mounts"].append(
        {"destination": "/tmp", "type": "bind", "source": HERE.rootfs + "/bin", "options": ["rbind", "ro", "nosuid"]}
    )
    return config


def with_hooks(container):
    config = plain(container)
    names = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    config["hooks"] = {name: [{"path": "/bin/true"}] for name in names}
    return config


def with_users(container):
    """With a user namespace and one of time, which takes a process more."""
    config = plain(container)
    config["linux"]["namespaces"] += [{"type": "user"}, {"type": "time"}]
    config["linux"]["timeOffsets"] = {"monotonic": {"secs": 100, "nanosecs": 0}}
    for kind in ["uidMappings", "gidMappings"]:
        config["linux"][kind] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    return config


def with_terminal(container):
    config = plain(container)
    config["process"]["terminal"] = True
    return config


def idle(container):
    config = plain(container)
    config["process"]["args"] = ["/bin/sleep", "1000"]
    return config


def sharing_processes(container):
    """Without a pid namespace, and with two processes."""
    config = idle(container)
    config["process"]["args"] = ["/bin/sh", "-c", "sleep 1000 & sleep 1000"]
    config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "pid"]
    return config
