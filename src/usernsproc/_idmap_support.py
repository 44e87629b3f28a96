"""Whether what is at a path can be mounted idmapped."""

from __future__ import annotations

import os
from errno import EINVAL, ENOSYS, EPERM
from typing import NamedTuple

from . import _core
from ._idmapped_copy import AS_IT_IS, idmapped_copy, open_path
from ._mount_causes import Request, file_system_of, refusal
from ._namespace import create_userns
from ._userns_like import Path

__all__ = ["IdmapSupport", "supports_idmap"]


class IdmapSupport(NamedTuple):
    """An answer: true or false, and what it rests on."""

    supported: bool
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
    path_fd = open_path("open_tree", path)
    try:
        file_system = file_system_of(path_fd)
        with create_userns("root", "root") as userns:
            try:
                os.close(idmapped_copy(path_fd, userns.fileno(), recursive=False))
            except _core.Failure as failure:
                error = refusal(failure, Request(path, path_fd, userns.fileno(), False, AS_IT_IS))
                if error.errno not in (EINVAL, ENOSYS, EPERM):
                    raise error from None
                reason = next(iter(getattr(error, "__notes__", ())), None)
                return IdmapSupport(False, file_system, error.cause, reason)
        return IdmapSupport(True, file_system, None, None)
    finally:
        os.close(path_fd)
