"""Where a mount is mounted: found by its identity, and held while something is done to it.

What leads to a mount can be renamed at any time by a process that owns one of the
directories above it. So a path is only a guess: a place is looked up, what is
mounted there is compared, and system calls go through the place or through a
descriptor of the mount itself.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from errno import EBUSY, EINVAL, EMFILE, ENFILE, ENOMEM

from .. import _core
from .._errors import UsernsError, userns_error
from .._place import Place
from .._proc import MountEntry, descriptor_path, read_mounts
from .._uapi import MNT_DETACH
from .table import MountId, find_mount, is_mounted, mounts_below

_SHOWN = 5
_TRIES = 120  # while others go on renaming
_TRIES_A_LOOK = 8
"""Looks into the table can keep in step with the renames, so that each path is already wrong when it is tried."""
STILL_THERE = "It is still mounted: deleting below the target deletes files in the source."


def locate(mount: MountId, path: str) -> Place | None:
    """Where it is mounted now: the directories above it may have been renamed.

    `None`: nowhere, another process has unmounted it.

    Raises:
        UsernsError: it is there and cannot be reached: another mount covers it, or
            it is outside of this process' root directory.
    """
    for attempt in range(_TRIES):
        place = _held(mount, path)
        if place is not None:
            return place
        if attempt % _TRIES_A_LOOK:
            continue
        if not is_mounted(mount):
            return None
        mounts = read_mounts()
        entry = find_mount(mounts, mount.number)
        if entry is None:  # out of reach; or renamed while the table was read
            continue
        covering = [other for other in mounts_below(mounts, entry.number) if other.point == entry.point]
        if covering:
            raise refused(EBUSY, path, "mounted-over", f"Mounted over it: {listed(covering)}.")
        path = entry.point
    raise refused(EINVAL, path, "out-of-reach", "It is outside the root directory of this process.")


def _held(mount: MountId, path: str) -> Place | None:
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
    """Whether it is the topmost one there; not, if there is but a file in it."""
    if mount.is_same(MountId.of_fd(place.directory)):
        return False
    return mount.is_same(MountId.at(place.name, dir_fd=place.directory))


def place_of(entry: MountEntry) -> Place:
    """Where a mount of the table is."""
    place = locate(MountId.of(entry), entry.point)
    if place is None:
        raise userns_error("umount", EINVAL, entry.point, cause="not-mounted", note="It has been unmounted. Try again.")
    return place


@contextmanager
def opened_mount(entry: MountEntry) -> Generator[int]:
    """A descriptor of the mount itself, which keeps it busy."""
    with place_of(entry) as place, opened_at(MountId(entry.number, 0), place) as fd:
        yield fd


@contextmanager
def opened_at(mount: MountId, place: Place) -> Generator[int]:
    try:
        owned = place.open(os.O_PATH)
    except OSError as error:
        raise userns_error("umount", error.errno or 0, place.path) from None
    with owned as fd:
        if not mount.is_same(MountId.of_fd(fd)):
            raise moved(place)
        yield fd


def unmount(mount: MountId, place: Place) -> None:
    """Unmount it, if it is not in use.

    Raises:
        UsernsError: its name was given to another mount at this moment.
        OSError: as `umount2(2)`.
    """
    if not is_at(mount, place):
        raise moved(place)
    place.unmount()
    _must_be_gone(mount, place)


def detach(mount: MountId, place: Place) -> None:
    """Unmount it although it is in use: by a descriptor of it, so it cannot be another."""
    with opened_at(mount, place) as fd:
        _core.umount2(descriptor_path(fd), MNT_DETACH)
    _must_be_gone(mount, place)


def _must_be_gone(mount: MountId, place: Place) -> None:
    if is_mounted(mount):
        note = (
            "At this moment another mount got its name, or was mounted over it, and that one was unmounted. Mount "
            "that one again."
        )
        raise refused(EBUSY, place.path, "mount-moved", note)


def moved(place: Place) -> UsernsError:
    return refused(EINVAL, place.path, "mount-moved", "It was moved or renamed at this moment. Try again.")


def refused(errno: int, path: str | bytes, cause: str | None, note: str) -> UsernsError:
    return userns_error("umount", errno, path, cause=cause, note=f"{note} {STILL_THERE}")


def listed(entries: Sequence[MountEntry]) -> str:
    names = [f"{entry.point} ({entry.fs_type})" for entry in entries[:_SHOWN]]
    return ", ".join(names) + (" and others" if len(entries) > _SHOWN else "")
