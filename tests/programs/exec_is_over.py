"""The programs of `test_exec_is_over.py`."""

from __future__ import annotations

import os
import resource

from commands import SLEEP

from usernsproc import UsernsProcess

DESCRIPTORS = 20_000
"""Closed by the exec, when it has left the caller's memory and before the process has its new name."""
TRIES = 10


def look_at_the_name() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    fd = os.open("/dev/null", os.O_RDONLY)
    for _ in range(min(DESCRIPTORS, most - 100)):
        os.dup(fd)
    names = [name_of_command() for _ in range(TRIES)]
    assert names.count("sleep\n") > TRIES / 2, names  # a child that gets no processor is not waited for


def name_of_command() -> str:
    with UsernsProcess(SLEEP, uid_map="root", close_fds=False) as process:
        with open(f"/proc/{process.pid}/comm") as file:
            name = file.read()
        process.kill()
    return name
