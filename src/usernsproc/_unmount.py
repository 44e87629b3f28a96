"""Unmounting that is complete or has not happened.

What is still mounted looks like an ordinary directory to who deletes it. So
nothing here is detached lazily, and nothing that is still mounted is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from errno import EBUSY, EINVAL, ENOENT, ENOSYS, EPERM

from . import _core
from ._errors import UsernsError, userns_error
from ._mount_abi import (
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    MNT_DETACH,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_PRIVATE,
    MS_UNBINDABLE,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    STATMOUNT_MNT_BASIC,
    UMOUNT_NOFOLLOW,
)
from ._mount_table import MountEntry, MountId, find_mount, mounts_below, read_mounts
from ._mount_users import described_users

_SHOWN = 5
STILL_THERE = "It is still mounted: whatever deletes below it deletes from the source."


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


def locate(mount: MountId, path: str) -> str | None:
    """Where it is mounted now: the directories above it may have been renamed.

    `None`: nowhere, somebody has unmounted it.

    Raises:
        UsernsError: it is there and cannot be reached: another mount covers it, or
            it is outside of this process' root directory.
    """
    if _is_at(mount, path):
        return path
    mounts = read_mounts()
    entry = find_mount(mounts, mount.number)
    if entry is not None and _is_at(mount, entry.point):
        return entry.point
    if not is_mounted(mount):
        return None
    covering = [] if entry is None else mounts_below(mounts, entry.number)
    if entry is None or not covering:
        raise _refused(EINVAL, path, "out-of-reach", "It cannot be reached from this process' root directory.")
    raise _refused(EBUSY, path, "mounted-over", f"Mounted over it: {_listed(covering)}.")


def _is_at(mount: MountId, path: str) -> bool:
    try:
        return mount.is_same(MountId.at(path))
    except OSError:
        return False


def unmount_one(mount: MountId, path: str) -> None:
    try:
        _core.umount2(os.fsencode(path), UMOUNT_NOFOLLOW)
    except OSError as error:
        raise _why_not(error.errno or 0, mount, path) from None


def unmount_lazily(mount: MountId, path: str) -> None:
    """With all below. Who is in there stays."""
    try:
        _core.umount2(os.fsencode(path), UMOUNT_NOFOLLOW | MNT_DETACH)
    except OSError as error:
        raise _why_not(error.errno or 0, mount, path) from None


def unmount_tree(mount: MountId, path: str, below: dict[int, MountId] | None) -> None:
    """A mount and those below it, if they are these by number (`None`: whichever there are).

    Each is copied before it is unmounted; when a later one turns out to be busy,
    the copies are put where the mounts were, and *below* has their numbers.
    """
    mounts = read_mounts()
    top = find_mount(mounts, mount.number)
    if top is None or top.point != path:  # not to take away what is below some other mount
        raise _why_not(EINVAL, mount, path)
    found = mounts_below(mounts, mount.number)
    strangers = [entry for entry in found if below is not None and not _is_one_of(entry, below)]
    if strangers:
        raise _refused(EBUSY, path, "has-submounts", f"Mounted below it since: {_listed(strangers)}.")
    copies: list[_Copy] = []
    try:
        for entry in reversed(found):
            copies.append(_Copy(entry))
            unmount_one(MountId(entry.number, 0), entry.point)
            copies[-1].stands_in()
        unmount_one(mount, path)
    except BaseException as error:
        for copy in reversed(copies):
            copy.put_back(error)
        if below is not None:  # a number of one may be that of another's copy: first these, then those
            for copy in copies:
                below.pop(copy.replaced, None)
            below.update((copy.id.number, copy.id) for copy in copies if copy.replaced)
        raise
    finally:
        for copy in copies:
            os.close(copy.fd)


def _is_one_of(entry: MountEntry, below: dict[int, MountId]) -> bool:
    known = below.get(entry.number)
    return known is not None and known.is_same(entry.identity())


class _Copy:
    """Of a mount that is about to be unmounted."""

    def __init__(self, entry: MountEntry) -> None:
        self._entry = entry
        self._path = os.fsencode(entry.point)
        self.replaced = 0
        """The number of the mount, once that is gone."""
        if entry.is_unbindable:  # such a mount cannot be copied
            self._set_propagation(MS_PRIVATE)
        try:
            self.fd = _core.open_tree(AT_FDCWD, self._path, AT_SYMLINK_NOFOLLOW | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
        except OSError as error:
            if entry.is_unbindable:
                self._set_propagation(MS_UNBINDABLE)
            raise userns_error("umount", error.errno or 0, entry.point) from None
        self.id = MountId.of_fd(self.fd)

    def _set_propagation(self, propagation: int) -> None:
        _core.mount_setattr(AT_FDCWD, self._path, AT_SYMLINK_NOFOLLOW, 0, 0, propagation, 0)

    def stands_in(self) -> None:
        self.replaced = self._entry.number

    def put_back(self, error: BaseException) -> None:
        """*error* is why."""
        try:
            if self.replaced:
                _core.move_mount(self.fd, b"", AT_FDCWD, self._path, MOVE_MOUNT_F_EMPTY_PATH)
            if self._entry.is_unbindable:
                self._set_propagation(MS_UNBINDABLE)
        except OSError as second:
            error.add_note(f"The mount at {self._entry.point} could not be put back: {second.strerror}.")


def _why_not(errno: int, mount: MountId, path: str) -> UsernsError:
    try:
        return _explained(errno, mount, path)
    except OSError:  # no descriptor left to look with, or the like
        return _refused(errno, path, None, "Why cannot be found out.")


def _explained(errno: int, mount: MountId, path: str) -> UsernsError:
    if errno == EBUSY:
        submounts = mounts_below(read_mounts(), mount.number)
        if submounts:
            return _refused(EBUSY, path, "has-submounts", f"Mounted below it: {_listed(submounts)}.")
        return _refused(EBUSY, path, "mount-in-use", described_users(mount.number))
    if errno == EINVAL:
        entry = find_mount(read_mounts(), mount.number)
        if entry is None or entry.point != path:
            return userns_error("umount", errno, path, cause="not-mounted", note="Nothing is mounted on it.")
        return _refused(
            errno,
            path,
            "locked-mount",
            "It came from a more privileged mount namespace, and what it covers is not to be seen here: "
            "a copy goes only together with the mount that it is below, and lazily.",
        )
    return userns_error("umount", errno, path)


def _refused(errno: int, path: str, cause: str | None, note: str) -> UsernsError:
    return userns_error("umount", errno, path, cause=cause, note=f"{note} {STILL_THERE}")


def _listed(entries: Sequence[MountEntry]) -> str:
    names = [f"{entry.point} ({entry.fs_type})" for entry in entries[:_SHOWN]]
    return ", ".join(names) + (" and others" if len(entries) > _SHOWN else "")
