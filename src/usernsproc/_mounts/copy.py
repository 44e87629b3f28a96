"""Detached copies of mounts: to be given ID maps, or to be put back when unmounting fails half-way.

No other process sees them.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from errno import EINVAL, ENOSYS, EPERM
from typing import NamedTuple

from .. import _core, _system_calls
from .._causes import at_step, userns_error
from .._namespaces.namespace import Namespace
from .._proc import MountEntry, overflow_id
from .._typing import TYPE_CHECKING
from .._uapi import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_EMPTY_PATHS,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_SET_GROUP,
    MS_PRIVATE,
    MS_UNBINDABLE,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    PROPAGATIONS,
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from .table import MountId, is_mounted, open_mount, place_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._core import OwnedFd
    from .._place import Path, Place


def open_path(step: str, path: Path) -> OwnedFd:
    """What a path leads to, looked up only once: the path may lead elsewhere afterwards."""
    with at_step(step, os.fspath(path)):
        return _system_calls.open_tree(AT_FDCWD, os.fsencode(path), OPEN_TREE_CLOEXEC)


def copy_mount(fd: int, *, recursive: bool = False) -> OwnedFd:
    """A detached copy of the mount that *fd* is open on."""
    return _system_calls.open_tree(fd, b"", _copy_flags(recursive))


def _copy_flags(recursive: bool) -> int:
    return AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)


def set_propagation(fd: int, propagation: int, *, recursive: bool = False) -> None:
    """Of the mount that *fd* is open on. 0: leave it as it is."""
    if propagation:
        _system_calls.mount_setattr(fd, b"", AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0), 0, 0, propagation, 0)


# ---- with ID maps ----


class Attributes(NamedTuple):
    """What a mount is like besides its maps, for `mount_setattr(2)`. 0: as its source."""

    to_set: int = 0
    to_clear: int = 0
    propagation: int = 0

    @classmethod
    def resolve(
        cls,
        *,
        read_only: bool | None = None,
        nosuid: bool | None = None,
        nodev: bool | None = None,
        noexec: bool | None = None,
        propagation: str | None = None,
    ) -> Self:
        """`None`: as the source."""
        if propagation is not None and propagation not in PROPAGATIONS:
            raise ValueError(f"propagation={propagation!r} is not one of {', '.join(PROPAGATIONS)}")
        bits = {
            MOUNT_ATTR_RDONLY: read_only,
            MOUNT_ATTR_NOSUID: nosuid,
            MOUNT_ATTR_NODEV: nodev,
            MOUNT_ATTR_NOEXEC: noexec,
        }
        to_set = sum(bit for bit, value in bits.items() if value)
        to_clear = sum(bit for bit, value in bits.items() if value is not None and not value)
        return cls(to_set, to_clear, 0 if propagation is None else PROPAGATIONS[propagation])


_UNCHANGED = Attributes()


def copy_idmapped(
    source_fd: int, userns_fd: int, *, recursive: bool = False, attributes: Attributes = _UNCHANGED
) -> OwnedFd:
    """A detached copy of what *source_fd* is open on, idmapped.

    Raises:
        UsernsError: step `open_tree` or `mount_setattr`; `refusals.copy_refusal` finds the cause.
    """
    below = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    changes = (attributes.to_set | MOUNT_ATTR_IDMAP, attributes.to_clear, attributes.propagation, userns_fd)
    with at_step("open_tree"):
        tree = copy_mount(source_fd, recursive=recursive)
    with tree as fd:
        try:
            _system_calls.mount_setattr(fd, b"", below, *changes)
        except OSError as error:
            if error.errno != EPERM:
                raise userns_error("mount_setattr", error.errno or 0) from None
        else:
            _refuse_missing_maps(fd, userns_fd)
            return tree.move()
    # It may have maps already. Then mount_setattr() refuses others, even on a new
    # copy, and only the call that creates the copy can replace them.
    try:
        return _system_calls.open_tree_attr(source_fd, b"", _copy_flags(recursive), *changes)
    except OSError as error:
        errno = EPERM if error.errno == ENOSYS else error.errno or 0
        raise userns_error("mount_setattr", errno) from None


def duplicate_userns(userns_fd: int) -> Namespace:
    """The namespace by a descriptor of its own, which the caller must close."""
    with at_step("mount_setattr"):
        return Namespace(_core.dup(userns_fd))


def _refuse_missing_maps(tree: int, userns_fd: int) -> None:
    """Older kernels, such as 6.1, also accept a user namespace whose maps are not written, and show all
    files with the overflow ID. Only if the top is shown so are the maps read: that requires a process."""
    with at_step("mount_setattr"):
        shown = os.stat(tree)
    if shown.st_uid != overflow_id("uid") and shown.st_gid != overflow_id("gid"):
        return
    with duplicate_userns(userns_fd) as userns:
        try:
            are_written = bool(userns.uid_map and userns.gid_map)
        except PermissionError:
            return  # only a process that may enter it can read them
    if not are_written:
        raise userns_error("mount_setattr", EINVAL)


# ---- to be put back ----

SPARES = 4
"""How many descriptors are reserved: putting back requires some, also when their limit is reached."""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV


class MountCopy:
    """A detached copy of a mount, which replaces it if that is gone."""

    def __init__(self, entry: MountEntry, parent: MountEntry) -> None:
        self.entry = entry
        self._parent = parent
        self.original = MountId.of(entry)
        with open_mount(entry) as original, at_step("umount", entry.point):
            copy = copy_mount(original)
        with copy as fd:
            self.id = MountId.of_fd(fd)
            self._copy = copy.move()
        self._is_gone: bool | None = False

    @contextmanager
    def unmounting(self) -> Generator[Place]:
        """For the block that unmounts the mount, at its place. If a signal handler's exception ends the block, it is
        not known whether the mount is gone. The place is closed afterwards, as it keeps the mount around it busy."""
        self._is_gone = None
        try:
            with place_of(self.entry) as place:
                yield place
        except OSError:
            self._is_gone = False
            raise
        self._is_gone = True

    def attach(self, restored: Mapping[int, MountCopy]) -> None:
        """Below the mount that the original was on, or the copy that has replaced it.

        The path is looked up from there and cannot lead out of it, even if directories were renamed."""
        with open_standing(self._parent, restored) as parent:
            point = self.entry.point[len(self._parent.point) :].lstrip("/")
            folder, name = os.path.split(os.fsencode(point))
            if not name:
                _system_calls.move_mount(self.fileno(), b"", parent, b"", MOVE_MOUNT_EMPTY_PATHS)
                return
            with _system_calls.openat2(parent, folder or b".", _DIRECTORY, _BENEATH) as directory:
                _system_calls.move_mount(self.fileno(), b"", directory, name, MOVE_MOUNT_F_EMPTY_PATH)

    def put_back(self, error: BaseException, restored: dict[int, MountCopy]) -> None:
        """Attach it, if the mount is gone, and add it to *restored*, the copies that were put back, by the number
        of the original. *error* is the reason, which gets a note if this fails."""
        if self._is_gone is None:
            self._is_gone = not is_mounted(self.original)
        if not self._is_gone:
            return
        try:
            self.attach(restored)
        except OSError as second:
            error.add_note(f"The mount at {self.entry.point} could not be put back: {second.strerror}.")
        else:
            restored[self.entry.number] = self

    def fileno(self) -> int:
        return self._copy.fileno()

    def close(self) -> None:
        self._copy.close()


class MadePrivate:
    """A mount that had to be made private, and a peer that its propagation is restored from."""

    def __init__(self, entry: MountEntry) -> None:
        self._entry = entry
        self._peer: OwnedFd | None = None
        with open_mount(entry) as fd, at_step("umount", entry.point):
            if not entry.is_unbindable:
                self._peer = copy_mount(fd)
            try:
                set_propagation(fd, MS_PRIVATE)
            except OSError:
                self.close()
                raise

    def put_back(self, error: BaseException, restored: Mapping[int, MountCopy]) -> None:
        """Once all mounts are in their place: what is attached below a shared one is attached elsewhere too."""
        try:
            with open_standing(self._entry, restored) as fd:
                if self._peer is None:
                    set_propagation(fd, MS_UNBINDABLE)
                else:
                    flags = MOVE_MOUNT_EMPTY_PATHS | MOVE_MOUNT_SET_GROUP
                    _system_calls.move_mount(self._peer.fileno(), b"", fd, b"", flags)
        except OSError as second:
            error.add_note(f"The mount at {self._entry.point} is private now: {second.strerror}.")

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()


@contextmanager
def open_standing(entry: MountEntry, restored: Mapping[int, MountCopy]) -> Generator[int]:
    """A descriptor of the mount, or of the copy that was put in its place."""
    copy = restored.get(entry.number)
    if copy is not None:
        yield copy.fileno()
        return
    with open_mount(entry) as fd:
        yield fd


def select_not_private(tree: list[MountEntry], mounts: Iterable[MountEntry]) -> list[MountEntry]:
    """The mounts of a tree that have a peer outside of it, such as the source: what is unmounted below
    them would be unmounted there as well. And unbindable ones, which cannot be copied."""
    inside = {entry.number for entry in tree}
    outside = {entry.peer_group for entry in mounts if entry.number not in inside} - {None}
    return [entry for entry in tree if entry.is_unbindable or entry.peer_group in outside]
