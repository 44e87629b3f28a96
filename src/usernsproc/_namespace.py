"""Namespaces as objects: each owns one descriptor."""

from __future__ import annotations

import fcntl
import os
import sys
import warnings
from enum import StrEnum
from errno import EINVAL, ENOENT, ENOTTY, EPERM, ESRCH, EUSERS
from operator import index
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from . import _core
from ._caller import Caller
from ._errors import closed_error, userns_error
from ._idmap import IdMap, IdMapLike
from ._mapwriter import Maps
from ._procdir import open_proc_dir

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from ._procdir import ProcessLike

__all__ = ["Namespace", "NamespaceKind", "create_userns"]


class NamespaceKind(StrEnum):
    """The eight kinds of namespaces (`namespaces(7)`); plain strings do as well."""

    USER = "user"
    MNT = "mnt"
    PID = "pid"
    NET = "net"
    IPC = "ipc"
    UTS = "uts"
    CGROUP = "cgroup"
    TIME = "time"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"{value!r} is no kind of namespace: {', '.join(cls)}")

    @property
    def flag(self) -> int:
        """The `CLONE_NEW…` constant of the kind."""
        return _FLAGS[self]


_FLAGS = {
    NamespaceKind.USER: 0x10000000,
    NamespaceKind.MNT: 0x00020000,
    NamespaceKind.PID: 0x20000000,
    NamespaceKind.NET: 0x40000000,
    NamespaceKind.IPC: 0x08000000,
    NamespaceKind.UTS: 0x04000000,
    NamespaceKind.CGROUP: 0x02000000,
    NamespaceKind.TIME: 0x00000080,
}
_KINDS = {flag: kind for kind, flag in _FLAGS.items()}


def create_userns(uid_map: IdMapLike, gid_map: IdMapLike, *, setgroups: str | None = None) -> Namespace:
    """Make a user namespace with these id maps and return it as a descriptor.

    A transient child is made with `clone(CLONE_NEWUSER | CLONE_VM | CLONE_FILES |
    CLONE_PIDFD)`; its maps are written, `/proc/PID/ns/user` is opened, and it is
    killed and reaped, all in one call that lets go of the GIL. The cost does not
    depend on the size of the calling process. No process is left. The child sends
    no SIGCHLD, no `waitpid(-1)` finds it, and it does not matter whether SIGCHLD
    is ignored.

    Args:
        uid_map: user ids, see `IdMapLike`.
        gid_map: group ids.
        setgroups: `"allow"`, `"deny"`, or `None` for what the map needs: `"deny"`
            exactly where the kernel demands it, that is without `CAP_SETGID`.

    Raises:
        IdMapError: a map is malformed; nothing was created.
        IdMapPermissionError: this caller may not write such a map (`EPERM`);
            nothing was created.
        UsernsError: a step failed: `clone` with `ENOSPC` (limit
            `user.max_user_namespaces`, or nested too deep), `EPERM` (chroot,
            seccomp, own id unmapped), `EAGAIN` (process limit), `EMFILE`
            (descriptor limit); `open_proc` with `ENOENT` (no `/proc`); `uid_map`,
            `gid_map`, `setgroups`, `open_ns` with `EACCES` (the calling process is
            not dumpable) or `EPERM`.

    Linux 5.4. See `user_namespaces(7)`, `clone(2)`.
    """
    maps = Maps.wanted(uid_map, gid_map, setgroups, Caller.now())
    if maps.uid_map is None or maps.gid_map is None:
        raise TypeError("both maps are needed: when the namespace is there, nobody is left to write one to")
    userns = Namespace(-1)
    try:
        _core.create_userns(maps.setgroups, maps.uid_text, maps.gid_text, userns)
    except _core.Failure as failure:
        raise userns_error(*failure.args) from None
    except BaseException:  # of a signal handler: the descriptor may be there already
        userns.close()
        raise
    return userns


class Namespace:
    """A namespace, kept alive by the file descriptor that this object owns.

    Equal and of the same hash when it is the same namespace, by whatever
    descriptor. Leaving a `with` block closes it. A namespace that is dropped
    without `close()` is closed with a `ResourceWarning`.

    `Namespace(fd)` takes over a descriptor; `open`, `of` and `current` find one.
    """

    __slots__ = ("__weakref__", "_fd", "_kind")

    def __init__(self, fd: int) -> None:
        if isinstance(fd, (str, bytes, os.PathLike)):
            raise TypeError("a Namespace takes over a descriptor; Namespace.open() takes a path")
        self._fd = index(fd)
        self._kind: NamespaceKind | None = None

    @classmethod
    def open(cls, path: str | bytes | os.PathLike[str]) -> Self:
        """Open a namespace file: one of `/proc/PID/ns/`, or a bind mount of one.

        Raises:
            FileNotFoundError, PermissionError: as `open(2)` does; for
                `/proc/PID/ns/` the latter is the ptrace access check of `proc(5)`.
            UsernsError: the file is no namespace (`ENOTTY`).
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise userns_error("open_ns", error.errno or 0, os.fspath(path)) from None
        try:
            fcntl.ioctl(fd, _core.NS_GET_NSTYPE)
        except OSError as error:
            os.close(fd)
            raise userns_error(
                "open_ns", error.errno or 0, os.fspath(path), note="The file is no namespace (ioctl_ns(2))."
            ) from None
        return cls(fd)

    @classmethod
    def of(cls, process: ProcessLike, kind: str = "user") -> Self:
        """The namespace of a process, given as an object with a pidfd (`UsernsProcess`),
        a pidfd, or a pid.

        With a pidfd it cannot be the namespace of a stranger that got the pid of a
        process that is gone. A pid can only be taken at its word.

        Raises:
            ProcessLookupError: the process is gone (`ESRCH`).
            PermissionError: the ptrace access check of `proc(5)` failed (`EACCES`).
            ValueError: no such kind, or a number that is an open pidfd and the pid
                of another process as well.
        """
        kind = NamespaceKind(kind)
        proc_dir = open_proc_dir(process)
        try:
            return cls(open_namespace_at(proc_dir, kind))
        finally:
            os.close(proc_dir)

    @classmethod
    def current(cls, kind: str = "user") -> Self:
        """The namespace of the calling thread."""
        return cls.open(f"/proc/thread-self/ns/{NamespaceKind(kind)}")

    def fileno(self) -> int:
        """The descriptor, borrowed: it stays this object's."""
        if self._fd < 0:
            raise closed_error("namespace")
        return self._fd

    def detach(self) -> int:
        """Give up ownership: the descriptor is the caller's to close, this object is closed."""
        fd = self.fileno()
        self._fd = -1
        return fd

    def close(self) -> None:
        """Close the descriptor. The namespace ends when nothing else holds it. Again: no effect."""
        if self._fd >= 0:
            os.close(self.detach())

    @property
    def closed(self) -> bool:
        """Whether the descriptor was closed or given up."""
        return self._fd < 0

    def __enter__(self) -> Self:
        self.fileno()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, _warn: object = warnings.warn) -> None:
        if getattr(self, "_fd", -1) >= 0:
            _warn(f"unclosed {self!r}", ResourceWarning, source=self)  # type: ignore[operator]
            self.close()

    @property
    def kind(self) -> NamespaceKind:
        """Which of the eight kinds it is (`NS_GET_NSTYPE` of `ioctl_ns(2)`)."""
        if self._kind is None:
            self._kind = _KINDS[fcntl.ioctl(self.fileno(), _core.NS_GET_NSTYPE)]
        return self._kind

    @property
    def inode(self) -> int:
        """The number in `user:[…]`. With `device` it identifies the namespace while that exists."""
        return os.fstat(self.fileno()).st_ino

    @property
    def device(self) -> int:
        """The device number of the namespace file system."""
        return os.fstat(self.fileno()).st_dev

    @property
    def path(self) -> str:
        """`/proc/self/fd/N`, for what takes a path; only good in this process and while open."""
        return f"/proc/self/fd/{self.fileno()}"

    def _identity(self) -> tuple[int, int]:
        status = os.fstat(self.fileno())
        return status.st_dev, status.st_ino

    def __eq__(self, other: object) -> bool:
        return self._identity() == other._identity() if isinstance(other, Namespace) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        if self._fd < 0:
            return "<Namespace closed>"
        try:
            return f"<Namespace {self.kind}:[{self.inode}] fd {self._fd}>"
        except OSError:
            return f"<Namespace fd {self._fd}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Namespace cannot be pickled: its descriptor belongs to this process")

    @property
    def owner_uid(self) -> int:
        """The user id, in the caller's user namespace, that made this user namespace and has all
        capabilities in it (`NS_GET_OWNER_UID`).

        Raises:
            UsernsError: it is not a user namespace (`EINVAL`); ask its `owner()`.
        """
        answer = bytearray(4)
        try:
            fcntl.ioctl(self.fileno(), _core.NS_GET_OWNER_UID, answer)
        except OSError as error:
            raise self._refused(error, "owner_uid is known of user namespaces only; ask its owner()") from None
        return int.from_bytes(answer, sys.byteorder)

    def owner(self) -> Namespace:
        """The user namespace that owns this one (`NS_GET_USERNS`); for a user namespace its parent.

        Raises:
            PermissionError: it is not this process' user namespace or one below it (`EPERM`).
        """
        return self._related(_core.NS_GET_USERNS, "its owner is outside of this process' own user namespace")

    def parent(self) -> Namespace:
        """The parent of a user or pid namespace (`NS_GET_PARENT`).

        Raises:
            PermissionError: the parent is out of this process' sight (`EPERM`).
            UsernsError: the kind has no hierarchy (`EINVAL`).
        """
        return self._related(
            _core.NS_GET_PARENT,
            "only user and pid namespaces have parents, and only one's own namespace and those below are visible",
        )

    def _related(self, request: int, reason: str) -> Namespace:
        try:
            return Namespace(fcntl.ioctl(self.fileno(), request))
        except OSError as error:
            raise self._refused(error, reason) from None

    def _refused(self, error: OSError, reason: str) -> OSError:
        note = f"{self!r}: {reason}." if error.errno in (EINVAL, EPERM, ENOTTY) else None
        return userns_error("open_ns", error.errno or 0, note=note)

    @property
    def uid_map(self) -> IdMap:
        """The user id map, from inside to the parent namespace.

        Read from the descriptor alone, with no process of the namespace left: a
        program of ours enters the namespace, reads its own `/proc/self/uid_map`
        and ends. That takes `CAP_SYS_ADMIN` in the namespace, which who made it has.

        Raises:
            PermissionError: no right to enter it (`EPERM`, step `setns`).
            UsernsError: it is not a user namespace (`EINVAL`, step `setns`).
        """
        return self._read_maps().uid_map

    @property
    def gid_map(self) -> IdMap:
        """The group id map; as `uid_map`."""
        return self._read_maps().gid_map

    def _read_maps(self) -> WrittenMaps:
        with Namespace.current() as current:
            if self == current:
                caller = Caller.now()
                return WrittenMaps(caller.uid_map, caller.gid_map, _own_setgroups())
        try:
            uids, gids, setgroups = _core.read_maps(self.fileno()).split(b"\0")
        except _core.Failure as failure:
            raise userns_error(*failure.args) from None
        return WrittenMaps(IdMap.from_kernel(uids), IdMap.from_kernel(gids), setgroups.decode().strip())

    def enter(self) -> None:
        """Move the calling **thread** into the namespace, with `setns(2)`.

        There is no way back but to enter the previous one again, where that is
        allowed. A pid or time namespace is entered by children made later.

        Raises:
            PermissionError: `EPERM`: it takes `CAP_SYS_ADMIN` in the namespace's
                owner, and in the own user namespace.
            UsernsError: `EINVAL`, with the reason in a note: a user namespace
                cannot be entered by a process with several threads, nor by one
                that is in it already; a mount namespace not by a thread that
                shares its root and working directory (`CLONE_FS`) with others.
        """
        kind = self.kind
        try:
            _core.setns(self.fileno(), kind.flag)
        except OSError as error:
            raise self._not_entered(error, kind) from None

    def _not_entered(self, error: OSError, kind: NamespaceKind) -> OSError:
        cause = note = None
        if error.errno in (EINVAL, EUSERS):
            with Namespace.current(kind) as current:
                if current == self:
                    cause, note = "already-there", f"The calling thread is in this {kind} namespace already."
            if note is None and kind in ("user", "mnt", "time") and len(os.listdir("/proc/self/task")) > 1:
                cause, note = (
                    "threads",
                    (
                        f"A process with several threads cannot enter a {kind} namespace. "
                        "Start a command in it, or do it in a child process."
                    ),
                )
        return userns_error("setns", error.errno or 0, cause=cause, note=note)


class WrittenMaps(NamedTuple):
    """What the kernel says of a user namespace; an unwritten map is empty."""

    uid_map: IdMap
    gid_map: IdMap
    setgroups: str


def _own_setgroups() -> str:
    with open("/proc/thread-self/setgroups", encoding="ascii") as file:
        return file.read().strip()


def open_namespace_at(proc_dir: int, kind: NamespaceKind) -> int:
    try:
        return os.open(f"ns/{kind}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_dir)
    except OSError as error:
        if error.errno == ENOENT and os.path.exists(f"/proc/self/ns/{kind}"):
            note = "The process has ended: a zombie is in no namespace but its user and pid namespace."
            raise userns_error("open_ns", ESRCH, f"ns/{kind}", cause="process-gone", note=note) from None
        raise userns_error("open_ns", error.errno or 0, f"ns/{kind}") from None
