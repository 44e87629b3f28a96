"""Files of the system that another user may have made: in a mount namespace that belongs to a
user namespace below the caller's own, root there decides what `/etc` and `/usr/bin` are."""

from __future__ import annotations

import os
from errno import EPERM

from .. import _core
from .._errors import userns_error
from .._proc import own_namespace_identity, proc_error


def refuse_foreign_files(path: str) -> None:
    """For what is believed, or executed, with the caller's rights.

    Raises:
        PermissionError: the calling thread has entered such a mount namespace (`EPERM`, step
            `prepare`, cause `foreign-mount-namespace`).
    """
    try:
        if not _is_mount_namespace_foreign():
            return
    except OSError as error:
        raise proc_error("prepare", error, path) from None
    note = (
        "The mount namespace of the calling thread belongs to a user namespace below its own, whose root controls "
        "this file. Call this before the thread enters the mount namespace, or run a command in it with join=."
    )
    raise userns_error("prepare", EPERM, path, cause="foreign-mount-namespace", note=note)


def _is_mount_namespace_foreign() -> bool:
    try:
        mnt = _core.own_namespace("mnt")
    except FileNotFoundError:
        return False  # there is no /proc: no map can be written, which is said at that step
    with mnt:
        try:
            owner = _core.open_related(mnt, _core.NS_GET_USERNS)
        except PermissionError:
            return False  # above the caller's own user namespace
    with owner as fd:
        status = os.fstat(fd)
        return (status.st_dev, status.st_ino) != own_namespace_identity("user")
