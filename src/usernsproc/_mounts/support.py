"""Whether what is at a path can be mounted idmapped."""

from __future__ import annotations

import os
from errno import EINVAL, ENOSYS, EPERM
from typing import NamedTuple

from .._causes import userns_error
from .._errors import UsernsError
from .._namespaces.new import create_userns
from .._proc import read_mounts
from .._typing import TYPE_CHECKING
from .idmapped import open_idmapped
from .table import MountId, find_mount

if TYPE_CHECKING:
    from .._place import Path

__all__ = ["IdmapSupport", "supports_idmap"]


class IdmapSupport(NamedTuple):
    """An answer, truthy or falsy, with its cause."""

    supported: bool
    """The answer."""
    file_system: str
    """The type, as in `/proc/filesystems`."""
    cause: str | None
    """Why it is not supported: as `UsernsError.cause`."""
    reason: str | None
    """The same in a sentence."""

    def __bool__(self) -> bool:
        return self.supported


def supports_idmap(path: Path) -> IdmapSupport:
    """Whether the calling process can mount what is at *path* idmapped.

    The function tries it on a detached copy of the mount, which no other process sees and
    which is closed when the function returns. The version of the kernel and the type of the
    file system are not enough: the file system, the kernel, the server of a FUSE mount or
    missing privileges can forbid it. `cause` says which.

    Raises:
        UsernsError: there is no answer: the path does not exist, or no user namespace
            could be created to try it with (see `create_userns`).
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
