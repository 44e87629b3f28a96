"""Programs that fork while they have a child of the core."""

from __future__ import annotations

import os
import signal

from usernsproc._setup.calls import SETUP_OF_HOLDER
from usernsproc._spawn import Signals, start


def drop_in_a_forked_copy() -> None:
    """The copy closes its descriptor, and the child continues."""
    child = start(None, setup=SETUP_OF_HOLDER, signals=Signals(None, signal.SIGKILL))
    if os.fork() == 0:
        pidfd = child.pidfd
        del child
        try:
            os.fstat(pidfd)
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    with child:
        assert os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
