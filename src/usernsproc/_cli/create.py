"""`usernsproc create` and `usernsproc unpin`: persistent namespaces, kept alive by a path."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

from .._errors import UsernsError
from .._maps.idmap import PRESETS
from .._maps.writer import with_preset_for_both
from .._namespaces.namespace import Namespace, NamespaceKind
from .._namespaces.new import create_userns
from .._namespaces.pin import Pin
from .._processes.process import UsernsProcess
from .._typing import TYPE_CHECKING
from ._arguments import map_options, maps_of
from .options import Command, Option, number, one
from .output import write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from .options import Options

# A PID namespace ends with its first process: a pinned one could not be entered.
FURTHER_KINDS: list[NamespaceKind] = [
    kind for kind in NamespaceKind if kind not in (NamespaceKind.USER, NamespaceKind.PID)
]

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def _pin_option(kind: NamespaceKind) -> Option:
    return Option(f"--pin-{kind}", "PATH", f"also create one of kind {kind}, and keep it there")


COMMAND = Command(
    "create",
    "create persistent namespaces",
    "Create a user namespace, and others that it owns, and keep each at a path, without a process. A PATH is a new "
    f"name or an empty file. A MAP is inside:outside:count[,...], or a preset, {', '.join(PRESETS)}; "
    "'usernsproc map MAP' shows the ranges of a preset.",
    {
        "namespaces": (
            Option("--pin", "PATH", "where to keep the user namespace"),
            *map(_pin_option, FURTHER_KINDS),
        ),
        "ID maps": (
            *map_options("both maps are required"),
            Option("--setgroups", "allow|deny", "default: the value that the map requires"),
            Option("--owner", "ID", "the owner, an ID in the caller's namespace", one(number)),
        ),
        "output": (Option("--json", help="print what was created, as JSON"),),
    },
    examples={
        "usernsproc create --map 0:100000:65536 --pin /run/ns/user": "a user namespace (as root)",
        "usernsproc create --map root --pin-net /run/ns/net": "a network namespace that a user namespace owns",
    },
    notes=("Exit status: 0, or 125 and nothing was created.",),
)


def run(options: Options) -> int:
    maps: dict[str, Any] = {**maps_of(options), "setgroups": options.setgroups, "owner": options.owner}
    maps["uid_map"], maps["gid_map"] = with_preset_for_both(maps["uid_map"], maps["gid_map"])
    if maps["uid_map"] is None or maps["gid_map"] is None:
        raise ValueError("create: both maps are needed: --map, or --uid-map and --gid-map")
    further: dict[NamespaceKind, str | None] = {kind: getattr(options, f"pin_{kind}") for kind in FURTHER_KINDS}
    pins: dict[NamespaceKind, str] = {kind: path for kind, path in further.items() if path is not None}
    if options.pin is None and not pins:
        raise ValueError("create: --pin PATH, or a path of another kind such as --pin-net PATH, is required")
    if options.pin is not None:
        pins[NamespaceKind.USER] = options.pin
    refused: UsernsError | None = None
    for _ in _on_each_cpu():
        try:
            with ExitStack() as holding:
                created = _create(pins, maps, holding)
                shown = [_as_json(kind, path, created[kind]) for kind, path in pins.items()] if options.json else []
                _pin_all(created, pins)
        except UsernsError as error:
            if error.cause != "mount-loop":
                raise
            refused = refused or error
        else:
            if options.json:
                write_json({"namespaces": shown})
            return 0
    assert refused is not None
    raise refused


def _as_json(kind: NamespaceKind, path: str, namespace: Namespace) -> dict[str, Any]:
    shown = {"kind": kind, "path": path, "inode": namespace.inode}
    if kind is not NamespaceKind.USER:
        return shown
    return {**shown, "uid_map": str(namespace.uid_map), "gid_map": str(namespace.gid_map)}


def _on_each_cpu() -> Iterator[None]:
    """On all allowed CPUs first, then on each of them alone.

    Of two mount namespaces, Linux considers the one with the smaller ID to be the older
    one. Since Linux 6.18, IDs are allocated per CPU, so a new namespace can appear older
    than that of this program.
    """
    allowed = os.sched_getaffinity(0)
    try:
        for cpus in (allowed, *({cpu} for cpu in sorted(allowed))):
            os.sched_setaffinity(0, cpus)
            yield
    finally:
        os.sched_setaffinity(0, allowed)


def _create(kinds: Iterable[NamespaceKind], maps: dict[str, Any], holding: ExitStack) -> dict[NamespaceKind, Namespace]:
    if set(kinds) == {NamespaceKind.USER}:
        return {NamespaceKind.USER: holding.enter_context(create_userns(**maps))}
    further = [str(kind) for kind in kinds if kind is not NamespaceKind.USER]
    holder = holding.enter_context(UsernsProcess(namespaces=further, **maps))
    return {kind: holding.enter_context(holder.namespace(kind)) for kind in kinds}


def _pin_all(created: dict[NamespaceKind, Namespace], pins: dict[NamespaceKind, str]) -> None:
    """All of them or none: a signal that would end this program has to wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    pinned: list[Pin] = []
    try:
        for kind, path in pins.items():
            pinned.append(Pin(created[kind].fileno(), kind, path))
            pinned[-1].make()
    except BaseException as error:
        for pin in reversed(pinned):
            pin.undo(error)
        raise
    finally:
        for pin in pinned:
            pin.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
