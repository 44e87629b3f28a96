"""Unmounting that is complete or has not happened.

What is still mounted looks like an ordinary directory to a process that deletes it. So
nothing is detached lazily here unless the caller asks for it, and nothing that is still
mounted is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from errno import EBUSY, EINVAL

from .. import _core, _system_calls
from .._causes import userns_error
from .._errors import UsernsError
from .._place import Place
from .._proc import MountEntry, descriptor_path, read_mounts
from .._typing import TYPE_CHECKING
from .._uapi import MNT_DETACH, UMOUNT_NOFOLLOW
from .busy import describe_users, moved_error, name_mounts, still_mounted_error
from .copy import SPARES, MadePrivate, MountCopy, select_not_private
from .table import MountId, find_mount, is_at, is_mounted, mounts_below, open_at

if TYPE_CHECKING:
    from .._core import OwnedFd

_NOT_MOUNTED = "Nothing is mounted on it. Check the path, and the mount namespace."


def unmount_at(mount: MountId, place: Place, *, lazy: bool = False) -> None:
    """Unmount it, if it is not in use; *lazy*: even then, by a descriptor of it, so it cannot be another mount.

    Raises:
        UsernsError: its name was given to another mount at this moment.
        OSError: as `umount2(2)`.
    """
    if lazy:
        with open_at(mount, place) as fd:
            _system_calls.umount2(descriptor_path(fd), MNT_DETACH)
    elif is_at(mount, place):
        _system_calls.umount2(descriptor_path(place.directory, place.name), UMOUNT_NOFOLLOW)
    else:
        raise moved_error(place.path)
    if is_mounted(mount):
        note = (
            "At this moment another mount got its name, or was mounted over it, and that one was unmounted. Mount "
            "that one again."
        )
        raise still_mounted_error(EBUSY, place.path, "mount-moved", note)


def unmount_one(mount: MountId, place: Place, *, lazy: bool = False) -> None:
    """As `unmount_at`, but every exception is a `UsernsError` with its cause."""
    _refuse_plain_directory(mount, place)
    try:
        unmount_at(mount, place, lazy=lazy)
    except UsernsError:
        raise
    except OSError as error:
        raise _find_cause(error.errno or 0, mount, place) from None


def unmount_tree(mount: MountId, place: Place, below: dict[int, MountId] | None, *, lazy: bool = False) -> None:
    """A mount and those below it, if they are these by number (`None`: any).

    Each is copied before it is unmounted; when a later one turns out to be busy,
    the copies are put where the mounts were, and *below* gets their numbers.
    If *lazy*, all are detached at once; processes that use them keep access. What is
    mounted elsewhere, with the source, is not unmounted there in either case.
    """
    _refuse_plain_directory(mount, place)
    mounts = read_mounts()
    top = find_mount(mounts, mount.number)
    if top is None:
        raise _find_cause(EINVAL, mount, place)
    found = mounts_below(mounts, mount.number)
    unknown = [entry for entry in found if below is not None and not _is_one_of(entry, below)]
    if unknown and not lazy:
        note = f"Mounted below it since: {name_mounts(unknown)}."
        raise still_mounted_error(EBUSY, place.path, "has-submounts", note)
    changed: list[MadePrivate] = []
    copies: list[MountCopy] = []
    spares: list[OwnedFd] = []
    try:
        spares += [_core.dup(place.directory) for _ in range(SPARES)]
        for entry in select_not_private([top, *found], mounts):
            changed.append(MadePrivate(entry))
        if not lazy:
            unmount_below(top, found, copies, unmount_one)
        unmount_one(mount, place, lazy=lazy)
    except BaseException as error:
        _close(spares)
        _put_back(changed, copies, below, error)
        raise
    finally:
        _close([*spares, *changed, *copies])


def unmount_below(
    top: MountEntry, below: list[MountEntry], copies: list[MountCopy], unmount: Callable[[MountId, Place], None]
) -> None:
    """All mounts below *top*, the deepest first. Each is added to *copies* before it is unmounted."""
    tree = {entry.number: entry for entry in (top, *below)}
    for entry in reversed(below):
        copies.append(MountCopy(entry, tree[entry.parent]))
        with copies[-1].unmounting() as place:
            unmount(copies[-1].original, place)


def _close(held: Sequence[OwnedFd | MadePrivate | MountCopy]) -> None:
    for one in held:
        one.close()


def _put_back(
    changed: list[MadePrivate], copies: list[MountCopy], below: dict[int, MountId] | None, error: BaseException
) -> None:
    restored: dict[int, MountCopy] = {}
    for copy in reversed(copies):
        copy.put_back(error, restored)
    for made_private in changed:
        made_private.put_back(error, restored)
    if below is not None:  # the number of a mount may be that of another's copy now: first remove, then add
        for number in restored:
            below.pop(number, None)
        below.update((copy.id.number, copy.id) for copy in restored.values())


def _is_one_of(entry: MountEntry, below: dict[int, MountId]) -> bool:
    known = below.get(entry.number)
    return known is not None and known.is_same(MountId.of(entry))


def _refuse_plain_directory(mount: MountId, place: Place) -> None:
    """Or a file in the mount: what is below some other mount must not be unmounted."""
    if mount.is_same(MountId.of_fd(place.directory)):
        raise userns_error("umount", EINVAL, place.path, cause="not-mounted", note=_NOT_MOUNTED)


def _find_cause(errno: int, mount: MountId, place: Place) -> UsernsError:
    try:
        return _explain(errno, mount, os.fsdecode(place.path))
    except OSError:  # for example, no descriptor is left to look with
        return still_mounted_error(errno, place.path, None, "The reason could not be determined.")


def _explain(errno: int, mount: MountId, path: str) -> UsernsError:
    if errno == EBUSY:
        submounts = mounts_below(read_mounts(), mount.number)
        if submounts:
            note = f"Mounted below it: {name_mounts(submounts)}."
            return still_mounted_error(EBUSY, path, "has-submounts", note)
        return still_mounted_error(EBUSY, path, "mount-in-use", describe_users(mount.number))
    if errno == EINVAL:
        if find_mount(read_mounts(), mount.number) is None:
            return userns_error("umount", errno, path, cause="not-mounted", note=_NOT_MOUNTED)
        return still_mounted_error(
            errno,
            path,
            "locked-mount",
            "It came from a more privileged mount namespace, which protects what it covers. Unmount the mount above it "
            "with lazy=True.",
        )
    return userns_error("umount", errno, path)
