"""What a container's program saw of itself."""

import json
import os

from host import read
from containers import HERE, Wrong, wait_for

HOST_NAMESPACES = {os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}


def flat(value, path=""):
    """The leaves of a JSON value by their paths."""
    if isinstance(value, (dict, list)):
        if path.endswith("/superOptions"):
            # mount(2) makes the file system itself read-only, the newer calls only its mount.
            value = [option for option in value if option not in ["ro", "rw"]]
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        if path == "/mounts":
            # What covers a masked path is another thing on older kernels.
            masked = HERE.config["linux"]["maskedPaths"]
            pairs = [(mount["mountPoint"], True if mount["mountPoint"] in masked else mount) for mount in value]
        elif path.startswith("/mounts/"):
            pairs = [(name, child) for name, child in pairs if name not in ["id", "parent", "device", "mountPoint"]]
        return {key: leaf for name, child in pairs for key, leaf in flat(child, f"{path}/{name}").items()}
    if path.startswith("/namespaces/"):
        value = "the host's" if value in HOST_NAMESPACES else "another"
    return {path: value}


def report(container, text):
    try:
        return flat(json.loads(text.strip().replace(container.id, "ID")))
    except ValueError:
        raise Wrong(f"the program's report: {text!r}") from None


def report_in_output(container, ended):
    return report(container, ended.out)


def report_after_start(container, _):
    """Of a container that was created, now started."""
    container.must("start", container.id)
    return report_of_program(container, 1 if container.calls == 2 else None)


def report_of_program(container, _=None):
    """From whatever output of a call the program has inherited."""
    def text():
        if container.console:
            return container.written.decode() if container.written.endswith(b"\n") else ""
        outputs = [read(f"{container.path}/{number}.out") for number in range(1, container.calls + 1)]
        return next((output for output in outputs if '"caps"' in output and output.endswith("\n")), "")
    return report(container, wait_for("the program's report", text))
