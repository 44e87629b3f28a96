"""`usernsproc create` and `usernsproc unpin`: namespaces that a path keeps."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from .._errors import UsernsError
from .._maps.idmap import PRESETS
from .._namespaces.namespace import Namespace, NamespaceKind
from .._namespaces.new import create_userns
from .._namespaces.pin import Pin
from .._processes.process import UsernsProcess

# A pid namespace ends with its first process: a pin would keep what nobody can enter.
FURTHER_KINDS: list[NamespaceKind] = [
    kind for kind in NamespaceKind if kind not in (NamespaceKind.USER, NamespaceKind.PID)
]

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def add_to(commands: Any) -> None:
    """The parsers of these commands."""
    create = commands.add_parser(
        "create",
        help="make namespaces that a path keeps",
        description="Make a user namespace, and others that it owns, and keep each at a path, without any process. "
        "A PATH is a new name or an empty file. A MAP is inside:outside:count[,...], or a preset, "
        f"{', '.join(PRESETS)}; 'usernsproc map MAP' shows what a preset is for you.",
    )
    create.add_argument("--pin", metavar="PATH", help="where to keep the user namespace")
    for kind in FURTHER_KINDS:
        create.add_argument(f"--pin-{kind}", metavar="PATH", help=f"make one of kind {kind} too, and keep it there")
    create.add_argument("--map", metavar="MAP", help="both id maps")
    create.add_argument("--uid-map", metavar="MAP", help="the user id map")
    create.add_argument("--gid-map", metavar="MAP", help="the group id map")
    create.add_argument("--setgroups", choices=("allow", "deny"), help="default: what the map needs")
    create.add_argument("--owner", metavar="ID", type=int, help="the id outside that shall own the namespace")
    create.set_defaults(run=run)
    remove = commands.add_parser(
        "unpin", help="give up namespaces that a path keeps", description="Unmount namespaces, and remove their files."
    )
    remove.add_argument("paths", metavar="PATH", nargs="+")
    remove.set_defaults(run=run_unpin)


def run(options: argparse.Namespace) -> int:
    uid_map = options.map if options.uid_map is None else options.uid_map
    gid_map = options.map if options.gid_map is None else options.gid_map
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
    for _ in _on_one_cpu_after_the_other():
        try:
            with ExitStack() as holding:
                _pin_all(_made(pins, maps, holding), pins)
        except UsernsError as error:
            if error.cause != "mount-loop":
                raise
            refused = refused or error
        else:
            return 0
    assert refused is not None
    raise refused


def _on_one_cpu_after_the_other() -> Iterator[None]:
    """Wherever it may run, and then on each CPU.

    Of two mount namespaces, Linux takes the one with the smaller number for the
    older one. From 6.18 on, each CPU has numbers of its own to give out, so what
    was just made can seem to be older than this program's.
    """
    allowed = os.sched_getaffinity(0)
    try:
        for cpus in (allowed, *({cpu} for cpu in sorted(allowed))):
            os.sched_setaffinity(0, cpus)
            yield
    finally:
        os.sched_setaffinity(0, allowed)


def _made(kinds: Iterable[NamespaceKind], maps: dict[str, Any], holding: ExitStack) -> dict[NamespaceKind, Namespace]:
    if set(kinds) == {NamespaceKind.USER}:
        return {NamespaceKind.USER: holding.enter_context(create_userns(**maps))}
    further = [str(kind) for kind in kinds if kind is not NamespaceKind.USER]
    holder = holding.enter_context(UsernsProcess(namespaces=further, **maps))
    return {kind: holding.enter_context(holder.namespace(kind)) for kind in kinds}


def _pin_all(made: dict[NamespaceKind, Namespace], pins: dict[NamespaceKind, str]) -> None:
    """All of them or none: a signal that would end this program has to wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    pinned: list[Pin] = []
    try:
        for kind, path in pins.items():
            pinned.append(Pin(made[kind].fileno(), kind, path))
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
