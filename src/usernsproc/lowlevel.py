"""A parked child in a new user namespace, and thin wrappers of system calls that `os` lacks.

The wrappers do what the system call does and raise `OSError` with its errno.
"""

from __future__ import annotations

import os
import signal

from . import _system_calls
from ._preload import before_entering
from ._setup.calls import SETUP_OF_HOLDER
from ._spawn import Signals, start
from ._uapi import CLONE_NEWNS, STATX_MNT_ID_UNIQUE

__all__ = [
    "fork_userns",
    "listmount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "open_tree_attr",
    "setns",
    "statmount",
    "umount2",
    "unique_mount_id",
]


def fork_userns() -> tuple[int, int]:
    """A parked child in a new user namespace: `(pid, pidfd)`, the pidfd the caller's to close.

    The call that containerd had as `ForkUserns`. The child is a holder (see
    `UsernsProcess`): it runs an internal helper program, exits when the calling
    process exits for any reason, and can be killed and reaped through the
    pidfd: `signal.pidfd_send_signal(pidfd, SIGKILL)`, `os.waitid(os.P_PIDFD, …)`.
    Its maps are unwritten: they are the caller's to write, to
    `/proc/PID/setgroups`, `uid_map` and `gid_map`, with one `write(2)` each.

    Unlike `ForkUserns` it does not copy the caller's memory, and holds none of
    its descriptors.

    Raises:
        UsernsError: as `create_userns`, at the steps `prepare` and `clone`.

    Linux 5.4. See `clone(2)`.
    """
    child = start(None, setup=SETUP_OF_HOLDER, signals=Signals(None, signal.SIGKILL))
    pid, pidfd = child.pid, child.pidfd
    child.taken, child.pidfd = True, -1  # since start() there was no call, after which a signal handler could raise
    return pid, pidfd


def setns(fd: int, nstype: int = 0) -> None:
    """`setns(2)`: the calling thread enters the namespace; *nstype* 0: of any kind.

    Unless *nstype* excludes a mount namespace, all modules of this package are loaded before, as by `Namespace.enter`.
    """
    if not nstype or nstype & CLONE_NEWNS:
        before_entering()
    _system_calls.setns(fd, nstype)


def open_tree(dirfd: int, path: str | bytes | os.PathLike[str], flags: int) -> int:
    """`open_tree(2)`, Linux 5.2: a descriptor of a mount, or with `OPEN_TREE_CLONE` of a detached copy."""
    return _system_calls.open_tree(dirfd, os.fsencode(path), flags).take()


def mount_setattr(
    dirfd: int,
    path: str | bytes | os.PathLike[str],
    flags: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """`mount_setattr(2)`, Linux 5.12."""
    _system_calls.mount_setattr(dirfd, os.fsencode(path), flags, attr_set, attr_clr, propagation, userns_fd)


def open_tree_attr(
    dirfd: int,
    path: str | bytes | os.PathLike[str],
    flags: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> int:
    """`open_tree_attr(2)`, Linux 6.15: `open_tree` and `mount_setattr` in one, which can also replace
    the maps of an idmapped mount in the copy."""
    return _system_calls.open_tree_attr(
        dirfd, os.fsencode(path), flags, attr_set, attr_clr, propagation, userns_fd
    ).take()


def move_mount(
    from_dirfd: int,
    from_path: str | bytes | os.PathLike[str],
    to_dirfd: int,
    to_path: str | bytes | os.PathLike[str],
    flags: int,
) -> None:
    """`move_mount(2)`, Linux 5.2."""
    _system_calls.move_mount(from_dirfd, os.fsencode(from_path), to_dirfd, os.fsencode(to_path), flags)


def umount2(target: str | bytes | os.PathLike[str], flags: int = 0) -> None:
    """`umount2(2)`."""
    _system_calls.umount2(os.fsencode(target), flags)


def unique_mount_id(dirfd: int, path: str | bytes | os.PathLike[str], flags: int = 0) -> int:
    """`stx_mnt_id` of `statx(2)` with `STATX_MNT_ID_UNIQUE`, Linux 6.8: what `statmount` and `listmount`
    take. 0: an older kernel."""
    return _system_calls.mount_id(dirfd, os.fsencode(path), flags, STATX_MNT_ID_UNIQUE)


def statmount(mnt_id: int, mask: int, *, mnt_ns_id: int = 0, fd: int = 0, flags: int = 0) -> bytes:
    """`statmount(2)`, Linux 6.8: a `struct statmount` and the strings that it points to; *fd* is for
    `STATMOUNT_BY_FD`, Linux 7.0."""
    return _system_calls.statmount(mnt_id, mask, mnt_ns_id, fd, flags)


def listmount(mnt_id: int, *, last_mnt_id: int = 0, mnt_ns_id: int = 0) -> list[int]:
    """`listmount(2)`, Linux 6.8: unique ids of the mounts below one, 512 at most; go on with the last as
    *last_mnt_id*."""
    return _system_calls.listmount(mnt_id, last_mnt_id, mnt_ns_id)
