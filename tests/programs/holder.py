"""A holder whose creator is killed."""

from __future__ import annotations

import errno
import os
import select
import signal
from typing import Any

import native

from usernsproc import UsernsProcess, _system_calls

PR_SET_NAME = 15


def created_by_one_that_is_killed(**options: Any) -> int:
    """Return a pidfd of the holder."""
    reader, writer = os.pipe()
    creator = os.fork()
    if creator == 0:
        holder = UsernsProcess(uid_map="root", **options)
        os.write(writer, b"%d\n" % holder.pid)
        signal.pause()
    pidfd = os.pidfd_open(int(os.read(reader, 100)))
    os.kill(creator, signal.SIGKILL)
    os.waitpid(creator, 0)
    os.close(reader)
    os.close(writer)
    return pidfd


def it_ends_with_the_creating_process() -> None:
    pidfd = created_by_one_that_is_killed()
    assert select.select([pidfd], [], [], 60)[0], "it lives on"
    pidfd = created_by_one_that_is_killed(pdeathsig=None)
    assert not select.select([pidfd], [], [], 0.2)[0], "it is gone"
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def it_starts_where_names_are_refused() -> None:
    native.refuse_argument(_system_calls.NR["prctl"], 0, PR_SET_NAME, errno.EPERM)
    with UsernsProcess(uid_map="root") as holder:
        with open(f"/proc/{holder.pid}/comm") as comm:
            assert comm.read() != "usernsproc-hold\n"
        assert holder.poll() is None
