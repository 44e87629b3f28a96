"""The programs of `test_forks_beside_the_end.py`."""

from __future__ import annotations

import os
import warnings

from programs.forks_beside_threads import exit_status_of_copy

from usernsproc import UsernsProcess


def poll_in_a_copy() -> None:
    warnings.simplefilter("error")  # also that of a status that is lost
    process = UsernsProcess(["/bin/sh", "-c", "exit 7"], uid_map="root")
    os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOWAIT)

    def poll() -> None:
        assert process.poll() is None
        assert process.returncode is None

    assert exit_status_of_copy(poll) == 0
    assert process.wait() == 7
    process.close()
