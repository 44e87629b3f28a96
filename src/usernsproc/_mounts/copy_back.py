"""What is kept of mounts that are about to be unmounted, to be put back if that fails half-way."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from errno import EBUSY

from .. import _core
from .._errors import userns_error
from .abi import (
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_SET_GROUP,
    MS_PRIVATE,
    MS_UNBINDABLE,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)
from .table import MountEntry, MountId, is_mounted


class MountCopy:
    """A detached copy of a mount, which stands in its place if that is gone."""

    _fd = -1

    def __init__(self, entry: MountEntry) -> None:
        self.entry = entry
        self._original = entry.identity()
        self._fd = _copied(entry)
        try:
            self.id = MountId.of_fd(self._fd)
        except BaseException:
            self.close()
            raise
        self._is_gone: bool | None = False

    @contextmanager
    def unmounting(self) -> Generator[None]:
        """For the block that unmounts the mount: whether it is gone is not known if a signal's exception ends that."""
        self._is_gone = None
        try:
            yield
        except OSError:
            self._is_gone = False
            raise
        self._is_gone = True

    def attach(self) -> None:
        _core.move_mount(self._fd, b"", AT_FDCWD, os.fsencode(self.entry.point), MOVE_MOUNT_F_EMPTY_PATH)

    def put_back(self, error: BaseException) -> bool:
        """Attach it, if the mount is gone. *error* is why."""
        if self._is_gone is None:
            self._is_gone = not is_mounted(self._original)
        if not self._is_gone:
            return False
        try:
            self.attach()
        except OSError as second:
            error.add_note(f"The mount at {self.entry.point} could not be put back: {second.strerror}.")
            return False
        return True

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    __del__ = close  # of one that a signal handler's exception has lost


class MadePrivate:
    """A mount that had to be made private, and a peer to have its propagation back from."""

    _peer = -1

    def __init__(self, entry: MountEntry) -> None:
        self._entry = entry
        if MountId.at(entry.point).number != entry.number:  # a path leads to the topmost only
            note = "Another mount covers it, so it cannot be made private, which must happen first. Unmount that one."
            raise userns_error("umount", EBUSY, entry.point, cause="mounted-over", note=note)
        if not entry.is_unbindable:
            self._peer = _copied(entry)
        try:
            _set_propagation(entry, MS_PRIVATE)
        except OSError as error:
            self.close()
            raise userns_error("umount", error.errno or 0, entry.point) from None

    def put_back(self, error: BaseException) -> None:
        """Once all mounts are in their place: what is attached below a shared one is attached elsewhere too."""
        try:
            if self._entry.is_unbindable:
                _set_propagation(self._entry, MS_UNBINDABLE)
            else:
                flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_SET_GROUP
                _core.move_mount(self._peer, b"", AT_FDCWD, os.fsencode(self._entry.point), flags)
        except OSError as second:
            error.add_note(f"The mount at {self._entry.point} is private now: {second.strerror}.")

    def close(self) -> None:
        if self._peer >= 0:
            peer, self._peer = self._peer, -1
            os.close(peer)

    __del__ = close  # as of MountCopy


def must_be_private(tree: list[MountEntry], mounts: Iterable[MountEntry]) -> list[MountEntry]:
    """Those of a tree that have a peer outside of it, such as the source: what is unmounted below
    them would be unmounted there as well. And those that cannot be copied else."""
    inside = {entry.number for entry in tree}
    outside = {entry.peer_group for entry in mounts if entry.number not in inside} - {None}
    return [entry for entry in tree if entry.is_unbindable or entry.peer_group in outside]


def _copied(entry: MountEntry) -> int:
    flags = AT_SYMLINK_NOFOLLOW | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
    try:
        # Unpacked: after a call a signal handler could raise, and the descriptor would be lost.
        [fd] = map(_core.open_tree, (AT_FDCWD,), (os.fsencode(entry.point),), (flags,))
        return fd
    except OSError as error:
        raise userns_error("umount", error.errno or 0, entry.point) from None


def _set_propagation(entry: MountEntry, propagation: int) -> None:
    _core.mount_setattr(AT_FDCWD, os.fsencode(entry.point), AT_SYMLINK_NOFOLLOW, 0, 0, propagation, 0)
