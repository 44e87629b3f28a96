"""The mounts of the calling thread's mount namespace, and how one is known again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from errno import ENOENT, ENOSYS, EPERM
from typing import NamedTuple

from .. import _core
from .._proc import MountEntry, read_mounts
from .._typing import TYPE_CHECKING
from .._uapi import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_STATX_DONT_SYNC,
    STATMOUNT_MNT_BASIC,
    STATX_MNT_ID,
    STATX_MNT_ID_UNIQUE,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class MountId(NamedTuple):
    """Which mount. Its number goes to another mount once it is gone, the unique one never."""

    number: int
    """As in `/proc/PID/mountinfo`."""

    unique: int
    """Linux 6.8; 0: not known."""

    @classmethod
    def of_fd(cls, fd: int) -> Self:
        flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC
        return cls(*(_core.mount_id(fd, b"", flags, mask) for mask in (STATX_MNT_ID, STATX_MNT_ID_UNIQUE)))

    @classmethod
    def at(cls, path: str | bytes, *, dir_fd: int = AT_FDCWD, follow: bool = False) -> Self:
        """Of the topmost mount at a path.

        Opened first: the kernel answers one number at a time, and the path may lead elsewhere in between.
        """
        with _core.open(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW), 0, dir_fd) as fd:
            return cls.of_fd(fd)

    @classmethod
    def of(cls, entry: MountEntry) -> Self:
        """With the unique number, unless another mount covers it."""
        try:
            top = cls.at(entry.point)
        except OSError:
            return cls(entry.number, 0)
        return top if top.number == entry.number else cls(entry.number, 0)

    def is_same(self, other: MountId) -> bool:
        return self.number == other.number and (not self.unique or not other.unique or self.unique == other.unique)


def find_mount(mounts: Iterable[MountEntry], number: int) -> MountEntry | None:
    return next((entry for entry in mounts if entry.number == number), None)


def mounts_below(mounts: Iterable[MountEntry], number: int) -> list[MountEntry]:
    """All below a mount, each after the one that it is mounted on."""
    children: dict[int, list[MountEntry]] = {}
    for entry in mounts:
        children.setdefault(entry.parent, []).append(entry)
    found = [entry for entry in children.get(number, ()) if entry.number != number]
    for entry in found:  # grows while it is walked through
        found.extend(children.get(entry.number, ()))
    return found


def is_mounted(mount: MountId) -> bool:
    """Whether it is in the calling thread's mount namespace."""
    errno = _statmount(mount)
    if errno == 0 or errno == ENOENT:
        return errno == 0
    if errno == EPERM and _statmount(MountId.at("/")) == 0:
        return True  # out of reach; it is not the call as such that is refused
    entry = find_mount(read_mounts(), mount.number)
    return entry is not None and mount.is_same(MountId.of(entry))


def _statmount(mount: MountId) -> int:
    """The errno, or 0: it is there."""
    if not mount.unique:
        return ENOSYS
    try:
        _core.statmount(mount.unique, STATMOUNT_MNT_BASIC, 0, 0, 0)
    except OSError as error:
        return error.errno or 0
    return 0
