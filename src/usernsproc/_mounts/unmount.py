"""Unmounting that is complete or has not happened.

What is still mounted looks like an ordinary directory to a process that deletes it. So
nothing here is detached lazily, and nothing that is still mounted is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from errno import EBUSY, EINVAL

from .. import _core
from .._errors import UsernsError, userns_error
from .._place import Place
from .._proc import MountEntry, read_mounts
from .._typing import TYPE_CHECKING
from . import whereabouts
from .copy_back import SPARES, MadePrivate, MountCopy, must_be_private
from .table import MountId, find_mount, mounts_below
from .users import described_users
from .whereabouts import listed, refused

if TYPE_CHECKING:
    from .._core import OwnedFd

_NOT_MOUNTED = "Nothing is mounted on it. Check the path, and the mount namespace."


def unmount_one(mount: MountId, place: Place, *, lazy: bool = False) -> None:
    _refuse_plain_directory(mount, place)
    try:
        (whereabouts.detach if lazy else whereabouts.unmount)(mount, place)
    except UsernsError:
        raise
    except OSError as error:
        raise _why_not(error.errno or 0, mount, place) from None


def unmount_tree(mount: MountId, place: Place, below: dict[int, MountId] | None, *, lazy: bool = False) -> None:
    """A mount and those below it, if they are these by number (`None`: whichever there are).

    Each is copied before it is unmounted; when a later one turns out to be busy,
    the copies are put where the mounts were, and *below* has their numbers.
    Lazily they go all at once; then processes that use them keep them. What is mounted
    elsewhere, with the source, is not unmounted there in either case.
    """
    _refuse_plain_directory(mount, place)
    mounts = read_mounts()
    top = find_mount(mounts, mount.number)
    if top is None:
        raise _why_not(EINVAL, mount, place)
    found = mounts_below(mounts, mount.number)
    strangers = [entry for entry in found if below is not None and not _is_one_of(entry, below)]
    if strangers and not lazy:
        raise refused(EBUSY, place.path, "has-submounts", f"Mounted below it since: {listed(strangers)}.")
    tree = {entry.number: entry for entry in (top, *found)}
    changed: list[MadePrivate] = []
    copies: list[MountCopy] = []
    spares: list[OwnedFd] = []
    try:
        spares += [_core.dup(place.directory) for _ in range(SPARES)]
        for entry in must_be_private([top, *found], mounts):
            changed.append(MadePrivate(entry))
        if not lazy:
            for entry in reversed(found):
                copies.append(MountCopy(entry, tree[entry.parent]))
                with copies[-1].unmounting() as its_place:
                    unmount_one(copies[-1].original, its_place)
        unmount_one(mount, place, lazy=lazy)
    except BaseException as error:
        _close(spares)
        _put_back(changed, copies, below, error)
        raise
    finally:
        _close([*spares, *changed, *copies])


def _close(held: Sequence[OwnedFd | MadePrivate | MountCopy]) -> None:
    for one in held:
        one.close()


def _put_back(
    changed: list[MadePrivate], copies: list[MountCopy], below: dict[int, MountId] | None, error: BaseException
) -> None:
    again: dict[int, MountCopy] = {}
    for copy in reversed(copies):
        if copy.put_back(error, again):
            again[copy.entry.number] = copy
    for made_private in changed:
        made_private.put_back(error, again)
    if below is not None:  # a number of one may be that of another's copy: first these, then those
        for number in again:
            below.pop(number, None)
        below.update((copy.id.number, copy.id) for copy in again.values())


def _is_one_of(entry: MountEntry, below: dict[int, MountId]) -> bool:
    known = below.get(entry.number)
    return known is not None and known.is_same(MountId.of(entry))


def _refuse_plain_directory(mount: MountId, place: Place) -> None:
    """Or a file in the mount: not to take away what is below some other mount."""
    if mount.is_same(MountId.of_fd(place.directory)):
        raise userns_error("umount", EINVAL, place.path, cause="not-mounted", note=_NOT_MOUNTED)


def _why_not(errno: int, mount: MountId, place: Place) -> UsernsError:
    try:
        return _explained(errno, mount, os.fsdecode(place.path))
    except OSError:  # no descriptor left to look with, or the like
        return refused(errno, place.path, None, "The reason could not be determined.")


def _explained(errno: int, mount: MountId, path: str) -> UsernsError:
    if errno == EBUSY:
        submounts = mounts_below(read_mounts(), mount.number)
        if submounts:
            return refused(EBUSY, path, "has-submounts", f"Mounted below it: {listed(submounts)}.")
        return refused(EBUSY, path, "mount-in-use", described_users(mount.number))
    if errno == EINVAL:
        if find_mount(read_mounts(), mount.number) is None:
            return userns_error("umount", errno, path, cause="not-mounted", note=_NOT_MOUNTED)
        return refused(
            errno,
            path,
            "locked-mount",
            "It came from a more privileged mount namespace, which protects what it covers. Unmount the mount above it "
            "with lazy=True.",
        )
    return userns_error("umount", errno, path)
