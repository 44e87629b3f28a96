"""A cgroup (version 2) as a descriptor of its directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from errno import EINVAL, ENODEV, ENOTDIR
from operator import index

from .. import _core
from .._causes import at_step, userns_error
from .._spawn import NO_CGROUP
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

CgroupLike: TypeAlias = "int | str | bytes | os.PathLike[str]"
"""A descriptor of the directory, which stays the caller's, or its path."""


_CGROUP_SUPER_MAGIC = 0x27E0EB
_CGROUP2_SUPER_MAGIC = 0x63677270
_OPENING = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW


@contextmanager
def open_cgroup(cgroup: CgroupLike | None) -> Generator[tuple[int, object]]:
    """A descriptor that is valid in the block, and the path if there is one.

    Opened with `O_PATH`, so that nothing is opened but a directory, and looked at
    before anything in it is: only in a cgroup2 file system is `cgroup.procs` the kernel's.

    Raises:
        UsernsError: the directory cannot be opened, or is not that of a cgroup (step `cgroup`).
    """
    if cgroup is None:
        yield NO_CGROUP
    elif not isinstance(cgroup, (str, bytes, os.PathLike)):
        fd = index(cgroup)
        _refuse_other_directory(fd, None)
        yield fd, None
    else:
        path = os.fspath(cgroup)
        try:
            owned = _core.open(path, _OPENING)
        except NotADirectoryError:
            raise _not_cgroup2(ENOTDIR, path, "It is not a directory. A symbolic link is not followed.") from None
        except OSError as error:
            raise userns_error("cgroup", error.errno or 0, path) from None
        with owned as fd:
            _refuse_other_directory(fd, path)
            yield fd, cgroup


def _refuse_other_directory(fd: int, path: str | bytes | None) -> None:
    """Refuse it as the kernel would, before there is a child. The kernel reports other faults."""
    with at_step("cgroup", path):
        file_system = _core.file_system_type(fd)
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    if file_system == _CGROUP_SUPER_MAGIC:
        raise _not_cgroup2(EINVAL, path, "It is in a hierarchy of cgroup version 1.")
    if file_system != _CGROUP2_SUPER_MAGIC:
        raise _not_cgroup2(EINVAL, path, "It is not in a cgroup2 file system.")
    if not is_directory:
        raise _not_cgroup2(ENOTDIR, path, "It is not a directory.")
    try:
        os.stat("cgroup.procs", dir_fd=fd)
    except FileNotFoundError:  # each cgroup has this file until it is removed
        raise userns_error("cgroup", ENODEV, path) from None
    except OSError:
        pass


def _not_cgroup2(errno: int, path: str | bytes | None, why: str) -> OSError:
    note = f"{why} Use the directory of a cgroup of version 2: 'findmnt --types cgroup2' shows where they are."
    return userns_error("cgroup", errno, path, cause="not-cgroup2", note=note)
