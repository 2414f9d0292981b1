"""Where the attacks take place: bundles, what is to be kept from them, and what one can come to."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import types

from host import make_rootfs, read

DEADLINE = 20
CASES = []
# Set by `run`: the directory of all bundles, the name that all of ours has, the programs, a config to begin with; and how
# long a raced attack is tried.
HERE = types.SimpleNamespace(root="", name="", programs="", config={}, rounds=0, seconds=0)


def case(title):
    def add(function):
        CASES.append((title, function))
        return function
    return add


class NotApplicable(Exception):
    """Why an attack says nothing about this runtime."""


class Ended:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def json(self):
        """What the probe says; nothing if it did not come to that."""
        try:
            return json.loads(self.out) if self.code == 0 else {}
        except ValueError:
            return {}

    def mounts(self):
        """What the probe sees mounted; nothing where its /proc is no procfs."""
        mounts = self.json().get("mounts")
        return mounts if isinstance(mounts, list) else []


class Bundle:
    """A bundle of a runtime, with a container that is deleted by force after each run."""

    number = 0

    def __init__(self, runtime):
        Bundle.number += 1
        self.runtime = runtime
        self.id = f"{HERE.name}-{Bundle.number:04}"
        self.path = os.path.join(HERE.root, self.id)
        self.rootfs = os.path.join(self.path, "rootfs")
        self.state = os.path.join(self.path, "state")
        make_rootfs(self.rootfs)
        os.mkdir(self.rootfs + "/etc")
        self.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
        for name in ["cat", "ls", "sleep", "pwd", "readlink", "stat"]:
            with contextlib.suppress(FileExistsError):
                os.symlink("busybox", f"{self.rootfs}/bin/{name}")
        shutil.copy(os.path.join(HERE.programs, "probe"), self.rootfs + "/bin")
        self.config = json.loads(json.dumps(HERE.config))
        self.config["linux"]["cgroupsPath"] = f"/{HERE.name}/{self.id}"

    def write(self, path, text):
        with open(os.path.join(self.rootfs, path), "w") as file:
            file.write(text)

    def link(self, path, target):
        """Puts a symbolic link in the place of whatever is there."""
        path = os.path.join(self.rootfs, path)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)
        os.symlink(target, path)

    def args(self, *words):
        self.config["process"]["args"] = list(words)
        return self

    def sh(self, script):
        return self.args("/bin/sh", "-c", script)

    def mount(self, destination, kind, source, *options):
        entry = {"destination": destination, "type": kind, "source": source, "options": list(options)}
        self.config["mounts"].append(entry)
        return self

    def keep_mounts(self, *destinations):
        self.config["mounts"] = [entry for entry in self.config["mounts"] if entry["destination"] in destinations]

    def write_config(self):
        with open(self.path + "/config.json", "w") as file:
            json.dump(self.config, file)

    def call(self, words, **more):
        self.write_config()
        output = [tempfile.TemporaryFile(dir=HERE.root) for _ in range(2)]
        process = subprocess.Popen(
            [self.runtime.path, "--root", self.state, *words], stdin=subprocess.DEVNULL, stdout=output[0],
            stderr=output[1], cwd=self.path, **more,
        )
        try:
            code = process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        texts = []
        for file in output:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        return Ended(code, *texts)

    def run(self, **more):
        ended = self.call(["run", "--bundle", self.path, self.id], **more)
        self.call(["delete", "--force", self.id])
        return ended

    def up(self):
        """Runs in the background."""
        self.args("/bin/sleep", "1000")
        ended = self.call(["run", "--detach", "--bundle", self.path, self.id])
        if ended.code != 0:
            raise NotApplicable("does not run detached: " + first_line(ended.err))
        return self

    def exec(self, *words, **more):
        at = next((index for index, word in enumerate(words) if not word.startswith("-")), 0)
        return self.call(["exec", *words[:at], self.id, *words[at:]], **more)

    def delete(self):
        self.call(["delete", "--force", self.id])


class Canary:
    """A tree of the host that no container may change."""

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="canary", dir=HERE.root)
        os.chmod(self.path, 0o755)
        for name in ["file", "null", "ptmx", "console"]:
            with open(os.path.join(self.path, name), "w") as file:
                file.write("canary")
        os.mkdir(self.path + "/sub")
        self.before = self.look()

    def look(self):
        found = {}
        for directory, names, files in os.walk(self.path):
            for name in names + files:
                path = os.path.join(directory, name)
                data = os.lstat(path)
                text = read(path) if os.path.isfile(path) else ""
                found[path] = (data.st_ino, data.st_mode, data.st_uid, data.st_gid, text)
        return found

    def harm(self):
        after = self.look()
        changed = [path for path in {*self.before, *after} if self.before.get(path) != after.get(path)]
        return f"changed on the host: {os.path.basename(min(changed))}" if changed else None


@contextlib.contextmanager
def racing(one, other):
    """Swaps two paths as fast as it goes."""
    racer = subprocess.Popen([os.path.join(HERE.programs, "racer"), one, other, "3600"], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        racer.kill()
        racer.wait()


def rounds(attempt):
    """Repeats until it succeeds; says after how many rounds."""
    end = time.monotonic() + HERE.seconds
    for number in range(1, HERE.rounds + 1):
        harm = attempt()
        if harm:
            return f"{harm} (round {number})"
        if time.monotonic() > end:
            break
    return Held(f"{number} rounds")


class Held(str):
    """Held, with something to say about it."""


class Weaker(str):
    """Nothing was reached, but what stands in the way elsewhere is missing."""


def first_line(text):
    return (text.strip().splitlines() or [""])[-1][:160]
