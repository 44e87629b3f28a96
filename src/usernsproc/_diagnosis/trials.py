"""Runs trials one after the other, with one deadline for all of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import NamedTuple

TOTAL = 1.5
"""Seconds for all trials."""
_PATIENCE = 0.3
"""Seconds after which the next one is started beside one that has not ended."""
_MOMENT = 0.0002


class Outcome(NamedTuple):
    """How a trial ended."""

    has_ended: bool
    error: BaseException | None = None

    @property
    def works(self) -> bool:
        return self.has_ended and self.error is None


class _Trial:
    """A trial in a thread of its own, which can be left behind if a system call does not return: a lookup of a path
    on a server that is down, or of a user in a directory service."""

    def __init__(self, attempt: Callable[[], object]) -> None:
        self._attempt = attempt
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="trial of usernsproc", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # no further thread can be created: the trial shows why
            self._thread = None
            self._run()

    def _run(self) -> None:
        try:
            self._attempt()
        except BaseException as error:
            self._error = error

    def is_leaving(self) -> bool:
        """Whether the kernel still has the thread: it ends a moment after `Thread.join` has returned. The process
        would have several threads then, and could not enter a user namespace. (A greenlet in the place of a thread
        has the number of the calling thread.)"""
        number = None if self._thread is None else self._thread.native_id
        return number not in (None, threading.get_native_id()) and os.path.exists(f"/proc/self/task/{number}")

    def wait(self, seconds: float) -> Outcome:
        if self._thread is not None:
            self._thread.join(min(max(seconds, 0), threading.TIMEOUT_MAX))
            if self._thread.is_alive():
                return Outcome(has_ended=False)
        return Outcome(True, self._error)


class Trials:
    """Trials by name, with one deadline for all.

    They run in sequence, so that none fails because another one uses up a limit. One that does not end within a
    moment keeps running beside the next ones, until the deadline.

    Args:
        timeout: the seconds until then.
    """

    def __init__(self, timeout: float) -> None:
        self._deadline = monotonic() + timeout
        self._trials: dict[str, _Trial] = {}

    def start(self, name: str, attempt: Callable[[], object]) -> None:
        """Start it when the one before has ended, or does not end within a moment."""
        self._trials[name] = _Trial(attempt)
        self._trials[name].wait(min(_PATIENCE, self._left()))

    def outcome(self, name: str) -> Outcome:
        """Wait for it, at most until the deadline."""
        return self._trials[name].wait(self._left())

    def outcome_so_far(self, name: str) -> Outcome:
        return self._trials[name].wait(0)

    def outcomes(self) -> dict[str, Outcome]:
        """All. Afterwards the process has no thread of a trial that has ended."""
        found = {name: self.outcome(name) for name in self._trials}
        for name, outcome in found.items():
            while outcome.has_ended and self._trials[name].is_leaving() and self._left() > 0:
                sleep(_MOMENT)
        return found

    def _left(self) -> float:
        return self._deadline - monotonic()
