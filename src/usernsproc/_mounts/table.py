"""The mounts of the calling thread's mount namespace, and how one is known again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from errno import ENOENT, ENOSYS, EPERM
from typing import TYPE_CHECKING, NamedTuple

from .. import _core
from .._errors import at_step
from .._proc import own_namespace_identity, proc_error
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

    from .._core import OwnedFd

TABLE = "thread-self/mountinfo"
"""In `/proc`."""


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

    def is_same(self, other: MountId) -> bool:
        return self.number == other.number and (not self.unique or not other.unique or self.unique == other.unique)


class MountEntry(NamedTuple):
    """A line of the table (`proc_pid_mountinfo(5)`)."""

    number: int
    parent: int
    point: str
    options: frozenset[str]
    propagation: frozenset[str]
    """`shared:N`, `master:N`, `unbindable`; a private mount has none."""
    fs_type: str

    @classmethod
    def parse(cls, line: bytes) -> Self:
        number, parent, _device, _root, point, options, *rest = line.split(b" ")
        end = rest.index(b"-")
        return cls(
            int(number),
            int(parent),
            os.fsdecode(_unescaped(point)),
            frozenset(options.decode().split(",")),
            frozenset(field.decode() for field in rest[:end]),
            os.fsdecode(_unescaped(rest[end + 1])),
        )

    @property
    def peer_group(self) -> str | None:
        """The mounts that are shared with it have the same."""
        return next((field for field in self.propagation if field.startswith("shared:")), None)

    @property
    def is_unbindable(self) -> bool:
        return "unbindable" in self.propagation

    @property
    def is_idmapped(self) -> bool:
        return "idmapped" in self.options

    def identity(self) -> MountId:
        """With the unique number, but for a mount that another one covers."""
        try:
            top = MountId.at(self.point)
        except OSError:
            return MountId(self.number, 0)
        return top if top.number == self.number else MountId(self.number, 0)


def _unescaped(field: bytes) -> bytes:
    """Blanks and backslashes are octal numbers there."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)


def open_mounts() -> OwnedFd:
    """The table, unread: what is read from it is the state at that time."""
    try:
        return _core.open_proc(TABLE, os.O_RDONLY)
    except OSError as error:
        raise proc_error("open_proc", error, f"/proc/{TABLE}") from None


def read_mounts(table: int | None = None) -> list[MountEntry]:
    if table is None:
        with open_mounts() as opened:
            return read_mounts(opened)
    with at_step("open_proc", TABLE), open(table, "rb", closefd=False) as lines:
        return [MountEntry.parse(line) for line in lines]


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
    return entry is not None and mount.is_same(entry.identity())


def _statmount(mount: MountId) -> int:
    """The errno, or 0: it is there."""
    if not mount.unique:
        return ENOSYS
    try:
        _core.statmount(mount.unique, STATMOUNT_MNT_BASIC, 0, 0, 0)
    except OSError as error:
        return error.errno or 0
    return 0


def mount_namespace() -> tuple[int, int]:
    """Which mount namespace the calling thread is in."""
    return own_namespace_identity("mnt")


def path_of(fd: int) -> str:
    """Where a descriptor is open on."""
    path = f"thread-self/fd/{fd}"
    with at_step("open_proc", f"/proc/{path}"):
        return os.fsdecode(_core.read_link(-1, path))
