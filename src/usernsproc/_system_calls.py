"""System calls that the standard library lacks, as it has others in `os`: an `OSError` with the errno.

Those without a structure are C alone: no signal handler can raise between the call and its result.
"""

from __future__ import annotations

import os
import sys
import time
from errno import EOVERFLOW
from functools import partial
from operator import index
from struct import pack, pack_into, unpack_from

from ._core import NR as _KNOWN
from ._core import attempt, call, call_for_fd
from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final, Literal

    from ._core import Fd, OwnedFd

NR: Final = {
    "pidfd_open": 434,
    "openat2": 437,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
    "statmount": 457,
    "listmount": 458,
    "open_tree_attr": 467,
    "listns": 470,
    **_KNOWN,
}
"""The numbers of system calls. The headers of the kernel that the core was compiled with may lack the first ones, which
are the same on all architectures."""

_PR_SET_PDEATHSIG = 1


def _words(*numbers: Fd) -> bytearray:
    """A structure of 64-bit words. Numbers are converted as in C, where -1 is the largest one."""
    return bytearray(b"".join((index(number) & _LARGEST).to_bytes(8, sys.byteorder) for number in numbers))


_LARGEST = 2**64 - 1

# ---- namespaces ----

setns: Callable[[Fd, int], Literal[0]] = partial(call, NR["setns"])
"""`setns(fd, nstype)`, for the calling thread."""
open_related: Callable[[Fd, int], OwnedFd] = partial(call_for_fd, NR["ioctl"])
"""`open_related(fd, request)`: a request of `ioctl_ns(2)` that opens another namespace."""
pidfd_open: Callable[[int], OwnedFd] = partial(call_for_fd, NR["pidfd_open"])
"""`pidfd_open(pid)`, Linux 5.3."""

_MANY = 512


def listns(after: int) -> list[int]:
    """The next numbers of namespaces after that one, 0 for the first; none after the last. Linux 6.19."""
    numbers, request = bytearray(8 * _MANY), bytearray(pack("=II", 32, 0)) + _words(after, 0, 0)
    count = call(NR["listns"], request, numbers, _MANY, 0)
    return [*unpack_from(f"={count}Q", numbers)]


_NSFS_ROOT = -10003
_HANDLE_OF_NSFS = 0xF1


def open_ns(ns_id: int, nstype: int, inode: int) -> OwnedFd:
    """`open_by_handle_at(2)` of a namespace, Linux 6.18; from 6.19 on, *nstype* and *inode* may be 0."""
    handle = bytearray(pack("=IiQII", 16, _HANDLE_OF_NSFS, ns_id, nstype, inode))
    return call_for_fd(NR["open_by_handle_at"], _NSFS_ROOT, handle, os.O_RDONLY | os.O_CLOEXEC)


# ---- mounts ----

open_tree: Callable[[Fd, bytes, int], OwnedFd] = partial(call_for_fd, NR["open_tree"])
"""`open_tree(dirfd, path, flags)`, Linux 5.2."""
move_mount: Callable[[Fd, bytes, Fd, bytes, int], int] = partial(call, NR["move_mount"])
"""`move_mount(from_dirfd, from_path, to_dirfd, to_path, flags)`, Linux 5.2."""
umount2: Callable[[bytes, int], int] = partial(call, NR["umount2"])
"""`umount2(target, flags)`."""


def _mount_attr(attr_set: int, attr_clr: int, propagation: int, userns_fd: Fd) -> tuple[bytearray, int]:
    """`struct mount_attr`, and its size."""
    attributes = _words(attr_set, attr_clr, propagation, userns_fd)
    return attributes, len(attributes)


def mount_setattr(
    dirfd: int, path: bytes, flags: int, attr_set: int, attr_clr: int, propagation: int, userns_fd: Fd
) -> None:
    """Linux 5.12."""
    call(NR["mount_setattr"], dirfd, path, flags, *_mount_attr(attr_set, attr_clr, propagation, userns_fd))


def open_tree_attr(
    dirfd: int, path: bytes, flags: int, attr_set: int, attr_clr: int, propagation: int, userns_fd: Fd
) -> OwnedFd:
    """Linux 6.15."""
    attributes = _mount_attr(attr_set, attr_clr, propagation, userns_fd)
    return call_for_fd(NR["open_tree_attr"], dirfd, path, flags, *attributes)


def openat2(dirfd: int, path: bytes, flags: int, resolve: int) -> OwnedFd:
    """Linux 5.6."""
    how = _words(flags, 0, resolve)
    return call_for_fd(NR["openat2"], dirfd, path, how, len(how))


_SIZE_OF_STATX, _AT_STX_MNT_ID = 256, 144


def mount_id(dirfd: int, path: bytes, flags: int, mask: int) -> int:
    """`stx_mnt_id` of `statx(2)`; 0: this kernel does not report it for that mask."""
    answer = bytearray(_SIZE_OF_STATX)
    call(NR["statx"], dirfd, path, flags, mask, answer)
    [found] = unpack_from("=I", answer)
    [number] = unpack_from("=Q", answer, _AT_STX_MNT_ID)
    return number if found & mask else 0


def _mnt_id_req(mount: int, parameter: int, namespace: int, fd: int = 0) -> bytearray:
    return bytearray(pack("=Ii", 32, fd)) + _words(mount, parameter, namespace)


_FIRST_SIZE, _LAST_SIZE = 1 << 12, 1 << 20


def statmount(mount: int, mask: int, namespace: int, fd: int, flags: int) -> bytes:
    """A `struct statmount` and its strings. Linux 6.8."""
    request, answer = _mnt_id_req(mount, mask, namespace, fd), bytearray(_FIRST_SIZE)
    while error := attempt(call, NR["statmount"], request, answer, len(answer), flags):
        if error.errno != EOVERFLOW or len(answer) >= _LAST_SIZE:
            raise error
        answer = bytearray(4 * len(answer))
    [written] = unpack_from("=I", answer)
    return bytes(answer[:written])


def listmount(mount: int, last: int, namespace: int) -> list[int]:
    """Up to 512 mounts below one, those after *last*. Linux 6.8."""
    numbers = bytearray(8 * _MANY)
    count = call(NR["listmount"], _mnt_id_req(mount, last, namespace), numbers, _MANY, 0)
    return [*unpack_from(f"={count}Q", numbers)]


# ---- processes ----

landlock_create_ruleset: Callable[[int], int] = partial(call, NR["landlock_create_ruleset"], 0, 0)
"""`landlock_create_ruleset(flags)` without attributes, Linux 5.13: the number that the flags ask for."""
set_death_signal: Callable[[int], int] = partial(call, NR["prctl"], _PR_SET_PDEATHSIG)
"""`set_death_signal(signal)` for the calling thread."""


def ending(socket: int) -> tuple[int, float, int] | None:
    """How the command below an init has ended, as that reports it on `Child.ending`: the wait status, the CPU time in
    seconds, and the hard limit `RLIMIT_CPU` (-1: none).

    The message remains in the socket, which a forked copy of the program shares.
    """
    message = bytearray(48)
    try:
        length = call(NR["recvfrom"], socket, message, len(message), _MSG_PEEK | _MSG_DONTWAIT, 0, 0)
    except OSError:
        return None
    status, seconds, microseconds, of_system, of_system_microseconds, limit = unpack_from("=6q", message)
    used = seconds + of_system + (microseconds + of_system_microseconds) / 1_000_000
    return (status & 0xFFFF, used, limit) if length == len(message) else None


_MSG_PEEK, _MSG_DONTWAIT = 2, 0x40
_POLLIN = 1


def poll(fds: Sequence[int], milliseconds: int) -> list[int]:
    """Those that are readable, by `ppoll(2)`; -1: without a limit.

    Unlike what is in `select`, no library replaces it and it lets no greenlet run, so that it can be called while the
    core waits for an answer.
    """
    polled = bytearray().join(pack("=iHH", fd, _POLLIN, 0) for fd in fds)
    end = time.monotonic_ns() + milliseconds * 1_000_000
    limit = bytearray(16)
    while True:
        pack_into("=qq", limit, 0, *divmod(max(0, end - time.monotonic_ns()), 1_000_000_000))
        try:
            call(NR["ppoll"], polled, len(fds), 0 if milliseconds < 0 else limit, 0, 8)
        except InterruptedError:
            continue
        return [fd for place, fd in enumerate(fds) if unpack_from("=H", polled, 8 * place + 6)[0]]
