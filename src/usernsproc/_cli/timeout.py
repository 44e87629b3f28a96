"""`--timeout`, where this program waits for the command: how long that may run, as with timeout(1)."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial

from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .._processes.process import UsernsProcess

TIMED_OUT = 124
KILLED = 128 + signal.SIGKILL


class Timeout:
    """Sends `SIGTERM` after *seconds*, and `SIGKILL` *kill_after* seconds later; 0: never."""

    def __init__(self, seconds: float, kill_after: float) -> None:
        self._seconds = seconds
        self._kill_after = kill_after
        self._has_passed = False

    def watch(self, process: UsernsProcess[Any]) -> None:
        """Count from now on, in a thread that does not keep the program."""
        if not self._seconds:
            return
        # Its own pidfd, open until the program ends: send_signal() would poll the process, and poll() of
        # the main thread would meanwhile report that it still runs.
        self._pidfd = os.dup(process.pidfd)
        self._after(self._seconds, self._terminate)

    def status(self, status: int) -> int:
        """The exit status, from that of the command."""
        return status if not self._has_passed or status == KILLED else TIMED_OUT

    def _after(self, seconds: float, function: Callable[[], object]) -> None:
        timer = threading.Timer(seconds, function)
        timer.daemon = True
        timer.start()

    def _terminate(self) -> None:
        self._has_passed = self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)  # a stopped command can then end
        if self._kill_after:
            self._after(self._kill_after, partial(self._send, signal.SIGKILL))

    def _send(self, signum: int) -> bool:
        try:
            signal.pidfd_send_signal(self._pidfd, signum)
        except ProcessLookupError:
            return False
        return True
