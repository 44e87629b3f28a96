"""How long the creation of a process may take, and what else ends it."""

from __future__ import annotations

import math
import time

from .. import _core

_NANOSECONDS = 1_000_000_000
_LONGEST_POLL = 86_400_000  # milliseconds


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
