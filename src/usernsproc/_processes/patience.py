"""How long the creation of a process may take, and what else ends it."""

from __future__ import annotations

import time

from .. import _core

_NANOSECONDS = 1_000_000_000


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


FOREVER = Patience()

GaveUp = _core.GaveUp
"""`(step, errno, None)`: `ETIMEDOUT` or `ECANCELED`, and what was waited for."""
