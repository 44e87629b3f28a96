"""`cgroup=` with a FIFO and with a cgroup of version 1. Both must be refused."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import native
from entering import enter_own_mounts
from errors import error_of

from usernsproc import UsernsError, run


def refusal(cgroup: str) -> UsernsError:
    return error_of(run, ["true"], uid_map="root", cgroup=cgroup)


def a_fifo(folder: str, where: str) -> None:
    cgroup = Path(folder, "held" if where == "cgroup.procs" else "fifo")
    if where == "cgroup.procs":
        cgroup.mkdir()
        os.mkfifo(cgroup / "cgroup.procs")
    else:
        os.mkfifo(cgroup)
    error = refusal(str(cgroup))
    assert (error.step, error.cause) == ("cgroup", "not-cgroup2")


def a_cgroup_of_version_1() -> None:
    enter_own_mounts()
    with tempfile.TemporaryDirectory() as folder:
        options = b"none,name=usernsproc-test"
        native.must(native.libc.mount(b"cgroup", folder.encode(), b"cgroup", 0, options))
        try:
            error = refusal(folder)
            assert (error.errno, error.step, error.cause) == (22, "cgroup", "not-cgroup2")
            assert "version 1" in error.__notes__[0]
        finally:
            native.must(native.libc.umount2(folder.encode(), 0))
