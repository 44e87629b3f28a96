"""What is kept of mounts that are about to be unmounted, to be put back if that fails half-way."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager

from .. import _core
from .._errors import userns_error
from .._place import Place
from .._proc import MountEntry
from .._typing import TYPE_CHECKING
from .._uapi import (
    AT_EMPTY_PATH,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_SET_GROUP,
    MOVE_MOUNT_T_EMPTY_PATH,
    MS_PRIVATE,
    MS_UNBINDABLE,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from .table import MountId, is_mounted
from .whereabouts import opened_mount, place_of

if TYPE_CHECKING:
    from .._core import OwnedFd


class MountCopy:
    """A detached copy of a mount, which stands in its place if that is gone."""

    def __init__(self, entry: MountEntry, parent: MountEntry) -> None:
        self.entry = entry
        self._parent = parent
        self.original = MountId.of(entry)
        with opened_mount(entry) as fd:
            self._copy = _copied(entry, fd)
        try:
            self.id = MountId.of_fd(self.fileno())
        except BaseException:
            self.close()
            raise
        self._is_gone: bool | None = False

    @contextmanager
    def unmounting(self) -> Generator[Place]:
        """For the block that unmounts the mount, where it is: whether it is gone is not known if a signal's
        exception ends that. The place is closed afterwards, as it keeps the mount around it busy."""
        self._is_gone = None
        try:
            with place_of(self.entry) as place:
                yield place
        except OSError:
            self._is_gone = False
            raise
        self._is_gone = True

    def attach(self, again: Mapping[int, MountCopy]) -> None:
        """Below the mount that the original was on, or the copy that stands for that now.

        It is looked up from there, and cannot lead out of it, whatever was renamed."""
        with standing(self._parent, again) as parent:
            point = self.entry.point[len(self._parent.point) :].lstrip("/")
            folder, name = os.path.split(os.fsencode(point))
            if not name:
                flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
                _core.move_mount(self.fileno(), b"", parent, b"", flags)
                return
            with _core.openat2(parent, folder or b".", _DIRECTORY, _BENEATH) as directory:
                _core.move_mount(self.fileno(), b"", directory, name, MOVE_MOUNT_F_EMPTY_PATH)

    def put_back(self, error: BaseException, again: Mapping[int, MountCopy]) -> bool:
        """Attach it, if the mount is gone. *error* is why; *again*: the copies that were put back before, by number."""
        if self._is_gone is None:
            self._is_gone = not is_mounted(self.original)
        if not self._is_gone:
            return False
        try:
            self.attach(again)
        except OSError as second:
            error.add_note(f"The mount at {self.entry.point} could not be put back: {second.strerror}.")
            return False
        return True

    def fileno(self) -> int:
        return self._copy.fileno()

    def close(self) -> None:
        self._copy.close()


_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV


class MadePrivate:
    """A mount that had to be made private, and a peer to have its propagation back from."""

    _peer: OwnedFd | None = None

    def __init__(self, entry: MountEntry) -> None:
        self._entry = entry
        with opened_mount(entry) as fd:
            if not entry.is_unbindable:
                self._peer = _copied(entry, fd)
            try:
                _set_propagation(fd, MS_PRIVATE)
            except OSError as error:
                self.close()
                raise userns_error("umount", error.errno or 0, entry.point) from None

    def put_back(self, error: BaseException, again: Mapping[int, MountCopy]) -> None:
        """Once all mounts are in their place: what is attached below a shared one is attached elsewhere too."""
        try:
            with standing(self._entry, again) as fd:
                if self._peer is None:
                    _set_propagation(fd, MS_UNBINDABLE)
                else:
                    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH | MOVE_MOUNT_SET_GROUP
                    _core.move_mount(self._peer.fileno(), b"", fd, b"", flags)
        except OSError as second:
            error.add_note(f"The mount at {self._entry.point} is private now: {second.strerror}.")

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()


SPARES = 4
"""So many descriptors are set aside: putting back needs some, also at the limit of them."""


@contextmanager
def standing(entry: MountEntry, again: Mapping[int, MountCopy]) -> Generator[int]:
    """A descriptor of the mount, or of the copy that was put in its place."""
    copy = again.get(entry.number)
    if copy is not None:
        yield copy.fileno()
        return
    with opened_mount(entry) as fd:
        yield fd


def must_be_private(tree: list[MountEntry], mounts: Iterable[MountEntry]) -> list[MountEntry]:
    """Those of a tree that have a peer outside of it, such as the source: what is unmounted below
    them would be unmounted there as well. And those that cannot be copied else."""
    inside = {entry.number for entry in tree}
    outside = {entry.peer_group for entry in mounts if entry.number not in inside} - {None}
    return [entry for entry in tree if entry.is_unbindable or entry.peer_group in outside]


def _copied(entry: MountEntry, fd: int) -> OwnedFd:
    flags = AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
    try:
        return _core.open_tree(fd, b"", flags)
    except OSError as error:
        raise userns_error("umount", error.errno or 0, entry.point) from None


def _set_propagation(fd: int, propagation: int) -> None:
    _core.mount_setattr(fd, b"", AT_EMPTY_PATH, 0, 0, propagation, 0)
