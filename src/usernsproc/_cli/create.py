"""`usernsproc create` and `usernsproc unpin`: persistent namespaces, kept alive by a path."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from .._errors import UsernsError
from .._maps.idmap import PRESETS
from .._maps.writer import with_preset_for_both
from .._namespaces.namespace import Namespace, NamespaceKind
from .._namespaces.new import create_userns
from .._namespaces.pin import Pin
from .._processes.process import UsernsProcess

# A PID namespace ends with its first process: a pinned one could not be entered.
FURTHER_KINDS: list[NamespaceKind] = [
    kind for kind in NamespaceKind if kind not in (NamespaceKind.USER, NamespaceKind.PID)
]

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def add_to(commands: Any) -> None:
    """The parsers of these commands."""
    create = commands.add_parser(
        "create",
        help="create persistent namespaces",
        description="Create a user namespace, and others that it owns, and keep each at a path, without a process. "
        "A PATH is a new name or an empty file. A MAP is inside:outside:count[,...], or a preset, "
        f"{', '.join(PRESETS)}; 'usernsproc map MAP' shows the ranges of a preset.",
    )
    create.add_argument("--pin", metavar="PATH", help="where to keep the user namespace")
    for kind in FURTHER_KINDS:
        create.add_argument(f"--pin-{kind}", metavar="PATH", help=f"also create one of kind {kind}, and keep it there")
    create.add_argument("--map", metavar="MAP", help="both ID maps")
    create.add_argument("--uid-map", metavar="MAP", help="the user ID map")
    create.add_argument("--gid-map", metavar="MAP", help="the group ID map")
    create.add_argument("--setgroups", choices=("allow", "deny"), help="default: the value that the map requires")
    create.add_argument("--owner", metavar="ID", type=int, help="the owner, an ID in the caller's namespace")
    create.set_defaults(run=run)
    remove = commands.add_parser(
        "unpin", help="remove persistent namespaces", description="Unmount namespaces, and remove their files."
    )
    remove.add_argument("paths", metavar="PATH", nargs="+")
    remove.set_defaults(run=run_unpin)


def run(options: argparse.Namespace) -> int:
    uid_map = options.map if options.uid_map is None else options.uid_map
    gid_map = options.map if options.gid_map is None else options.gid_map
    uid_map, gid_map = with_preset_for_both(uid_map, gid_map)
    if uid_map is None or gid_map is None:
        raise ValueError("create: both maps are needed: --map, or --uid-map and --gid-map")
    further: dict[NamespaceKind, str | None] = {kind: getattr(options, f"pin_{kind}") for kind in FURTHER_KINDS}
    pins: dict[NamespaceKind, str] = {kind: path for kind, path in further.items() if path is not None}
    if options.pin is None and not pins:
        raise ValueError("create: where to keep it? --pin PATH")
    maps = {"uid_map": uid_map, "gid_map": gid_map, "setgroups": options.setgroups, "owner": options.owner}
    if options.pin is not None:
        pins[NamespaceKind.USER] = options.pin
    refused: UsernsError | None = None
    for _ in _on_each_cpu():
        try:
            with ExitStack() as holding:
                _pin_all(_create(pins, maps, holding), pins)
        except UsernsError as error:
            if error.cause != "mount-loop":
                raise
            refused = refused or error
        else:
            return 0
    assert refused is not None
    raise refused


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


def run_unpin(options: argparse.Namespace) -> int:
    for path in options.paths:
        Namespace.unpin(path)
    return 0
