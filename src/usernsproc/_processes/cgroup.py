"""A cgroup (version 2) as a descriptor of its directory."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from errno import ENODEV, ENOENT
from operator import index

from .._errors import userns_error

TYPE_CHECKING = False  # typing takes longer to load than this package
if TYPE_CHECKING:
    from typing_extensions import TypeAlias

CgroupLike: TypeAlias = "int | str | bytes | os.PathLike[str]"
"""A descriptor of the directory, which stays the caller's, or its path."""


@contextmanager
def opened_cgroup(cgroup: CgroupLike | None) -> Generator[int]:
    """A descriptor, valid in the block; -1 for `None`.

    Raises:
        UsernsError: the directory cannot be opened, or is not that of a cgroup (step `cgroup`).
    """
    if cgroup is None:
        yield -1
    elif not isinstance(cgroup, (str, bytes, os.PathLike)):
        fd = index(cgroup)
        _refuse_other_directory(fd)
        yield fd
    else:
        try:
            fd = os.open(cgroup, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise userns_error("cgroup", error.errno or 0, os.fspath(cgroup)) from None
        try:
            _refuse_other_directory(fd, os.fspath(cgroup))
            yield fd
        finally:
            os.close(fd)


def _refuse_other_directory(fd: int, path: str | bytes | None = None) -> None:
    """Refuse it as the kernel would, before there is a child. The kernel reports other faults."""
    try:
        os.stat("cgroup.procs", dir_fd=fd)
    except FileNotFoundError:
        raise userns_error("cgroup", ENODEV if _is_removed(fd) else ENOENT, path) from None
    except OSError:
        pass


def _is_removed(fd: int) -> bool:
    """Whether the directory was removed after it was opened."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}").endswith(" (deleted)")
    except OSError:
        return False
