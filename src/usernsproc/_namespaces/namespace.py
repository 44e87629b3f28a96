"""Namespaces as objects: each owns one descriptor."""

from __future__ import annotations

import fcntl
import os
import sys
import warnings
from errno import EINVAL, ENOTTY, EPERM, EXDEV
from operator import index

from .. import _core, _system_calls
from .._caller import Caller
from .._causes import at_step, userns_error
from .._errors import UsernsError
from .._maps.idmap import IdMap
from .._proc import namespace_identity, open_namespace_of, open_own_namespace, open_pidfd, own_setgroups
from .._typing import TYPE_CHECKING
from . import enter as _enter
from . import pin as _pin
from .kind import KIND_OF_FLAG, NamespaceKind
from .map_reader import read_maps

if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

    from typing_extensions import Self

    from .._core import OwnedFd
    from .._proc import ProcessLike
    from .enter import Entered
    from .listing import NamespaceList

__all__ = ["Namespace", "NamespaceKind"]


class Namespace:
    """A namespace, kept alive by the file descriptor that this object owns.

    Two objects are equal, and have the same hash, if they refer to the same namespace.
    Leaving a `with` block closes the descriptor. An object that is dropped without
    `close()` is closed with a `ResourceWarning`.

    `Namespace(fd)` takes ownership of a descriptor; `open`, `of` and `current` open one.
    """

    __slots__ = ("__weakref__", "_kind", "_owned")

    def __init__(self, fd: int | OwnedFd) -> None:
        if isinstance(fd, (str, bytes, os.PathLike)):
            raise TypeError("a Namespace takes over a descriptor; Namespace.open() takes a path")
        self._owned = fd if isinstance(fd, _core.OwnedFd) else _core.own(index(fd))
        self._kind: NamespaceKind | None = None

    @classmethod
    def open(cls, path: str | bytes | os.PathLike[str]) -> Self:
        """Open a namespace file: one of `/proc/PID/ns/`, or a bind mount of one.

        Raises:
            FileNotFoundError, PermissionError: as `open(2)`; for `/proc/PID/ns/` the
                latter is the ptrace access check of `proc(5)`.
            UsernsError: the file is not a namespace (`ENOTTY`).
        """
        with at_step("open_ns", os.fspath(path)):
            owned = _core.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with owned as fd:
            try:
                fcntl.ioctl(fd, _core.NS_GET_NSTYPE)
            except OSError as error:
                raise _no_namespace(error.errno or 0, os.fspath(path)) from None
            return cls(owned.move())

    @classmethod
    def of(cls, process: ProcessLike, kind: str = "user") -> Self:
        """Open the namespace of a process.

        Args:
            process: an object with a pidfd (`UsernsProcess`), a pidfd, or a PID. A PID
                can be recycled: it may by now belong to a different process. A pidfd
                cannot.
            kind: the kind of the namespace.

        Raises:
            ProcessLookupError: the process does not exist or has exited (`ESRCH`).
            PermissionError: the ptrace access check of `proc(5)` failed (`EACCES`).
            UsernsError: `/proc` is forged (`EXDEV`, step `open_proc`, cause
                `proc-forged`). With a pidfd, `/proc` is not used on Linux 6.11 or later.
            ValueError: an unknown kind, or a number that is both an open pidfd and the
                PID of a different process.
        """
        kind = NamespaceKind(kind)
        with open_pidfd(process) as pidfd:
            return cls(open_namespace_of(pidfd, kind))

    @classmethod
    def current(cls, kind: str = "user") -> Self:
        """Open the namespace of the calling thread."""
        return cls(open_own_namespace(NamespaceKind(kind)))

    def fileno(self) -> int:
        """The descriptor, borrowed: this object owns it and closes it."""
        if self._owned.closed:
            raise ValueError("operation on a closed namespace")
        return self._owned.fileno()

    def detach(self) -> int:
        """Return the descriptor, which the caller must close. This object is closed then."""
        self.fileno()
        return self._owned.take()

    def close(self) -> None:
        """Close the descriptor. The namespace ends if nothing else keeps it alive. Calling it again has no effect."""
        self._owned.close()

    @property
    def closed(self) -> bool:
        """Whether the descriptor was closed or detached."""
        return self._owned.closed

    def __enter__(self) -> Self:
        self.fileno()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, _warn: object = warnings.warn) -> None:
        if hasattr(self, "_owned") and not self._owned.closed:
            _warn(f"unclosed {self!r}", ResourceWarning, source=self)  # type: ignore[operator]
            self.close()

    @property
    def kind(self) -> NamespaceKind:
        """The kind of the namespace (`NS_GET_NSTYPE` of `ioctl_ns(2)`).

        Raises:
            UsernsError: the descriptor is not a namespace (`ENOTTY`, step `open_ns`).
        """
        if self._kind is None:
            flag = _core.attempt(fcntl.ioctl, self.fileno(), _core.NS_GET_NSTYPE)
            if isinstance(flag, OSError):
                raise _no_namespace(flag.errno or 0)
            self._kind = KIND_OF_FLAG[flag]
        return self._kind

    @property
    def inode(self) -> int:
        """The number in `user:[…]`. With `device` it identifies the namespace while that exists."""
        return self._identity()[1]

    @property
    def device(self) -> int:
        """The device number of the namespace file system."""
        return self._identity()[0]

    @property
    def path(self) -> str:
        """`/proc/self/fd/N`, for functions that take a path. Valid in this process until `close()`."""
        return f"/proc/self/fd/{self.fileno()}"

    def _identity(self) -> tuple[int, int]:
        return namespace_identity(self.fileno())

    def __eq__(self, other: object) -> bool:
        return self._identity() == other._identity() if isinstance(other, Namespace) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        if self.closed:
            return "<Namespace closed>"
        try:
            return f"<Namespace {self.kind}:[{self.inode}] fd {self.fileno()}>"
        except OSError:
            return f"<Namespace fd {self.fileno()}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Namespace cannot be pickled: its descriptor belongs to this process")

    @property
    def owner_uid(self) -> int:
        """The user ID that owns this user namespace and has all capabilities in it, as an ID of
        the caller's user namespace (`NS_GET_OWNER_UID`).

        Raises:
            UsernsError: it is not a user namespace (`EINVAL`); ask its `owner()`.
        """
        try:
            return owner_uid_of(self.fileno())
        except OSError as error:
            raise self._refusal(error, "only user namespaces have an owner_uid; ask its owner()") from None

    def owner(self) -> Namespace:
        """The user namespace that owns this one (`NS_GET_USERNS`); for a user namespace its parent.

        Raises:
            PermissionError: the owner is neither the caller's user namespace nor one below it (`EPERM`).
        """
        return self._related(_core.NS_GET_USERNS, "its owner is outside the user namespace of this process")

    def parent(self) -> Namespace:
        """The parent of a user or pid namespace (`NS_GET_PARENT`).

        Raises:
            PermissionError: the parent is neither the caller's namespace nor one below it (`EPERM`).
            UsernsError: the kind has no hierarchy (`EINVAL`).
        """
        return self._related(
            _core.NS_GET_PARENT,
            "only user and PID namespaces have parents, and only the caller's namespace and those below it are visible",
        )

    def _related(self, request: int, reason: str) -> Namespace:
        try:
            return Namespace(_system_calls.open_related(self.fileno(), request))
        except OSError as error:
            raise self._refusal(error, reason) from None

    def _refusal(self, error: OSError, reason: str) -> OSError:
        note = f"{self!r}: {reason}." if error.errno in (EINVAL, EPERM, ENOTTY) else None
        return userns_error("open_ns", error.errno or 0, note=note)

    @property
    def uid_map(self) -> IdMap:
        """The user ID map, from IDs in the namespace to IDs in its parent.

        The namespace need not have a process: an internal helper program enters it,
        reads its own `/proc/self/uid_map` and exits. This requires `CAP_SYS_ADMIN` in
        the namespace, which its owner has.

        Raises:
            PermissionError: the caller may not enter it (`EPERM`, step `setns`).
            UsernsError: it is not a user namespace (`EINVAL`, step `setns`).
        """
        return self._read_maps()[0]

    @property
    def gid_map(self) -> IdMap:
        """The group ID map, read like `uid_map`."""
        return self._read_maps()[1]

    def _read_maps(self) -> tuple[IdMap, IdMap, str]:
        """Both maps, empty while unwritten, and `setgroups`."""
        with Namespace.current() as current:
            if self == current:
                caller = Caller.now()
                return caller.uid_map, caller.gid_map, own_setgroups()
        try:
            uids, gids, setgroups = read_maps(self.fileno())
        except UsernsError as error:
            raise self._no_maps(error) from None
        return IdMap.from_kernel(uids), IdMap.from_kernel(gids), setgroups.strip()

    def _no_maps(self, error: UsernsError) -> UsernsError:
        if error.errno == EXDEV:
            return userns_error("open_proc", EXDEV, error.filename)
        if error.errno != EINVAL or self.kind is NamespaceKind.USER:
            return error
        note = f"{self!r} has no ID maps, only user namespaces do; ask its owner()."
        return userns_error(error.step or "setns", EINVAL, cause="not-a-user-namespace", note=note)

    def enter(self) -> Entered:
        """Move the calling **thread** into the namespace with `setns(2)`.

        The thread has moved when the call returns. The result may be ignored, or used to
        return: with `with namespace.enter(): ...` the thread is in the namespace for the
        block only; see `Entered`.

        Only the calling thread moves, with the processes and threads that it starts
        meanwhile. After entering a PID namespace, only children that are created later
        are in it, not the thread itself. After entering a mount namespace, the root and
        the working directory are the root of that namespace.

        In a mount namespace, every path leads to a file of its owner. All modules of this
        package are loaded before the thread enters. Other modules that are imported there
        are files of the owner, and run with the rights of this process. Use `join` of
        `UsernsProcess` for a mount namespace that you do not trust.

        Raises:
            PermissionError: `EPERM`: requires `CAP_SYS_ADMIN` in the owner of the
                namespace and in the caller's user namespace (for a mount namespace,
                `CAP_SYS_CHROOT` as well).
            UsernsError: `EINVAL`, `EUSERS`, with the reason in a note. A process with
                several threads cannot enter a user or time namespace, and no process can
                enter the user namespace that it is in. A thread that shares its root and
                working directory with others (`CLONE_FS`) cannot enter a mount namespace.
                A PID namespace can be entered only from itself or from one above it.
        """
        return _enter.enter(self.fileno(), self.kind)

    def pin(self, path: str | bytes | os.PathLike[str]) -> None:
        """Keep the namespace alive at a path until `unpin`, without a process or descriptor.

        The namespace is mounted on a file with `open_tree(OPEN_TREE_CLONE)` and
        `move_mount()`, like `unshare(1)` and `ip netns` do. The file is created if
        necessary and removed on failure: either the namespace is pinned or nothing has
        changed. If the file or the mount cannot be removed, a note on the exception says so.
        The path can be passed to `Namespace.open`, `nsenter(1)` and `idmapped_mount`.

        Args:
            path: a name that does not exist, or an empty regular file. A symbolic
                link is not followed.

        Raises:
            FileExistsError: *path* is a pin (cause `already-pinned`), or is not an
                empty regular file (cause `not-a-mount-point`); step `mount_point`.
            FileNotFoundError, PermissionError: as `open(2)`, if the file has to be
                created; step `mount_point`.
            PermissionError: step `open_tree`: a mount requires `CAP_SYS_ADMIN` in the
                owner of the current mount namespace (`EPERM`). An unprivileged user can
                pin in a mount namespace that belongs to a user namespace of that user.
            UsernsError: mount namespaces only, step `move_mount`: `ELOOP` (it is the
                current one, or older than that one: cause `mount-loop`), `EINVAL` (the
                mount at *path* propagates to others: cause `shared-mount`).

        Linux 5.2. See `namespaces(7)`, `mount_namespaces(7)`.
        """
        _pin.pin(self.fileno(), self.kind, path)

    @staticmethod
    def unpin(path: str | bytes | os.PathLike[str]) -> None:
        """Undo `pin`: unmount the namespace at *path*, and remove the file if it is empty.

        Only a namespace is unmounted: the mount is opened, checked and then unmounted by
        its descriptor. If other tools have stacked several, it is the topmost. The
        namespace ends unless something else keeps it alive: a process, a descriptor
        (also one of this file), another pin, or a copy of the mount in another mount
        namespace.

        The directory of *path* is looked up once: if it is renamed meanwhile, nothing in
        another directory is unmounted or removed.

        Raises:
            FileNotFoundError: the file does not exist; step `mount_point`.
            UsernsError: `EINVAL`: no namespace is pinned at *path* (cause `not-pinned`,
                step `mount_point`), or the mount came from a more privileged mount
                namespace (step `umount`).
            PermissionError: step `umount`: requires `CAP_SYS_ADMIN` in the owner of the
                current mount namespace (`EPERM`). Step `mount_point`: the namespace is
                unmounted, but the file could not be removed.

        Linux 5.2. See `umount2(2)`.
        """
        _pin.unpin(path)

    @staticmethod
    def list(kind: str | None = None) -> NamespaceList:
        """List the namespaces that the caller can see; see `NamespaceInfo` and `NamespaceList`.

        `/proc` shows those of the threads of all processes, those that are kept alive by
        open descriptors and bind mounts, and their parents and owners. From Linux 6.19 on,
        the kernel also lists the others (`listns(2)`), such as a namespace that is kept
        alive by a descriptor in a socket's queue, or by a mount in a mount namespace
        without a process. A network namespace that is used only by a socket is not listed.
        No descriptor stays open.

        The list is not a snapshot: namespaces that are created or end meanwhile may be
        missing, or may no longer exist.

        Args:
            kind: list only namespaces of this kind; default: all kinds.

        Raises:
            FileNotFoundError: `/proc` is not mounted; step `open_proc`.
            UsernsError: not enough descriptors, memory or processes (`EMFILE`, `ENFILE`,
                `ENOMEM`, `EAGAIN`); step `open_ns` or `open_proc`.
        """
        from .listing import list_namespaces  # the one circle: what it lists opens as a Namespace

        return list_namespaces(None if kind is None else NamespaceKind(kind))


def owner_uid_of(fd: int) -> int:
    """`Namespace.owner_uid`, with the kernel's own error."""
    answer = bytearray(4)
    fcntl.ioctl(fd, _core.NS_GET_OWNER_UID, answer)
    return int.from_bytes(answer, sys.byteorder)


def _no_namespace(errno: int, filename: object = None) -> UsernsError:
    note = "It is not a namespace (ioctl_ns(2)). Use a file of /proc/PID/ns/, or a pin."
    return userns_error("open_ns", errno, filename, note=note)
