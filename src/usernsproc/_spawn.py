"""What the core gets to start a program: everything converted, nothing left to decide.

Each value is a tuple, whose fields `_core.spawn` knows by their place; -1 stands for "leave as it is"
where a number is optional.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from errno import ENOSYS
from signal import SIGKILL

from . import _core
from ._causes import CAUSES, userns_error
from ._cgroups import frozen_cause
from ._evidence import explained, failed
from ._setup.calls import Origin, Setup
from ._setup.causes import EXEC_CAUSES, OF_CALLS, OF_STEPS
from ._typing import TYPE_CHECKING
from ._uapi import CLONE_NEWUSER

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

    from ._errors import UsernsError

_NANOSECONDS = 1_000_000_000
_LONGEST_POLL = 86_400_000  # milliseconds


class Namespaces(tuple[int, tuple[int, ...], int, bool]):
    """Those to enter, then those to create.

    Args:
        flags: `CLONE_NEW…`, to create.
        joins: to enter: descriptor, `CLONE_NEW…`, and so on. None of the descriptors is 0, 1 or 2.
        owner: the user ID, outside, that owns a new user namespace.
        init: the program runs below an init.
    """

    __slots__ = ()

    def __new__(
        cls,
        flags: int = CLONE_NEWUSER,
        joins: tuple[int, ...] = (),
        owner: int = -1,
        init: bool = False,
    ) -> Self:
        return super().__new__(cls, (flags, joins, owner, init))


class Program(tuple["Sequence[Any]", "Sequence[Any]", "tuple[bytes, ...] | None", bool, object]):
    """What is executed: the first of the candidates that exists.

    Args:
        argv: as in `Popen`: strings, bytes and paths.
        candidates: paths, in the same types.
        envp: `None`: the environment as it is at the moment of the call.
        restore_signals: that Python ignores.
        filename: for messages.
    """

    __slots__ = ()

    def __new__(
        cls,
        argv: Sequence[Any],
        candidates: Sequence[Any],
        envp: tuple[bytes, ...] | None = (),
        restore_signals: bool = True,
        filename: object = None,
    ) -> Self:
        return super().__new__(cls, (argv, candidates, envp, restore_signals, filename))


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


class Signals(tuple["int | None", int, bool]):
    """What the program gets of signals, and the caller of its end.

    Args:
        mask: a bit for each signal that is blocked; `None`: as in the calling thread.
        death: sent to it when the calling program ends; 0: none.
        hidden: the caller gets no SIGCHLD, and its `waitpid(-1)` does not find the child. That ends with its object.
    """

    __slots__ = ()

    def __new__(cls, mask: int | None = None, death: int = 0, hidden: bool = False) -> Self:
        return super().__new__(cls, (mask, death, hidden))


HIDDEN = Signals(None, SIGKILL, hidden=True)
"""For a helper program of a call."""
NO_CGROUP = -1, None


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
        if timeout is None:
            return FOREVER
        if not hasattr(timeout, "__float__"):  # a string can be multiplied as well
            raise TypeError(f"timeout is a number of seconds or None, not {timeout!r}")
        return cls(max(1, time.monotonic_ns() + int(timeout * _NANOSECONDS)))

    def left(self) -> float | None:
        """Seconds, not below 0; `None`: no deadline."""
        return max(0, self.deadline - time.monotonic_ns()) / _NANOSECONDS if self.deadline else None

    def milliseconds(self) -> int:
        """For `_system_calls.poll`: -1 without a deadline; 0 when it has passed, and not before."""
        left = self.left()
        return -1 if left is None else min(math.ceil(left * 1000), _LONGEST_POLL)


FOREVER = Patience()

GaveUp = _core.GaveUp
"""`(step, errno, None)`: `ETIMEDOUT` or `ECANCELED`, and what was waited for."""


def start(
    program: Program | None,
    namespaces: Namespaces = Namespaces(),  # noqa: B008, a tuple
    maps: tuple[str | None, str | None, str | None] = (None, None, None),
    files: Files = Files(),  # noqa: B008
    setup: Setup = Setup(),  # noqa: B008
    signals: Signals = Signals(),  # noqa: B008
    patience: Patience = FOREVER,
    cgroup: tuple[int, object] = NO_CGROUP,
    hook: Callable[[_core.Child], object] | None = None,
) -> _core.Child:
    """Start a program; `None`: a holder, which runs none.

    Args:
        maps: texts of `setgroups`, `uid_map` and `gid_map`; `None`: left unwritten.
        cgroup: a descriptor of the directory to start in, and its path for messages.
        hook: called with the child while it exists, is mapped, and has not continued. An exception
            in it ends the child.
    """
    limits = patience.deadline, patience.cancelled
    try:
        return _core.spawn(namespaces, maps, program, files, setup, signals, limits, cgroup, hook)
    except _core.Failure as failure:
        raise error_of_start(failure, program, setup, cgroup) from None
    except _core.GaveUp as gave_up:
        found = None if cgroup[0] < 0 else frozen_cause(cgroup[0])
        if found is not None:
            gave_up.add_note(found[1])
        raise


def setup_error(origin: Origin, errno: int) -> UsernsError:
    """For the step of the list whose call has failed."""
    step, call = type(origin.step).__name__, origin.call
    found = explained(step, errno, call) if errno == ENOSYS else None
    found = found or OF_STEPS.get((step, errno)) or CAUSES.get((step, errno)) or OF_CALLS.get((call, errno))
    cause, note = found or (None, None)
    return of_setup_step(userns_error(step, errno, origin.path, cause=cause, note=note), origin)


def of_setup_step(error: UsernsError, origin: Origin) -> UsernsError:
    """The error, with the step of the list whose call has failed."""
    error.setup_index, error.setup_step, error.call = origin.index, repr(origin.step), origin.call
    return error


def error_of_start(
    failure: _core.Failure, program: Program | None, setup: Setup, cgroup: tuple[int, object]
) -> UsernsError:
    fd, path = cgroup
    filenames = {"cgroup": path, "exec": None if program is None else program[-1]}
    step, *others = failure.args
    errno = failure.args[1]
    if isinstance(step, int):
        call = setup[-1][step]
        step, filenames[call.step] = call.step, call.filename
        if isinstance(call.filename, Origin):
            if others[1] is not None:  # it was killed
                return of_setup_step(
                    failed(_core.Failure(step, *others), {step: call.filename.path}, fd), call.filename
                )
            return setup_error(call.filename, errno)
    if step == "exec":
        for call in setup[-1]:
            if (call.step, errno) in EXEC_CAUSES:
                cause, note = EXEC_CAUSES[call.step, errno]
                return userns_error(step, errno, filenames[step], cause=cause, note=note)
    return failed(_core.Failure(step, *others), filenames, fd)
