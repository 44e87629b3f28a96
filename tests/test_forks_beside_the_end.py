"""A forked copy of a program looks at a process that has ended, and that the program has not reaped yet.

The copy cannot reap it, and its exit status is not lost.
"""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable

import pytest
from alone import run_alone

from usernsproc import UsernsProcess


def exit_status_of_copy(call: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def alone_poll() -> None:
    warnings.simplefilter("error")  # also that of a status that is lost
    process = UsernsProcess(["/bin/sh", "-c", "exit 7"], uid_map="root")
    os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOWAIT)

    def poll() -> None:
        assert process.poll() is None
        assert process.returncode is None

    assert exit_status_of_copy(poll) == 0
    assert process.wait() == 7
    process.close()


@pytest.mark.kernel("6.15")
def test_its_status_is_not_known_yet() -> None:
    run_alone(alone_poll)
