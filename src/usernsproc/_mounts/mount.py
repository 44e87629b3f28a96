"""A mount of this program: its ID maps, read back with `statmount(2)`, and how it is unmounted."""

from __future__ import annotations

import os
import struct
from errno import EINVAL, ENOENT, ENOSYS, EPERM

from .. import _system_calls
from .._causes import at_step, userns_error
from .._errors import UsernsError
from .._maps.idmap import IdMap
from .._proc import own_namespace_identity
from .._typing import TYPE_CHECKING
from .._uapi import (
    MOVE_MOUNT_EMPTY_PATHS,
    MS_PRIVATE,
    STATMOUNT_BY_FD,
    STATMOUNT_MNT_GIDMAP,
    STATMOUNT_MNT_UIDMAP,
    STATMOUNT_SUPPORTED_MASK,
)
from .copy import copy_mount, set_propagation
from .table import MountId, locate
from .unmount import unmount_one, unmount_tree

if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

    from typing_extensions import Self, TypeAlias

UidAndGidMap: TypeAlias = "tuple[IdMap, IdMap]"

__all__ = ["Mount"]


class Mount:
    """A mount that this program made. Leaving a `with` block unmounts it.

    Dropping the object leaves the mount where it is.
    """

    def __init__(self, target: str, mount_id: MountId, below: dict[int, MountId]) -> None:
        self.target = target
        """Where it was mounted, as an absolute path without symbolic links."""
        self._id = mount_id
        self._below = below
        self._namespace = own_namespace_identity("mnt")
        self._mounted = True

    def unmount(self, *, lazy: bool = False) -> None:
        """Unmount it, with `umount2(2)`, and the submounts that were mounted with it.

        It is found where it is now, even if a directory above it was renamed, and
        unmounted through a descriptor of its directory. If another process has
        unmounted it, there is nothing left to do. Another mount at its path is not
        touched. Calling it again has no effect.

        As long as it is in use, it stays, with all its submounts. Deleting below a
        target that is still mounted deletes files in the source: remove a target with
        `os.rmdir`, which fails there, not with `shutil.rmtree`.

        Args:
            lazy: detach it even if it is in use, with everything that is mounted below
                it. Processes with open files keep access until they close them.

        Raises:
            UsernsError: `EBUSY`: files are open in it, it is the working directory of a
                process, something was mounted below it or over it; the note names the
                processes or mounts. `EBUSY`, cause `mount-moved`: a process that may write to
                its directory exchanged it with another mount at this moment. `EINVAL`: the
                calling thread is in another mount namespace now, or the mount cannot be
                reached from its root directory. It is still mounted.
        """
        if not self._mounted:
            return
        self._refuse_elsewhere()
        with at_step("umount", self.target):
            place = locate(self._id, self.target)
            if place is not None:
                with place:
                    if lazy or self._below:
                        unmount_tree(self._id, place, self._below, lazy=lazy)
                    else:
                        unmount_one(self._id, place)
        self._mounted = False

    def _refuse_elsewhere(self) -> None:
        """In another mount namespace it cannot be found, which does not mean that it was unmounted."""
        if own_namespace_identity("mnt") != self._namespace:
            raise userns_error(
                "umount",
                EINVAL,
                self.target,
                cause="other-mount-namespace",
                note="It was mounted in another mount namespace, and is still mounted there. Unmount it in a thread "
                "that is in that namespace.",
            )

    @property
    def uid_map(self) -> IdMap:
        """The user ID map, from IDs on disk to IDs shown, as `statmount(2)` returns it.

        The IDs shown are as in the user namespace of the calling process; a range that
        is not mapped there is left out.

        Raises:
            UsernsError: `ENOSYS`: requires Linux 6.15; `ENOENT`: it is not mounted any more.
        """
        return maps_of_mount(self._id, self.target)[0]

    @property
    def gid_map(self) -> IdMap:
        """The group ID map; as `uid_map`."""
        return maps_of_mount(self._id, self.target)[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.unmount()
        except UsernsError as error:
            raise error from exc

    def __repr__(self) -> str:
        return f"<Mount at {self.target}{'' if self._mounted else ', unmounted'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Mount cannot be pickled: it would be unmounted twice")


# ---- the maps of a mount ----

_MAPS = STATMOUNT_MNT_UIDMAP | STATMOUNT_MNT_GIDMAP
_MASK = _MAPS | STATMOUNT_SUPPORTED_MASK
_FIELDS = struct.Struct("=8xQ128xQ4I")
"""Where `struct statmount` has mask, supported_mask, and number and offset of the two maps' lines."""
_STRINGS = 512  # its size: the strings follow it, each ended by a NUL

_REQUIRES = "Reading the maps of a mount requires Linux 6.15. Use a newer kernel, or keep the maps."
_REQUIRES_DETACHED = "Reading the maps of a detached mount requires Linux 7.0. Attach it, and ask the Mount."


def maps_of_mount(mount: MountId, target: str) -> UidAndGidMap:
    """Of an attached mount."""
    if not mount.unique:
        raise _too_old(ENOSYS, target, _REQUIRES)
    try:
        answer = _system_calls.statmount(mount.unique, _MASK, 0, 0, 0)
    except OSError as error:
        raise _statmount_error(error.errno or 0, target) from None
    return _unpack_maps(answer, target)


def maps_of_detached_mount(fd: int) -> UidAndGidMap:
    try:
        answer = _system_calls.statmount(0, _MASK, 0, fd, STATMOUNT_BY_FD)
    except FileNotFoundError:
        answer = _statmount_copy(fd)
    except OSError as error:
        if error.errno in (EINVAL, ENOSYS):
            raise _too_old(error.errno, None, _REQUIRES_DETACHED) from None
        raise _statmount_error(error.errno or 0, None) from None
    return _unpack_maps(answer, None)


def _statmount_copy(fd: int) -> bytes:
    """The kernel looks for a root below the top of the namespace that a detached mount is in, and fails
    with `ENOENT` if the mount has no submount. So ask for a copy that has another one stacked on it."""
    try:
        with copy_mount(fd) as below, copy_mount(fd) as above:
            # A copy of a shared mount is a peer of it, to which the move would propagate.
            set_propagation(below, MS_PRIVATE)
            _system_calls.move_mount(above, b"", below, b"", MOVE_MOUNT_EMPTY_PATHS)
            return _system_calls.statmount(0, _MASK, 0, below, STATMOUNT_BY_FD)
    except OSError as error:
        note = None
        if error.errno == EPERM:
            note = "Likely: CAP_SYS_ADMIN is missing, which copying a mount without submounts requires. Run as root."
        raise userns_error("statmount", error.errno or 0, note=note) from None


def _statmount_error(errno: int, target: str | None) -> UsernsError:
    if errno == ENOSYS:
        return _too_old(ENOSYS, target, _REQUIRES)
    if errno == ENOENT:
        note = "The mount is not in the mount namespace of the calling thread, or was unmounted."
        return userns_error("statmount", errno, target, cause="not-mounted", note=note)
    return userns_error("statmount", errno, target)


def _too_old(errno: int, target: str | None, note: str) -> UsernsError:
    return userns_error("statmount", errno, target, cause="kernel-too-old", note=note)


def _unpack_maps(answer: bytes, target: str | None) -> UidAndGidMap:
    mask, supported, uids, uid_offset, gids, gid_offset = _FIELDS.unpack_from(answer)
    if not mask & STATMOUNT_SUPPORTED_MASK or supported & _MAPS != _MAPS:
        raise _too_old(ENOSYS, target, _REQUIRES)
    if mask & _MAPS != _MAPS:  # it is not idmapped
        return IdMap(), IdMap()
    return _unpack_map(answer, uid_offset, uids), _unpack_map(answer, gid_offset, gids)


def _unpack_map(answer: bytes, offset: int, count: int) -> IdMap:
    """*count* strings, each a line of a map file."""
    lines = answer[_STRINGS + offset :].split(b"\0", count)[:count]
    return IdMap.from_kernel(os.fsdecode(b"\n".join(lines)))
