"""The programs of `test_interrupted_start.py`."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from types import FrameType
from typing import Any

from commands import SLEEP
from interruptions import PACKAGE, Interruption
from leaks import children, state

from usernsproc import UsernsProcess

OTHERS = 8
"""Files that are opened at that moment. They get the numbers that are free."""


class Other:
    """Descriptors of another part of the program."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def open(self) -> None:
        self.fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(OTHERS)]

    def close(self) -> None:
        """Close them. Raises `OSError` if one is closed already."""
        for fd in self.fds:
            os.close(fd)


def interrupted(call: Callable[[], Any]) -> Iterator[tuple[str, BaseException, Other]]:
    """Call it repeatedly, interrupted one line later each time, and yield the line. Return after a call that is not."""
    for number in count(1):
        lines, where, other = 0, "", Other()

        def before_a_line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal lines, where
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            if event == "line" and not where and (lines or children()):
                lines += 1
                if lines == number:  # noqa: B023
                    where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                    other.open()  # noqa: B023
                    raise Interruption
            return before_a_line

        sys.settrace(before_a_line)
        try:
            result = call()
        except BaseException as error:
            sys.settrace(None)
            found = error.with_traceback(None)
            del error
            gc.collect()
            yield where, found, other
        else:
            sys.settrace(None)
            result.close()
            if not where:
                return


STARTS: dict[str, Callable[[], UsernsProcess[bytes]]] = {
    "command": lambda: UsernsProcess(SLEEP, uid_map="root"),
    "holder": lambda: UsernsProcess(uid_map="root"),
    "on_created": lambda: UsernsProcess(SLEEP, uid_map="root", on_created=lambda _: None),
}


def end_what_popen_keeps() -> None:
    """A process whose object was created, and then dropped."""
    active: list[Any] = subprocess._active  # type: ignore[attr-defined]
    while active:
        process = active.pop()
        process.kill()
        process.wait()
        process.close()


def interrupt_before_each_line(name: str) -> None:
    warnings.simplefilter("ignore", ResourceWarning)  # of an object that was dropped
    STARTS[name]().close()  # what the package keeps is open now
    before, points, found = state(), 0, []
    for where, error, other in interrupted(STARTS[name]):
        points += 1
        end_what_popen_keeps()
        if not isinstance(error, Interruption):
            found.append(f"{where}: {error!r}")
        try:
            other.close()
        except OSError:
            found.append(f"{where}: a descriptor of another part of the program was closed")
        if state() != before:
            found.append(f"{where}: something is left: {state()}")
            break
    assert not found, "\n".join(found)
    assert points > 3, points
