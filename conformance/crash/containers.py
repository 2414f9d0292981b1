"""The containers that cases are tried on."""

import collections
import json
import os
import socket
import subprocess
import threading
import time
import types

from host import hierarchies, read

DEADLINE = 20
# Set by `run`: the directory of all containers, its name, their root file system, the programs, a config to begin with.
HERE = types.SimpleNamespace(root="", name="", rootfs="", kelson="", fault="", config={})
numbers = iter(range(1_000_000))


class Wrong(Exception):
    """What should not have been seen."""


Ended = collections.namedtuple("Ended", "code out err")

ours = set()
ours_lock = threading.Lock()


def reap_orphans():
    with ours_lock:
        for thread in os.listdir("/proc/self/task"):
            for child in map(int, read(f"/proc/self/task/{thread}/children").split()):
                if child not in ours:
                    try:
                        os.waitpid(child, os.WNOHANG)
                    except ChildProcessError:
                        pass


class Container:
    def __init__(self, config):
        self.id = f"{HERE.name}-{next(numbers):06}"
        self.path = os.path.join(HERE.root, self.id)
        self.state = os.path.join(self.path, "state")
        self.calls = 0
        self.console = None
        os.makedirs(self.state)
        with open(os.path.join(self.path, "config.json"), "w") as file:
            json.dump(config(self), file)

    def call(self, words, front=()):
        """Its output goes to files: a container that outlives the call may hold it open."""
        self.calls += 1
        names = [os.path.join(self.path, f"{self.calls}.{kind}") for kind in ["out", "err"]]
        with open(names[0], "wb") as out, open(names[1], "wb") as err:
            command = [*front, HERE.kelson, "--root", self.state, *words]
            with ours_lock:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=self.path)
                ours.add(process.pid)
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Wrong(f"{' '.join(words)} did not end in {DEADLINE} s") from None
        finally:
            process.wait()
            with ours_lock:
                ours.remove(process.pid)
        return Ended(process.returncode, read(names[0]), read(names[1]))

    def must(self, *words):
        ended = self.call(words)
        if ended.code != 0:
            raise Wrong(f"{words[0]} afterwards: {ended}")
        return ended

    def create(self):
        self.must("create", "--bundle", self.path, self.id)

    def up(self):
        self.create()
        self.must("start", self.id)

    def status(self):
        return json.loads(self.must("state", self.id).out)["status"]

    def is_gone(self):
        ended = self.call(["state", self.id])
        if ended.code != 0 and "does not exist" not in ended.err:
            raise Wrong(f"state afterwards: {ended}")
        return ended.code != 0

    def limits(self):
        """The values of the limits in [`resources`]."""
        names = ["hugetlb.2MB.max", "memory.limit_in_bytes", "pids.max", "cpu.shares"]
        paths = [f"{hierarchy}/{HERE.name}/{self.id}/a/b/{name}" for hierarchy in hierarchies() for name in names]
        return {path: read(path) for path in paths if os.path.exists(path)}

    def init(self):
        return json.loads(self.must("state", self.id).out)["pid"]

    def open_console(self):
        """Listens for the terminal, and keeps what is written to it."""
        self.console = os.path.join(self.path, "console")
        self.written = b""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.console)
        listener.listen()
        listener.settimeout(DEADLINE)

        def serve():
            try:
                connection, _ = listener.accept()
                _, descriptors, _, _ = socket.recv_fds(connection, 100, 1)
                while descriptors and (text := os.read(descriptors[0], 1 << 16)):
                    self.written += text
            except OSError:
                pass
            for descriptor in descriptors if "descriptors" in locals() else []:
                os.close(descriptor)
            listener.close()

        threading.Thread(target=serve, daemon=True).start()


def wait_for(what, is_so):
    end = time.monotonic() + DEADLINE
    while not (value := is_so()):
        reap_orphans()
        if time.monotonic() > end:
            raise Wrong(f"waited in vain for {what}")
        time.sleep(0.005)
    return value
