"""Unmounting that is complete or has not happened.

What is still mounted looks like an ordinary directory to who deletes it. So
nothing here is detached lazily, and nothing that is still mounted is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from errno import EBUSY, EINVAL

from .. import _core
from .._errors import UsernsError, userns_error
from .abi import MNT_DETACH, UMOUNT_NOFOLLOW
from .copy_back import MadePrivate, MountCopy, must_be_private
from .table import MountEntry, MountId, find_mount, is_mounted, mounts_below, read_mounts
from .users import described_users

_SHOWN = 5
_NOT_MOUNTED = "Nothing is mounted on it. Check the path, and the mount namespace."
STILL_THERE = "It is still mounted: deleting below the target deletes files in the source."


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
        raise _refused(EINVAL, path, "out-of-reach", "It is outside the root directory of this process.")
    raise _refused(EBUSY, path, "mounted-over", f"Mounted over it: {_listed(covering)}.")


def _is_at(mount: MountId, path: str) -> bool:
    try:
        return mount.is_same(MountId.at(path))
    except OSError:
        return False


def unmount_one(mount: MountId, path: str, flags: int = 0) -> None:
    try:
        _core.umount2(os.fsencode(path), UMOUNT_NOFOLLOW | flags)
    except OSError as error:
        raise _why_not(error.errno or 0, mount, path) from None


def unmount_tree(mount: MountId, path: str, below: dict[int, MountId] | None, *, lazy: bool = False) -> None:
    """A mount and those below it, if they are these by number (`None`: whichever there are).

    Each is copied before it is unmounted; when a later one turns out to be busy,
    the copies are put where the mounts were, and *below* has their numbers.
    Lazily they go all at once; then who is in there stays. What is mounted
    elsewhere, with the source, is not unmounted there in either case.
    """
    mounts = read_mounts()
    top = find_mount(mounts, mount.number)
    if top is None or top.point != path:  # not to take away what is below some other mount
        raise _why_not(EINVAL, mount, path)
    found = mounts_below(mounts, mount.number)
    strangers = [entry for entry in found if below is not None and not _is_one_of(entry, below)]
    if strangers and not lazy:
        raise _refused(EBUSY, path, "has-submounts", f"Mounted below it since: {_listed(strangers)}.")
    changed: list[MadePrivate] = []
    copies: list[MountCopy] = []
    try:
        for entry in must_be_private([top, *found], mounts):
            changed.append(MadePrivate(entry))
        if lazy:
            unmount_one(mount, path, MNT_DETACH)
            return
        for entry in reversed(found):
            copies.append(MountCopy(entry))
            with copies[-1].unmounting():
                unmount_one(MountId(entry.number, 0), entry.point)
        unmount_one(mount, path)
    except BaseException as error:
        _put_back(changed, copies, below, error)
        raise
    finally:
        for made_private in changed:
            made_private.close()
        for copy in copies:
            copy.close()


def _put_back(
    changed: list[MadePrivate], copies: list[MountCopy], below: dict[int, MountId] | None, error: BaseException
) -> None:
    again = [copy for copy in reversed(copies) if copy.put_back(error)]
    for made_private in changed:
        made_private.put_back(error)
    if below is not None:  # a number of one may be that of another's copy: first these, then those
        for copy in again:
            below.pop(copy.entry.number, None)
        below.update((copy.id.number, copy.id) for copy in again)


def _is_one_of(entry: MountEntry, below: dict[int, MountId]) -> bool:
    known = below.get(entry.number)
    return known is not None and known.is_same(entry.identity())


def _why_not(errno: int, mount: MountId, path: str) -> UsernsError:
    try:
        return _explained(errno, mount, path)
    except OSError:  # no descriptor left to look with, or the like
        return _refused(errno, path, None, "The reason could not be determined.")


def _explained(errno: int, mount: MountId, path: str) -> UsernsError:
    if errno == EBUSY:
        submounts = mounts_below(read_mounts(), mount.number)
        if submounts:
            return _refused(EBUSY, path, "has-submounts", f"Mounted below it: {_listed(submounts)}.")
        return _refused(EBUSY, path, "mount-in-use", described_users(mount.number))
    if errno == EINVAL:
        entry = find_mount(read_mounts(), mount.number)
        if entry is None or entry.point != path:
            return userns_error("umount", errno, path, cause="not-mounted", note=_NOT_MOUNTED)
        return _refused(
            errno,
            path,
            "locked-mount",
            "It came from a more privileged mount namespace, which protects what it covers. Unmount the mount above it "
            "with lazy=True.",
        )
    return userns_error("umount", errno, path)


def _refused(errno: int, path: str, cause: str | None, note: str) -> UsernsError:
    return userns_error("umount", errno, path, cause=cause, note=f"{note} {STILL_THERE}")


def _listed(entries: Sequence[MountEntry]) -> str:
    names = [f"{entry.point} ({entry.fs_type})" for entry in entries[:_SHOWN]]
    return ", ".join(names) + (" and others" if len(entries) > _SHOWN else "")
