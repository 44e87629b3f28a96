"""The programs of `test_forks_beside_threads.py`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from types import FrameType

from commands import SLEEP
from interruptions import PACKAGE

from usernsproc import TimeoutExpired, UsernsProcess

COPY_ENDS_WITHIN = 20
"""Seconds, or it is killed."""

Process = UsernsProcess[bytes]


class Paused:
    """A thread that calls *work* and is stopped at each point where Python enters or leaves a function."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._is_at_point, self._may_go_on = threading.Semaphore(0), threading.Semaphore(0)
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        sys.setprofile(self._at_point)
        try:
            self._work()
        finally:
            sys.setprofile(None)
            self._has_ended = True
            self._is_at_point.release()

    def _at_point(self, frame: FrameType, *_: object) -> None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            self._is_at_point.release()
            self._may_go_on.acquire()

    def is_at_point(self) -> bool:
        """Return whether it is at the next point; false if it has ended."""
        self._is_at_point.acquire()
        return not self._has_ended

    def go_on(self) -> None:
        self._may_go_on.release()

    def join(self) -> None:
        self._thread.join()


def exit_status_of_copy(call: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(COPY_ENDS_WITHIN)
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_in_vain(process: Process) -> None:
    try:
        process.wait(timeout=0.001)
    except TimeoutExpired:
        pass


WORK: dict[str, Callable[[Process], object]] = {
    "send_signal": lambda process: process.send_signal(signal.SIGCONT),
    "poll": lambda process: process.poll(),
    "wait": wait_in_vain,
}


def fork_at_each_point(name: str) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # about a fork while threads run, which this test is for
    process = UsernsProcess(SLEEP, uid_map="root")
    paused, points = Paused(lambda: WORK[name](process)), 0
    while paused.is_at_point():
        points += 1
        assert exit_status_of_copy(process.close) == 0, points
        paused.go_on()
    paused.join()
    assert points > 5, points
    assert process.poll() is None
    process.close()
