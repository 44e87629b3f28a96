"""The mounts of the calling thread's mount namespace: how one is identified, and where it is.

A process that owns one of the directories above a mount can rename it at any time. So a
path is only a guess: a place is looked up, what is mounted there is compared, and system
calls go through the place or through a descriptor of the mount itself.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from errno import EBUSY, EINVAL, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSYS, EPERM
from typing import NamedTuple

from .. import _core, _system_calls
from .._causes import at_step, userns_error
from .._place import Place
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
from .busy import moved_error, name_mounts, still_mounted_error

if TYPE_CHECKING:
    from typing_extensions import Self

_TRIES = 120  # while other processes keep renaming
_TRIES_PER_READ = 8
"""Reads of the table can keep in step with the renames, so that each path is already wrong when it is tried."""


class MountId(NamedTuple):
    """Identifies a mount. When it is gone, its number can be reused, but never its unique one."""

    number: int
    """As in `/proc/PID/mountinfo`."""

    unique: int
    """Linux 6.8; 0: not known."""

    @classmethod
    def of_fd(cls, fd: int) -> Self:
        flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC
        return cls(*(_system_calls.mount_id(fd, b"", flags, mask) for mask in (STATX_MNT_ID, STATX_MNT_ID_UNIQUE)))

    @classmethod
    def at(cls, path: str | bytes, *, dir_fd: int = AT_FDCWD, follow: bool = False) -> Self:
        """Of the topmost mount at a path.

        It is opened first: the kernel returns one number at a time, and the path may lead elsewhere in between.
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


# ---- which mounts there are ----


def find_mount(mounts: Iterable[MountEntry], number: int) -> MountEntry | None:
    return next((entry for entry in mounts if entry.number == number), None)


def mounts_below(mounts: Iterable[MountEntry], number: int) -> list[MountEntry]:
    """All below a mount, each after the one that it is mounted on."""
    children: dict[int, list[MountEntry]] = {}
    for entry in mounts:
        children.setdefault(entry.parent, []).append(entry)
    found = [entry for entry in children.get(number, ()) if entry.number != number]
    for entry in found:  # grows during the loop
        found.extend(children.get(entry.number, ()))
    return found


def is_mounted(mount: MountId) -> bool:
    """Whether it is in the calling thread's mount namespace."""
    errno = _statmount(mount)
    if errno in (0, ENOENT):
        return errno == 0
    if errno == EPERM and _statmount(MountId.at("/")) == 0:
        return True  # out of reach: the system call as such is allowed
    entry = find_mount(read_mounts(), mount.number)
    return entry is not None and mount.is_same(MountId.of(entry))


def _statmount(mount: MountId) -> int:
    """The errno; 0: it is there."""
    if not mount.unique:
        return ENOSYS
    try:
        _system_calls.statmount(mount.unique, STATMOUNT_MNT_BASIC, 0, 0, 0)
    except OSError as error:
        return error.errno or 0
    return 0


# ---- where a mount is ----


def locate(mount: MountId, path: str) -> Place | None:
    """The place of a mount that was at *path*: the directories above it may have been renamed.

    `None`: it is not mounted any more, since another process has unmounted it.

    Raises:
        UsernsError: it is mounted but cannot be reached: another mount covers it, or
            it is outside the root directory of this process.
    """
    for attempt in range(_TRIES):
        place = _place_at(mount, path)
        if place is not None:
            return place
        if attempt % _TRIES_PER_READ:
            continue
        if not is_mounted(mount):
            return None
        mounts = read_mounts()
        entry = find_mount(mounts, mount.number)
        if entry is None:  # out of reach, or renamed while the table was read
            continue
        covering = [other for other in mounts_below(mounts, entry.number) if other.point == entry.point]
        if covering:
            raise still_mounted_error(EBUSY, path, "mounted-over", f"Mounted over it: {name_mounts(covering)}.")
        path = entry.point
    note = "It is outside the root directory of this process."
    raise still_mounted_error(EINVAL, path, "out-of-reach", note)


def _place_at(mount: MountId, path: str) -> Place | None:
    """The place at *path*, if this mount is the topmost one there."""
    place: Place | None = None
    try:
        place = Place(path)
        if is_at(mount, place):
            found, place = place, None
            return found
    except OSError as error:
        if error.errno in (EMFILE, ENFILE, ENOMEM):
            raise userns_error("umount", error.errno, path) from None
    finally:
        if place is not None:
            place.close()
    return None


def is_at(mount: MountId, place: Place) -> bool:
    """Whether it is the topmost mount there. It is not if the name is that of a file in it."""
    if mount.is_same(MountId.of_fd(place.directory)):
        return False
    return mount.is_same(MountId.at(place.name, dir_fd=place.directory))


def place_of(entry: MountEntry) -> Place:
    """The place of a mount of the table."""
    place = locate(MountId.of(entry), entry.point)
    if place is None:
        raise userns_error("umount", EINVAL, entry.point, cause="not-mounted", note="It has been unmounted. Try again.")
    return place


@contextmanager
def open_mount(entry: MountEntry) -> Generator[int]:
    """A descriptor of the mount itself, which keeps it busy."""
    with place_of(entry) as place, open_at(MountId(entry.number, 0), place) as fd:
        yield fd


@contextmanager
def open_at(mount: MountId, place: Place) -> Generator[int]:
    """A descriptor of the mount at a place, if it is this one."""
    with at_step("umount", place.path):
        owned = place.open(os.O_PATH)
    with owned as fd:
        if not mount.is_same(MountId.of_fd(fd)):
            raise moved_error(place.path)
        yield fd
