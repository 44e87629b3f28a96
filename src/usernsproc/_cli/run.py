"""`usernsproc run`: a command in a new user namespace."""

from __future__ import annotations

from functools import partial

from .._maps.writer import SETGROUPS
from .._processes.become import become_in_foreground
from .._typing import TYPE_CHECKING
from ._arguments import (
    ENDING,
    ENVIRONMENT,
    IDENTITY,
    NAMESPACES,
    STATUS,
    STEPS,
    UNSHARE_KINDS,
    UNSHARE_MAPS,
    death_signal_of,
    map_options,
    maps_of,
    process_options,
    steps_of,
    supervise,
)
from .options import Command, Option, number, one

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .options import Options


def _words_of_bubblewrap() -> Mapping[str, tuple[Option, ...]]:
    from .bubblewrap import GROUPS

    return GROUPS


COMMAND = Command(
    "run",
    "run a command in a new user namespace",
    "Run a command in a new user namespace. A MAP is inside:outside:count[,...], or 'root' (the caller's ID is 0 "
    "inside), 'current' (the caller's ID stays the same), 'rootless' (the caller's ID is 0, subordinate IDs from 1 "
    "on), 'subids' (subordinate IDs from 0 on) or 'all' (each ID stays the same). 'usernsproc map MAP' shows the "
    "ranges of a preset.",
    {
        "ID maps": (
            *map_options("without any map no ID is mapped"),
            Option(
                "--setgroups", "|".join(SETGROUPS), "whether setgroups(2) may be called; default: as the map requires"
            ),
            Option("--owner", "ID", "the owner of the namespace, an ID in the caller's namespace", one(number)),
        ),
        "the command": (
            *IDENTITY,
            Option("--cwd --wd -w", "DIR", "the directory to start in"),
            *ENVIRONMENT,
        ),
        "further namespaces": NAMESPACES,
        "sessions, signals and time": ENDING,
        "set-up steps": STEPS,
        "as in unshare(1)": (*UNSHARE_MAPS, *UNSHARE_KINDS),
    },
    runs=True,
    more=_words_of_bubblewrap,
    hints={
        "--mount-binfmt": "mount binfmt_misc in the command",
        "--forward-signals": "signals are always forwarded",
        "--load-interp": "write to binfmt_misc in the command",
    },
    examples={
        "usernsproc run --map root -- id -u": "as root of a new user namespace",
        "usernsproc run --map rootless -- chown 33 file": "with subordinate IDs, for several users",
        "usernsproc run --map 0:100000:65536 -- sh": "with a map in numbers (as root)",
        "usernsproc run --map root --namespaces pid,net --init --mount-proc --loopback -- sh": "with processes and a "
        "network of its own",
        "usernsproc run --map root --timeout 10m --rlimit AS=1073741824 -- make": "with limits of time and memory",
        "usernsproc run --unshare-all --ro-bind / / --tmpfs /tmp --chdir /tmp -- sh": "in a root file system of its "
        "own, with the options of bubblewrap",
    },
    notes=(STATUS,),
)


def run(options: Options) -> int:
    if options.mount_proc and "pid" not in options.namespaces:
        raise ValueError("--mount-proc requires --namespaces pid: the new /proc shows a new PID namespace")
    own: dict[str, Any] = {
        **maps_of(options),
        "setgroups": options.setgroups,
        "owner": options.owner,
        "setup": [*steps_of(options), *death_signal_of(options)],
        **process_options(options),
    }
    if getattr(options, "sandbox", None) is not None:
        options.sandbox.end_of_words()
        start = partial(options.sandbox.run, options.command, own, dict(options.env))
    else:
        start = partial(become_in_foreground, options.command, **own)
    return supervise(options, start)
