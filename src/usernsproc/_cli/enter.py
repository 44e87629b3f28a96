"""`usernsproc enter`: a command in existing namespaces."""

from __future__ import annotations

from functools import partial

from .._namespaces.join import open_joins
from .._namespaces.namespace import Namespace
from .._processes.become import become_in_foreground
from .._typing import TYPE_CHECKING
from ._arguments import (
    ENDING,
    ENVIRONMENT,
    IDENTITY,
    NAMESPACES,
    STATUS,
    death_signal_of,
    process_options,
    supervise,
)
from .options import Command, Option, adds, each, one, parts

if TYPE_CHECKING:
    from typing import Any

    from .options import Options


def _target(text: str) -> list[int | str]:
    return [int(part) if part.isascii() and part.isdigit() else part for part in parts(text)]


def _only(kind: str, path: str = "") -> tuple[str, str]:
    return kind, path


def _joins(names: str, kind: str) -> Option:
    """Adds the kind of a namespace of the target, or the path of one."""
    meaning = f"of TARGET, only this and the other kinds that are named; FILE: this {kind} namespace"
    return Option(names, "[=FILE]", meaning, each(partial(_only, kind)), to="only")


COMMAND = Command(
    "enter",
    "run a command in existing namespaces",
    "Run a command in the namespaces of a process (PID: every namespace of that process that differs from the "
    "caller's), or in those of namespace files (paths, separated by commas). If none of them is a user namespace, "
    "the command stays in the caller's.",
    {
        "the command": (
            *IDENTITY,
            Option("--cwd --wdns -W", "DIR", "the directory to start in, in the mount namespace that is entered"),
            *ENVIRONMENT,
        ),
        "further namespaces": NAMESPACES,
        "sessions, signals and time": ENDING,
        "as in nsenter(1)": (
            Option("--target -t", "TARGET", "in place of the argument TARGET", one(_target)),
            Option("--all -a", help="all namespaces of TARGET that differ from the caller's, which is the default"),
            Option("-U", help="the user namespace of TARGET", take=adds(_only("user")), to="only"),
            _joins("--mount -m", "mnt"),
            _joins("--pid -p", "pid"),
            _joins("--net -n", "net"),
            _joins("--ipc -i", "ipc"),
            _joins("--uts -u", "uts"),
            _joins("-C", "cgroup"),
            _joins("--time -T", "time"),
        ),
    },
    arguments="TARGET",
    runs=True,
    hints={
        "--root": "write chroot DIR before the command",
        "-r": "write chroot DIR before the command",
        "--wd": "did you mean --wdns, a directory in the mount namespace that is entered?",
        "-w": "did you mean -W, a directory in the mount namespace that is entered?",
        "-e": "did you mean --env NAME=VALUE?",
        "--preserve-credentials": "the command keeps the caller's IDs if they are mapped",
        "--no-fork": "there is no need for it",
        "-F": "there is no need for it",
    },
    examples={
        "usernsproc enter 1234 -- sh": "in all namespaces of a process",
        "usernsproc enter --target 1234 -U --net -- ip address": "in two of them",
        "usernsproc enter /run/ns/user,/run/ns/net -- ip address": "in namespaces that are kept by paths",
        "usernsproc enter 1234 --user 1000 --group 1000 -- sh": "as a user of the namespace",
    },
    notes=(STATUS,),
)


def run(options: Options) -> int:
    targets = _joined(_target(options.target) if isinstance(options.target, str) else options.target, options)
    with open_joins(targets) as joins:
        has_userns = joins.userns is not None
    own = {**process_options(options), "setup": death_signal_of(options)}
    if has_userns:
        return supervise(options, partial(become_in_foreground, options.command, join=targets, **own))
    with Namespace.current() as current:
        return supervise(options, partial(become_in_foreground, options.command, join=[*targets, current], **own))


def _joined(targets: list[int | str], options: Options) -> list[Any]:
    """The targets, or those of their namespaces that are named."""
    if not options.only or options.all:
        return [*targets, *(path for _, path in options.only if path)]
    kinds = [kind for kind, path in options.only if not path]
    if kinds and not (len(targets) == 1 and isinstance(targets[0], int)):
        raise ValueError(f"TARGET has to be a PID, if some of its namespaces are named ({', '.join(kinds)})")
    return [*((target, kinds) for target in targets if kinds), *(path for _, path in options.only if path)]
