"""Whether this process runs in a chroot, if the files of `/proc` do not show it."""

from __future__ import annotations

import os

from .._mounts.table import MountId
from .._processes.process import UsernsProcess


def is_in_chroot() -> bool | None:
    """`setns(2)` takes a process that enters a mount namespace to the root of that namespace, also if it was in the
    namespace before. A child does so, and its root is compared. `None`: it may not, or cannot be created."""
    try:
        with UsernsProcess(join=["/proc/self/ns/user", "/proc/self/ns/mnt"]) as holder:
            return _directory("/") != _directory(f"/proc/{holder.pid}/root")
    except OSError:
        return None


def _directory(path: str) -> tuple[int, int, int]:
    """A bind mount of the root directory is the same directory on another mount."""
    status = os.stat(path)
    return MountId.at(path, follow=True).number, status.st_dev, status.st_ino
