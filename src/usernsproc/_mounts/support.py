"""Whether what is at a path can be mounted idmapped."""

from __future__ import annotations

import os
from errno import EINVAL, ENOSYS, EPERM
from typing import NamedTuple

from .._errors import UsernsError, userns_error
from .._namespaces.new import create_userns
from .idmapped import open_idmapped
from .table import MountId, find_mount, read_mounts
from .userns_like import Path

__all__ = ["IdmapSupport", "supports_idmap"]


class IdmapSupport(NamedTuple):
    """An answer: true or false, and what it rests on."""

    supported: bool
    """The answer."""
    file_system: str
    """The type, as in `/proc/filesystems`."""
    cause: str | None
    """If not, why: as `UsernsError.cause`."""
    reason: str | None
    """The same in a sentence."""

    def __bool__(self) -> bool:
        return self.supported


def supports_idmap(path: Path) -> IdmapSupport:
    """Whether the calling process can mount what is at *path* idmapped.

    It is found out by doing it, to a detached copy of the mount, which nobody
    else sees, and which is gone when the function returns. A version of the kernel,
    or the name of a file system, would tell less: it may be the file system, the
    kernel, the server of a FUSE mount, or missing rights that forbid it; `cause` is
    which.

    Raises:
        UsernsError: there is no answer, as there is no such path, or no user
            namespace could be made to try it with (see `create_userns`).
    """
    file_system = _file_system_of(path)
    with create_userns("root", "root") as userns:
        try:
            open_idmapped(path, userns).close()
        except UsernsError as error:
            if error.errno not in (EINVAL, ENOSYS, EPERM):
                raise
            reason = next(iter(getattr(error, "__notes__", ())), None)
            return IdmapSupport(False, file_system, error.cause, reason)
    return IdmapSupport(True, file_system, None, None)


def _file_system_of(path: Path) -> str:
    try:
        mount = MountId.at(os.fsdecode(path), follow=True)
    except OSError as error:
        raise userns_error("open_tree", error.errno or 0, os.fspath(path)) from None
    entry = find_mount(read_mounts(), mount.number)
    return "unknown" if entry is None else entry.fs_type
