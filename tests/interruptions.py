"""Exceptions of signal handlers, at each point where Python can run one.

That is at the start of each function, and after each call of a function that is written
in C, before its result is stored: the events of a profile function.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from errno import EPERM
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import usernsproc

PACKAGE = str(Path(usernsproc.__file__).parent)


class Interruption(BaseException):
    pass


class TimeIsUp(TimeoutError):
    """As a handler of SIGALRM may raise it: an `OSError` that does not come from a system call."""


class Refused(PermissionError):
    """Of a system call in a signal handler. The interrupted call did not fail."""

    def __init__(self) -> None:
        super().__init__(EPERM, os.strerror(EPERM))


def interruptions(
    call: Callable[[], Any], undo: Callable[[Any], object], kind: type[BaseException] = Interruption
) -> Iterator[tuple[str, BaseException]]:
    """Call it repeatedly, interrupted one point later each time, and yield the point. The last call is not
    interrupted, and is undone, also if Python ignored the exception, in a `__del__`."""
    for number in count(1):
        points, where = 0, ""

        def at_a_point(frame: FrameType, event: str, function: Any) -> None:
            nonlocal points, where
            if event in ("call", "c_return") and frame.f_code.co_filename.startswith(PACKAGE):
                points += 1
                if points == number:  # noqa: B023
                    after = f" after {function.__name__}" if event == "c_return" else ""
                    where = f"{os.path.basename(frame.f_code.co_filename)} {frame.f_code.co_name}{after}"
                    raise kind

        sys.setprofile(at_a_point)
        try:
            result = call()
        except (kind, OSError) as error:  # one may have become another
            sys.setprofile(None)
            found = error.with_traceback(None)
            del error
            gc.collect()
            yield where, found
        else:
            sys.setprofile(None)
            undo(result)
            if points < number:
                return
