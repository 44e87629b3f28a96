"""The programs of `test_killed_caller.py`."""

from __future__ import annotations

import os
import select
import signal

import native
from stepping import WALL, Stepped, sleeps, wait_until

from usernsproc import create_userns

PR_SET_CHILD_SUBREAPER = 36
ENDS_WITHIN = 20


def kill_the_caller(when: str) -> None:
    native.prctl(PR_SET_CHILD_SUBREAPER, 1)  # the orphan comes here
    with Stepped(lambda: None, lambda _: create_userns("root", "root")) as caller:
        child = caller.step_until_it_has_a_child()
        pidfd = os.pidfd_open(child)
        if when == "asleep":
            wait_until(lambda: sleeps(child))
        os.kill(caller.pid, signal.SIGKILL)
        try:
            assert select.select([pidfd], [], [], ENDS_WITHIN)[0], "it has not ended"
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
    os.waitpid(child, WALL)
