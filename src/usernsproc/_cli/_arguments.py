"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import grp
import pwd
import re
from collections.abc import Callable
from typing import Any

from .._setup.step import Step
from ..setup import Affinity, Loopback, Nice, Rlimit

STATUS = (
    "Exit status: the command's; 128+n for signal n; 125 error of usernsproc, 126 not executable, "
    "127 not found. Signals are forwarded."
)


def add_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command, its IDs and its other attributes."""
    parser.add_argument("--user", metavar="ID", help="user ID in the namespace, or a user name known to the caller")
    parser.add_argument("--group", metavar="ID", help="group ID in the namespace, or a group name known to the caller")
    parser.add_argument("--cwd", metavar="DIR", help="the directory to start in")
    parser.add_argument("--no-new-privs", action="store_true", help="never gain rights by executing a program")
    parser.add_argument(
        "--ambient-caps",
        metavar="CAP[,...]",
        default="",
        help="keep these capabilities across execve(2), if not UID 0",
    )
    parser.add_argument("--cgroup", metavar="DIR", help="the cgroup (version 2) to start in")
    parser.add_argument(
        "--session-keyring",
        choices=("new", "inherit"),
        help="the session keyring of the command: an empty one, or that of the caller with its keys; default: new "
        "when a namespace is joined, otherwise inherit",
    )
    parser.add_argument(
        "--namespaces",
        metavar="KIND[,...]",
        default="",
        help="further namespaces to create: mnt, pid, net, ipc, uts, cgroup, time",
    )
    parser.add_argument(
        "--init",
        action="store_true",
        help="a tiny init as pid 1 of the new pid namespace; without it the command is pid 1 itself, and as such "
        "ignores Ctrl-C and other signals that it has no handler for",
    )
    parser.add_argument(
        "--mount-proc", action="store_true", help="a fresh /proc for the pid namespace, in a new mount namespace"
    )
    parser.add_argument(
        "--propagation",
        choices=("private", "slave", "shared", "unchanged"),
        help="of all mounts of a new mount namespace; default: private",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """Set-up steps that have a word."""
    parser.add_argument(
        "--rlimit",
        metavar="NAME=SOFT[:HARD]",
        action="append",
        default=[],
        help="a resource limit, such as NOFILE=64 or AS=1073741824:infinity; the hard limit is the soft one if omitted",
    )
    parser.add_argument("--nice", metavar="N", type=int, help="nice value, from -20 to 19")
    parser.add_argument("--cpu-affinity", metavar="LIST", help="the CPUs to run on, such as 0-3,5")
    parser.add_argument("--loopback", action="store_true", help="activate the loopback device of the network namespace")


def steps_of(options: argparse.Namespace) -> list[Step]:
    steps: list[Step] = [_limit(text) for text in options.rlimit]
    if options.nice is not None:
        steps.append(Nice(options.nice))
    if options.cpu_affinity is not None:
        steps.append(Affinity(_cpus(options.cpu_affinity)))
    if options.loopback:
        steps.append(Loopback())
    return steps


def _limit(text: str) -> Step:
    found = re.fullmatch(r"(\w+)=(\d+|infinity)(?::(\d+|infinity))?", text, re.ASCII)
    if not found:
        raise ValueError(f"--rlimit {text}: NAME=SOFT[:HARD] is needed, in numbers or 'infinity'")
    name, *limits = found.groups()
    return Rlimit(name, *(limit if limit == "infinity" else int(limit) for limit in limits if limit))


def _cpus(text: str) -> set[int]:
    cpus: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part, re.ASCII)
        if not found:
            raise ValueError(f"--cpu-affinity {text}: a list such as 0-3,5 is needed")
        first, last = found[1], found[2] or found[1]
        cpus.update(range(int(first), int(last) + 1))
    return cpus


def command_of(options: argparse.Namespace, name: str) -> list[str]:
    command: list[str] = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise ValueError(f"{name}: which command? Try 'usernsproc {name} --help'.")
    return command


def process_options(options: argparse.Namespace) -> dict[str, Any]:
    """For `UsernsProcess`, from what `add_command_arguments` has added."""
    kinds = [kind for kind in options.namespaces.split(",") if kind]
    if options.init and "pid" not in kinds:
        raise ValueError("--init is pid 1 of a new pid namespace: --namespaces pid is needed with it")
    if options.propagation and not options.mount_proc and "mnt" not in kinds:
        raise ValueError("--propagation is that of a new mount namespace: --namespaces mnt is needed with it")
    return {
        "user": _id(options.user, lambda name: pwd.getpwnam(name).pw_uid),
        "group": _id(options.group, lambda name: grp.getgrnam(name).gr_gid),
        "cwd": options.cwd,
        "no_new_privs": options.no_new_privs,
        "ambient_caps": [name for name in options.ambient_caps.split(",") if name],
        "cgroup": options.cgroup,
        "session_keyring": options.session_keyring,
        "namespaces": kinds,
        "init": options.init,
        "mount_proc": options.mount_proc,
        "propagation": options.propagation,
    }


def _id(text: str | None, number_of: Callable[[str], int]) -> int | None:
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return number_of(text)
    except KeyError:
        raise ValueError(f"{text}: no such name on this system") from None
