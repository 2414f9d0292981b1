"""The scenarios: verbs, on what, and what has to be so afterwards."""

import collections
import json
import os

from containers import Container, Wrong, wait_for
from configs import REPORT, idle, plain, resources, sharing_processes, with_hooks, with_terminal, with_users
from reports import report_after_start, report_in_output, report_of_program


def nothing(_):
    pass


def same_limits(container):
    """A failed update leaves the limits as they were."""
    seen = set(container.limits().values())
    if seen != container.before:
        raise Wrong(f"the limits are {seen} after a failed update, and were {container.before}")


def remember_limits(container):
    container.up()
    container.before = set(container.limits().values())
    with open(os.path.join(container.path, "resources.json"), "w") as file:
        json.dump(resources(True), file)


def still_works(container):
    """What could not be added to a container has not harmed it."""
    ended = container.must("exec", container.id, "/bin/probe", "uid")
    if '"real":1000' not in ended.out:
        raise Wrong(f"exec afterwards: {ended}")


def exists(container):
    if container.is_gone():
        raise Wrong("the container is gone")


def was_not_made(container):
    if not container.is_gone():
        raise Wrong(f"it failed, and left a container: {container.status()}")


def has_ended(container):
    """What could not be removed after its end can be deleted, but does not run any more."""
    if not container.is_gone() and container.status() != "stopped":
        raise Wrong(f"it failed, and left a container: {container.status()}")


def ended(container, _):
    return wait_for("its end", lambda: container.status() == "stopped")


def up_with_console(container):
    container.up()
    container.open_console()


def paused(container):
    container.up()
    container.must("pause", container.id)


def stopped(container):
    container.up()
    wait_for("its end", lambda: container.status() == "stopped")


# config: of the container; prepare: what comes before the verb; words: the verb; result: something that is the same
# whenever it works; after_failure: a check; of_init: whether init's calls are meant, and not the verb's.
Scenario = collections.namedtuple("Scenario", "config prepare words result after_failure of_init", defaults=[False])

SCENARIOS = {
    "create": Scenario(
        plain, nothing, lambda c: ["create", "--bundle", c.path, c.id], report_after_start, was_not_made),
    "create, hooks": Scenario(
        with_hooks, nothing, lambda c: ["create", "--bundle", c.path, c.id], report_after_start, was_not_made),
    "create, user and time namespaces": Scenario(
        with_users, nothing, lambda c: ["create", "--bundle", c.path, c.id], report_after_start, was_not_made),
    "create, terminal": Scenario(
        with_terminal, Container.open_console,
        lambda c: ["create", "--bundle", c.path, "--console-socket", c.console, c.id], report_after_start,
        was_not_made),
    "start": Scenario(
        plain, Container.create, lambda c: ["start", c.id], report_of_program, exists),
    "start, hooks": Scenario(
        with_hooks, Container.create, lambda c: ["start", c.id], report_of_program, nothing),
    "start, init's calls": Scenario(
        plain, Container.create, lambda c: ["start", c.id], report_of_program, exists, True),
    "run": Scenario(
        plain, nothing, lambda c: ["run", "--bundle", c.path, c.id], report_in_output, has_ended),
    "run --detach, hooks": Scenario(
        with_hooks, nothing, lambda c: ["run", "--detach", "--bundle", c.path, c.id], report_of_program, was_not_made),
    "exec": Scenario(
        idle, Container.up, lambda c: ["exec", c.id, "/bin/probe", *REPORT], report_in_output, still_works),
    "exec, terminal": Scenario(
        idle, up_with_console,
        lambda c: ["exec", "-t", "-d", "--console-socket", c.console, c.id, "/bin/probe", *REPORT],
        report_of_program, still_works),
    "update": Scenario(
        idle, remember_limits, lambda c: ["update", "-r", f"{c.path}/resources.json", c.id],
        lambda c, _: sorted(c.limits().values()), same_limits),
    "kill": Scenario(idle, Container.up, lambda c: ["kill", c.id, "KILL"], ended, exists),
    "kill --all": Scenario(sharing_processes, Container.up, lambda c: ["kill", "--all", c.id, "KILL"], ended, exists),
    "pause": Scenario(idle, Container.up, lambda c: ["pause", c.id], lambda c, _: c.status(), exists),
    "resume": Scenario(idle, paused, lambda c: ["resume", c.id], lambda c, _: c.status(), exists),
    "delete": Scenario(plain, stopped, lambda c: ["delete", c.id], lambda c, _: c.is_gone(), nothing),
    "delete --force": Scenario(
        sharing_processes, Container.up, lambda c: ["delete", "--force", c.id], lambda c, _: c.is_gone(), nothing),
    "state": Scenario(
        idle, Container.up, lambda c: ["state", c.id], lambda c, ended: json.loads(ended.out)["status"], still_works),
    "list": Scenario(
        idle, Container.up, lambda c: ["list", "-q"],
        # What cannot be read is left out with a warning.
        lambda c, ended: "ID" if c.id in ended.out or "is left out" in ended.err else "", still_works),
    "ps": Scenario(
        idle, Container.up, lambda c: ["ps", "--format", "json", c.id], lambda c, ended: len(json.loads(ended.out)),
        still_works),
}
