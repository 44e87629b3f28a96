"""Commands and holders in cgroups that do not accept a process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import native
from causes import warm_up
from entering import enter_own_mounts
from errors import error_of

from usernsproc import UsernsError, UsernsProcess

NR_CLONE3 = 435


def fill(cgroup: str, room: int) -> None:
    """Start a command in a cgroup that has room for this process and *room* others."""
    warm_up()
    folder = Path(cgroup)
    (folder / "cgroup.procs").write_text("0")
    (folder / "pids.max").write_text(str(1 + room))
    try:
        UsernsProcess(["/bin/true"], uid_map="root", namespaces=["pid"], init=True).wait()
    except UsernsError as error:
        is_named = f"cgroup {cgroup} is reached" in error.__notes__[0]
        print(error.step, error.errno == errno.EAGAIN, error.cause, is_named)


def fail_in(cgroup: str, text: str) -> None:
    for options in (
        {"args": ["/bin/true"], "uid_map": "root"},
        {"args": ["/bin/true"], "uid_map": "0:100000:65536"},
        {"uid_map": "root"},
    ):
        error = error_of(UsernsProcess, cgroup=cgroup, **options)
        assert str(error) == text, error
        assert error.__notes__


def fail_in_removed(cgroup: str) -> None:
    fd = os.open(cgroup, os.O_PATH | os.O_DIRECTORY)
    os.rmdir(cgroup)
    error = error_of(UsernsProcess, ["/bin/true"], uid_map="root", cgroup=fd)
    assert str(error) == "cgroup: No such device [ENODEV, cgroup-removed]", error


def fail_in_read_only(cgroup: str) -> None:
    enter_own_mounts()
    path = cgroup.encode()
    native.must(native.libc.mount(path, path, None, native.MS_BIND, None))
    native.must(native.libc.mount(None, path, None, native.MS_BIND | native.MS_REMOUNT | native.MS_RDONLY, None))
    native.refuse_system_call(NR_CLONE3, errno.ENOSYS)
    error = error_of(UsernsProcess, ["/bin/true"], uid_map="root", cgroup=cgroup)
    assert str(error) == f"cgroup: Read-only file system: '{cgroup}' [EROFS, cgroup-read-only]", error
    native.must(native.libc.umount2(path, native.MNT_DETACH))
