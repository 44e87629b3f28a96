"""What the core is told to start: everything converted, nothing left to decide.

Each value is a tuple, whose fields `_core.spawn` knows by their place; -1 stands for "leave as it is"
where a number is optional.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from . import _core
from ._cgroups import frozen_cause
from ._evidence import failed
from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

CLONE_NEWUSER = 0x10000000

_NANOSECONDS = 1_000_000_000
_LONGEST_POLL = 86_400_000  # milliseconds


class Namespaces(tuple[int, tuple[int, ...], int, int, bool, bool]):
    """Those to enter, then those to create.

    Args:
        flags: `CLONE_NEW…`, to create.
        joins: to enter: descriptor, `CLONE_NEW…`, and so on. None of the descriptors is 0, 1 or 2.
        owner: the user ID, outside, that owns a new user namespace.
        propagation: of a new mount namespace, `MS_…`; 0: leave it as it is.
        mount_proc: a fresh `/proc`.
        init: the program runs below an init.
    """

    __slots__ = ()

    def __new__(
        cls,
        flags: int = CLONE_NEWUSER,
        joins: tuple[int, ...] = (),
        owner: int = -1,
        propagation: int = 0,
        mount_proc: bool = False,
        init: bool = False,
    ) -> Self:
        return super().__new__(cls, (flags, joins, owner, propagation, mount_proc, init))


class MapTexts(tuple[str | None, str | None, str | None]):
    """What the core writes while the child waits; `None`: left unwritten."""

    __slots__ = ()

    def __new__(cls, setgroups: str | None = None, uid_map: str | None = None, gid_map: str | None = None) -> Self:
        return super().__new__(cls, (setgroups, uid_map, gid_map))


class Program(tuple["Sequence[Any]", "Sequence[Any]", "tuple[bytes, ...] | None", bool]):
    """What is executed: the first of the candidates that exists.

    Args:
        argv: as in `Popen`: strings, bytes and paths.
        candidates: likewise.
        envp: `None`: the environment as it is at the moment of the call.
        restore_signals: that Python ignores.
    """

    __slots__ = ()

    def __new__(
        cls,
        argv: Sequence[Any],
        candidates: Sequence[Any],
        envp: tuple[bytes, ...] | None = (),
        restore_signals: bool = True,
    ) -> Self:
        return super().__new__(cls, (argv, candidates, envp, restore_signals))


class Files(tuple[int, int, int, tuple[int, ...], bool]):
    """The descriptors of the program.

    Args:
        keep: those from 3 on that it inherits, ascending.
        close: the others are closed, also those that are inheritable.
    """

    __slots__ = ()

    def __new__(
        cls, stdin: int = -1, stdout: int = -1, stderr: int = -1, keep: tuple[int, ...] = (), close: bool = True
    ) -> Self:
        return super().__new__(cls, (stdin, stdout, stderr, keep, close))


class Attributes(tuple[int, int, "tuple[int, ...] | None", "bytes | None", int, bool, int]):
    """Of the process. The IDs are inside; `None`: keep the supplementary groups."""

    __slots__ = ()

    def __new__(
        cls,
        uid: int = -1,
        gid: int = -1,
        groups: tuple[int, ...] | None = None,
        cwd: bytes | None = None,
        umask: int = -1,
        start_new_session: bool = False,
        process_group: int = -1,
    ) -> Self:
        return super().__new__(cls, (uid, gid, groups, cwd, umask, start_new_session, process_group))


class Privileges(tuple[int, bool, int]):
    """Args:
    ambient_caps: a bit for each capability.
    session_keyring: 0: inherited; 1: a new one if that is possible; 2: a new one or an error.
    """

    __slots__ = ()

    def __new__(cls, ambient_caps: int = 0, no_new_privs: bool = False, session_keyring: int = 0) -> Self:
        return super().__new__(cls, (ambient_caps, no_new_privs, session_keyring))


class Signals(tuple["int | None", int]):
    """Args:
    mask: a bit for each signal that is blocked; `None`: as in the calling thread.
    death: the parent-death signal; 0: none.
    """

    __slots__ = ()

    def __new__(cls, mask: int | None = None, death: int = 0) -> Self:
        return super().__new__(cls, (mask, death))


class Patience:
    """The core gives up when the deadline has passed, or when `cancelled`, a descriptor, is
    readable; it then kills and reaps the child and raises `_core.GaveUp`.

    Python's signal handlers run meanwhile whatever the patience is: an exception in one
    of them has the same effect, and propagates.
    """

    __slots__ = ("cancelled", "deadline")

    def __init__(self, deadline: int = 0, cancelled: int = -1) -> None:
        self.deadline = deadline
        """Of `time.monotonic_ns()`; 0: none."""
        self.cancelled = cancelled

    @classmethod
    def of(cls, timeout: float | None) -> Patience:
        """Of so many seconds from now."""
        return FOREVER if timeout is None else cls(max(1, time.monotonic_ns() + int(timeout * _NANOSECONDS)))

    def left(self) -> float | None:
        """Seconds, not below 0; `None`: no deadline."""
        return max(0, self.deadline - time.monotonic_ns()) / _NANOSECONDS if self.deadline else None

    def milliseconds(self) -> int:
        """For `_core.poll`: -1 without a deadline; 0 when it has passed, and not before."""
        left = self.left()
        return -1 if left is None else min(math.ceil(left * 1000), _LONGEST_POLL)


FOREVER = Patience()

GaveUp = _core.GaveUp
"""`(step, errno, None)`: `ETIMEDOUT` or `ECANCELED`, and what was waited for."""


def start(
    program: Program | None,
    *,
    namespaces: Namespaces = Namespaces(),  # noqa: B008, a tuple
    maps: MapTexts = MapTexts(),  # noqa: B008
    files: Files = Files(),  # noqa: B008
    attributes: Attributes = Attributes(),  # noqa: B008
    privileges: Privileges = Privileges(),  # noqa: B008
    signals: Signals = Signals(),  # noqa: B008
    patience: Patience = FOREVER,
    cgroup: int = -1,
    hook: Callable[[_core.Child], object] | None = None,
    filenames: Mapping[str, object] | None = None,
) -> _core.Child:
    """Start a program; `None`: a holder, which runs none.

    Args:
        cgroup: a descriptor of the directory of a cgroup to start in.
        hook: called with the child while it exists, is mapped, and has not gone on. An exception
            in it ends the child.
        filenames: by step, the file to name in an error.
    """
    limits = patience.deadline, patience.cancelled
    try:
        return _core.spawn(namespaces, maps, program, files, attributes, privileges, signals, limits, cgroup, hook)
    except _core.Failure as failure:
        raise failed(failure, filenames, cgroup) from None
    except _core.GaveUp as gave_up:
        found = None if cgroup < 0 else frozen_cause(cgroup)
        if found is not None:
            gave_up.add_note(found[1])
        raise
