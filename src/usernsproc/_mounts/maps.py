"""The id maps of a mount, read back with `statmount(2)`."""

from __future__ import annotations

import os
import struct
from errno import EINVAL, ENOENT, ENOSYS, EPERM
from typing import NoReturn

from .. import _core
from .._errors import userns_error
from .._maps.idmap import IdMap
from .._uapi import (
    AT_EMPTY_PATH,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    MS_PRIVATE,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    STATMOUNT_BY_FD,
    STATMOUNT_MNT_GIDMAP,
    STATMOUNT_MNT_UIDMAP,
    STATMOUNT_SUPPORTED_MASK,
)
from .table import MountId

_MAPS = STATMOUNT_MNT_UIDMAP | STATMOUNT_MNT_GIDMAP
_QUESTION = _MAPS | STATMOUNT_SUPPORTED_MASK
_FIELDS = struct.Struct("=8xQ128xQ4I")
"""Where `struct statmount` has mask, supported_mask, and number and offset of the two maps' lines."""
_STRINGS = 512  # its size: what follows are the strings, each ended by a NUL

_MAPS_OF_MOUNT = "Reading the maps of a mount requires Linux 6.15. Use a newer kernel, or keep the maps."

UidAndGidMap = tuple[IdMap, IdMap]


def maps_of_mount(mount: MountId, target: str) -> UidAndGidMap:
    """Of an attached mount."""
    if not mount.unique:
        raise _too_old(ENOSYS, target, _MAPS_OF_MOUNT)
    try:
        answer = _core.statmount(mount.unique, _QUESTION, 0, 0, 0)
    except OSError as error:
        _refused(error, target)
    return _maps(answer, target)


def maps_of_detached_mount(fd: int) -> UidAndGidMap:
    try:
        answer = _core.statmount(0, _QUESTION, 0, fd, STATMOUNT_BY_FD)
    except FileNotFoundError:
        answer = _ask_of_copy(fd)
    except OSError as error:
        if error.errno in (EINVAL, ENOSYS):
            note = "Reading the maps of a detached mount requires Linux 7.0. Attach it, and ask the Mount."
            raise _too_old(error.errno, None, note) from None
        _refused(error, None)
    return _maps(answer, None)


def _ask_of_copy(fd: int) -> bytes:
    """The kernel looks for a root below the top of the namespace that a detached mount is in, and
    that is `ENOENT` where the mount is alone. So ask for a copy that has another one upon it."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
    try:
        with _core.open_tree(fd, b"", flags) as below, _core.open_tree(fd, b"", flags) as above:
            # A copy of a shared mount is a peer of it, to which the move would propagate.
            _core.mount_setattr(below, b"", AT_EMPTY_PATH, 0, 0, MS_PRIVATE, 0)
            _core.move_mount(above, b"", below, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
            return _core.statmount(0, _QUESTION, 0, below, STATMOUNT_BY_FD)
    except OSError as error:
        note = None
        if error.errno == EPERM:
            note = "Likely: CAP_SYS_ADMIN is missing, which copying a mount without submounts requires. Run as root."
        raise userns_error("statmount", error.errno or 0, note=note) from None


def _refused(error: OSError, target: str | None) -> NoReturn:
    cause = note = None
    if error.errno == ENOSYS:
        raise _too_old(ENOSYS, target, _MAPS_OF_MOUNT) from None
    if error.errno == ENOENT:
        cause, note = (
            "not-mounted",
            "The mount is not in the mount namespace of the calling thread, or was unmounted.",
        )
    raise userns_error("statmount", error.errno or 0, target, cause=cause, note=note) from None


def _too_old(errno: int, target: str | None, note: str) -> OSError:
    return userns_error("statmount", errno, target, cause="kernel-too-old", note=note)


def _maps(answer: bytes, target: str | None) -> UidAndGidMap:
    mask, supported, uids, uid_offset, gids, gid_offset = _FIELDS.unpack_from(answer)
    if not mask & STATMOUNT_SUPPORTED_MASK or supported & _MAPS != _MAPS:
        raise _too_old(ENOSYS, target, _MAPS_OF_MOUNT)
    if mask & _MAPS != _MAPS:  # it is no idmapped mount
        return IdMap(), IdMap()
    return _map(answer, uid_offset, uids), _map(answer, gid_offset, gids)


def _map(answer: bytes, offset: int, count: int) -> IdMap:
    """*count* strings, each a line of a map file."""
    lines = answer[_STRINGS + offset :].split(b"\0", count)[:count]
    return IdMap.from_kernel(os.fsdecode(b"\n".join(lines)))
