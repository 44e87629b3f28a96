"""What the launcher that replaces this program may have to say: all messages are made before."""

from __future__ import annotations

import os
from collections import defaultdict
from errno import ENOENT, errorcode

from .. import _core
from .._causes import CAUSES, userns_error
from .._errors import NAMES
from .._setup.calls import Origin
from .._setup.causes import EXEC_CAUSES, OF_CALLS, OF_STEPS
from .._spawn import of_setup_step
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .._errors import UsernsError
    from .._setup.calls import Setup, SystemCall
    from .._spawn import Program

    Causes = dict[int, tuple[str, str]]

_UNKNOWN = 10_000
"""No errno."""


def _by_name(table: dict[tuple[str, int], tuple[str, str]]) -> dict[str, Causes]:
    found: dict[str, Causes] = defaultdict(dict)
    for (name, errno), cause in table.items():
        found[name][errno] = cause
    return found


_OF_ALL, _OF_STEPS, _OF_CALLS, _OF_EXEC = map(_by_name, (CAUSES, OF_STEPS, OF_CALLS, EXEC_CAUSES))
_NONE: Causes = {}


def messages(program: Program, setup: Setup, cgroup: tuple[int, object], words: Sequence[str] = ()) -> bytes:
    """In the form of become.h of the core. The text of an error is that of the exception, and its note is a second
    line, if the cause follows from the step and the errno alone.

    Args:
        words: for each step of the list, what else names it.
    """
    filenames = {"cgroup": cgroup[1], "exec": program[-1]}
    texts: list[str] = []
    causes: list[str] = []
    for place, (error, of_errnos) in enumerate([*_of_steps(setup, filenames), *map(_of_call, setup[-1])]):
        index = error.setup_index
        option = f"The option is {words[index]!r}." if index is not None and index < len(words) and words[index] else ""
        texts += [*_around(error), _line(option)]
        for errno, (cause, note) in of_errnos.items():
            causes += [f"{place}", f"{errno}", f"{NAMES[errno]}, {cause}", _line(f"{note} {option}".rstrip())]
    for number in range(1, max(errorcode) + 1):
        texts += [os.strerror(number), NAMES.get(number, str(number))]
    return "\0".join([*texts, os.strerror(_UNKNOWN), "?", "", *causes, ""]).encode(errors="backslashreplace")


def _of_steps(setup: Setup, filenames: dict[str, object]) -> Iterator[tuple[UsernsError, Causes]]:
    for step in _core.STEPS.split():
        causes = _OF_ALL.get(step, _NONE)
        if step == "exec":
            for call in setup[-1]:
                causes = {**causes, **_OF_EXEC.get(call.step, _NONE)}
        yield userns_error(step, ENOENT, filenames.get(step)), causes


def _of_call(call: SystemCall) -> tuple[UsernsError, Causes]:
    origin = call.filename
    if not isinstance(origin, Origin):
        return userns_error(call.step, ENOENT, origin), _OF_ALL.get(call.step, _NONE)
    causes = {**_OF_CALLS.get(origin.call, _NONE), **_OF_ALL.get(call.step, _NONE), **_OF_STEPS.get(call.step, _NONE)}
    return of_setup_step(userns_error(call.step, ENOENT, origin.path), origin), causes


def _around(error: UsernsError) -> tuple[str, str]:
    """What precedes the text of the errno, and what follows it up to its name."""
    error.cause = None
    before, _, after = str(error).partition(os.strerror(ENOENT))
    return f"usernsproc: {before}", after.removesuffix(f"{errorcode[ENOENT]}]")


def _line(text: str) -> str:
    return "\nusernsproc: " + " ".join(text.splitlines()) if text else ""
