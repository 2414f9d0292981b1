"""Attacks on `exec`: from a container on what is added to it, and by what is asked for."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import time

from world import Bundle, DEADLINE, HERE, Held, NotApplicable, Weaker, case, rounds


@case("CVE-2016-3697: the number of a user is a name in the image's passwd")
def _(runtime):
    bundle = Bundle(runtime)
    bundle.write("etc/passwd", "1000:x:0:0::/:/bin/sh\n")
    bundle.up()
    ended = bundle.exec("--user=1000", "/bin/probe", "uid")
    bundle.delete()
    if ended.json() and ended.json()["uid"]["real"] != 1000:
        return f"exec --user=1000 has uid {ended.json()['uid']['real']}"


@case("CVE-2016-8867, CVE-2022-29162, CVE-2022-24769: inheritable and ambient capabilities")
def _(runtime):
    bundle = Bundle(runtime).up()
    for flags in [["--cap=CAP_NET_RAW"], ["--cap=CAP_NET_RAW", "--user=1000"]]:
        caps = bundle.exec(*flags, "/bin/probe", "caps").json().get("caps", {})
        if caps.get("inheritable") or "user" in flags[-1] and caps.get("ambient"):
            bundle.delete()
            return f"exec {' '.join(flags)} has {caps['inheritable']} inheritable, {caps['ambient']} ambient"
    bundle.delete()


def spied_on(runtime, program):
    """Adds processes to a container whose first one looks at each; what that found, and what came of the rounds."""
    bundle = Bundle(runtime)
    shutil.copy(os.path.join(HERE.programs, "spy"), bundle.rootfs + "/bin")
    bundle.write("bin/self", "#!/proc/self/exe\n")
    os.chmod(bundle.rootfs + "/bin/self", 0o755)
    bundle.args("/bin/spy")
    bundle.write_config()
    with tempfile.TemporaryFile(dir=HERE.root) as out:
        spy = subprocess.Popen([runtime.path, "--root", bundle.state, "run", "--bundle", bundle.path, bundle.id],
                               stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        result = rounds(lambda: bundle.exec(program, "--version") and None)
        bundle.call(["kill", bundle.id, "TERM"])
        with contextlib.suppress(subprocess.TimeoutExpired):
            spy.wait(5)
        bundle.delete()
        spy.kill()
        spy.wait()
        out.seek(0)
        found = sorted(set(out.read().decode().split("\n")) - {"", "ready"})
    seen = next((line[5:] for line in found if line.startswith("seen ")), "0")
    return [line for line in found if not line.startswith("seen ")], f"{result}, {seen} glimpses"


@case("CVE-2016-9962: what exec shows of the runtime to a container's processes (raced)")
def _(runtime):
    found, result = spied_on(runtime, "/bin/true")
    text = f"not yet the program, a process shows its {', '.join(found)}"
    return (Weaker(text) if found == ["CAP_SYS_ADMIN"] else text) if found else Held(result)


@case("CVE-2019-5736: the runtime's binary as the program, to be written (raced)")
def _(runtime):
    def binary():
        with open(runtime.path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    before = binary()
    _, result = spied_on(runtime, "/bin/self")
    return "the runtime's binary was changed" if binary() != before else Held(result)


@case("CVE-2019-10144 and its like: exec without init's confinement")
def _(runtime):
    bundle = Bundle(runtime)
    bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}]}
    bundle.up()
    report = bundle.exec("/bin/probe", "seccomp", "noNewPrivs", "caps", "cgroup").json()
    bundle.delete()
    if not report:
        raise NotApplicable("exec does not run")
    if report["seccomp"] in [0, "0"] or not report["noNewPrivs"] or len(report["caps"]["bounding"]) > 3:
        return Weaker(f"exec has seccomp {report['seccomp']}, noNewPrivs {report['noNewPrivs']}")


@case("CVE-2024-21626: a working directory by an inherited descriptor, exec")
def _(runtime):
    secret = HERE.root + "/secret"
    with open(secret, "w") as file:
        file.write("of the host")
    bundle = Bundle(runtime).up()
    try:
        for number in range(3, 13):
            script = f"cat ./{secret} ../../..{secret} ../../../../../..{secret}"
            if "of the host" in bundle.exec(f"--cwd=/proc/self/fd/{number}", "/bin/sh", "-c", script).out:
                return f"by descriptor {number} the host's files can be read"
    finally:
        bundle.delete()


@case("CVE-2026-30892: what is no number of a user becomes root")
def _(runtime):
    bundle = Bundle(runtime)
    bundle.config["process"]["user"] = {"uid": 3, "gid": 4}
    bundle.up()
    found = []
    for user in ["1", "1:2", "", "1:", ":1", "-1", "1e3", " 1", "4294967296", "nobody-there"]:
        report = bundle.exec(f"--user={user}", "/bin/probe", "uid").json()
        uid = report["uid"]["real"] if report else None
        if uid == 0 or uid is not None and user in ["1", "1:2"] and uid != 1:
            found.append(f"--user={user!r} has uid {uid}")
    bundle.delete()
    return "; ".join(found) or None


@case("exec --cgroup out of the container's cgroup")
def _(runtime):
    bundle = Bundle(runtime)
    bundle.up()
    found = None
    for path in ["..", "../..", "sub/../.."]:
        ended = bundle.exec(f"--cgroup={path}", "/bin/sleep", "0.3")
        if "flag provided but not defined" in ended.err or "unrecognized option" in ended.err or "unknown" in ended.err:
            bundle.delete()
            raise NotApplicable("has no such flag")
        if ended.code == 0:
            found = f"--cgroup={path} is accepted"
            break
    bundle.delete()
    return found


@case("CVE-2022-4318 and its like: a passwd that is a FIFO")
def _(runtime):
    bundle = Bundle(runtime).up()
    os.remove(bundle.rootfs + "/etc/passwd")
    os.mkfifo(bundle.rootfs + "/etc/passwd")
    ended = bundle.exec("/bin/true")
    # One who waits can be let go by a writer only.
    with contextlib.suppress(OSError):
        os.close(os.open(bundle.rootfs + "/etc/passwd", os.O_RDWR | os.O_NONBLOCK))
    bundle.delete()
    return f"exec hangs for more than {DEADLINE} s" if ended.code is None else None
