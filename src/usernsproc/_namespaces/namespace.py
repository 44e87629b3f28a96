"""Namespaces as objects: each owns one descriptor."""

from __future__ import annotations

import fcntl
import os
import sys
import warnings
from errno import EINVAL, ENOENT, ENOTTY, EPERM, ESRCH
from operator import index

from .. import _core
from .._caller import Caller
from .._errors import UsernsError, at_step, closed_error, userns_error
from .._evidence import failed
from .._maps.idmap import IdMap, IdMapLike
from .._maps.writer import Maps
from .._proc import open_pidfd, open_proc_dir_of, proc_error, read_proc
from .._typing import TYPE_CHECKING
from . import enter as _enter
from . import pin as _pin
from .kind import KIND_OF_FLAG, NamespaceKind
from .owner import checked_owner

if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

    from typing_extensions import Self

    from .._core import OwnedFd
    from .._proc import ProcessLike
    from .enter import Entered
    from .listing import NamespaceList

__all__ = ["Namespace", "NamespaceKind", "create_userns"]


def create_userns(
    uid_map: IdMapLike, gid_map: IdMapLike, *, setgroups: str | None = None, owner: int | None = None
) -> Namespace:
    """Make a user namespace with these id maps and return it as a descriptor.

    A transient child is made with `clone(CLONE_NEWUSER | CLONE_VM | CLONE_FILES |
    CLONE_PIDFD)`; its maps are written, `/proc/PID/ns/user` is opened, and it is
    killed and reaped, all in one call that lets go of the GIL. The cost does not
    depend on the size of the calling process. No process is left. The child sends
    no SIGCHLD, no `waitpid(-1)` finds it, and it does not matter whether SIGCHLD
    is ignored.

    A map of subordinate ids that the calling process may not write itself is
    written by `newuidmap(1)` or `newgidmap(1)`, which takes some milliseconds more.

    Args:
        uid_map: user ids, see `IdMapLike`.
        gid_map: group ids.
        setgroups: `"allow"`, `"deny"`, or `None` for what the map needs: `"deny"`
            exactly where the kernel demands it, that is for a map of the own group
            alone without `CAP_SETGID`.
        owner: the id **outside** that shall own it and is charged for it
            (`user.max_user_namespaces`). Another than the own one takes `CAP_SETUID`,
            and a program of ours that becomes it: this process keeps its ids. Of that
            program nobody hears either: its parent is a transient child.

    Raises:
        IdMapError: a map is malformed; nothing was created.
        IdMapPermissionError: this caller may not have such a map (`EPERM`), with
            the rule in `cause`; nothing was created.
        CredentialsError: this caller may not become *owner* (`EPERM`, step `owner`);
            nothing was created.
        MapToolError: `newuidmap` or `newgidmap` failed (step of that name).
        UsernsError: a step failed: `clone` with `ENOSPC` (limit
            `user.max_user_namespaces`, or nested too deep), `EPERM` (chroot,
            seccomp, own id unmapped), `EAGAIN` (process limit), `EMFILE`
            (descriptor limit); `open_proc` with `ENOENT` (no `/proc`) or `EXDEV`
            (a forged one); `uid_map`,
            `gid_map`, `setgroups`, `open_ns` with `EACCES` (the calling process is
            not dumpable) or `EPERM`.

    Linux 5.4. See `user_namespaces(7)`, `clone(2)`.
    """
    caller = Caller.now()
    maps = Maps.resolve(uid_map, gid_map, setgroups, caller)
    if maps.uid_map is None or maps.gid_map is None:
        raise TypeError("both maps are needed: when the namespace is there, nobody is left to write one to")
    owner = checked_owner(owner, caller)
    between = maps.write_via_newidmap if maps.via_newidmap else None
    owner_uid = -1 if owner is None else owner
    try:
        return Namespace(_core.create_userns(*maps.for_core, between, owner_uid))
    except _core.Failure as failure:
        raise failed(failure) from None


class Namespace:
    """A namespace, kept alive by the file descriptor that this object owns.

    Equal and of the same hash when it is the same namespace, by whatever
    descriptor. Leaving a `with` block closes it. A namespace that is dropped
    without `close()` is closed with a `ResourceWarning`.

    `Namespace(fd)` takes over a descriptor; `open`, `of` and `current` find one.
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
            FileNotFoundError, PermissionError: as `open(2)` does; for
                `/proc/PID/ns/` the latter is the ptrace access check of `proc(5)`.
            UsernsError: the file is no namespace (`ENOTTY`).
        """
        try:
            owned = _core.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise userns_error("open_ns", error.errno or 0, os.fspath(path)) from None
        with owned as fd:
            try:
                fcntl.ioctl(fd, _core.NS_GET_NSTYPE)
            except OSError as error:
                raise _no_namespace(error.errno or 0, os.fspath(path)) from None
            return cls(owned.move())

    @classmethod
    def of(cls, process: ProcessLike, kind: str = "user") -> Self:
        """The namespace of a process, given as an object with a pidfd (`UsernsProcess`),
        a pidfd, or a pid.

        With a pidfd it cannot be the namespace of a stranger that got the pid of a
        process that is gone. A pid can only be taken at its word.

        Raises:
            ProcessLookupError: the process is gone (`ESRCH`).
            PermissionError: the ptrace access check of `proc(5)` failed (`EACCES`).
            UsernsError: `/proc` is forged (`EXDEV`, step `open_proc`, cause
                `proc-forged`). Given a pidfd, `/proc` is not used from Linux 6.11 on.
            ValueError: no such kind, or a number that is an open pidfd and the pid
                of another process as well.
        """
        kind = NamespaceKind(kind)
        with open_pidfd(process) as pidfd:
            return cls(open_namespace_of(pidfd, kind))

    @classmethod
    def current(cls, kind: str = "user") -> Self:
        """The namespace of the calling thread."""
        kind = NamespaceKind(kind)
        try:
            return cls(_core.own_namespace(kind))
        except OSError as error:
            raise proc_error("open_ns", error, f"/proc/thread-self/ns/{kind}") from None

    def fileno(self) -> int:
        """The descriptor, borrowed: it stays this object's."""
        if self._owned.closed:
            raise closed_error("namespace")
        return self._owned.fileno()

    def detach(self) -> int:
        """Give up ownership: the descriptor is the caller's to close, this object is closed."""
        self.fileno()
        return self._owned.take()

    def close(self) -> None:
        """Close the descriptor. The namespace ends when nothing else holds it. Again: no effect."""
        self._owned.close()

    @property
    def closed(self) -> bool:
        """Whether the descriptor was closed or given up."""
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
        """Which of the eight kinds it is (`NS_GET_NSTYPE` of `ioctl_ns(2)`).

        Raises:
            UsernsError: the descriptor is no namespace (`ENOTTY`, step `open_ns`).
        """
        if self._kind is None:
            try:
                self._kind = KIND_OF_FLAG[fcntl.ioctl(self.fileno(), _core.NS_GET_NSTYPE)]
            except OSError as error:
                raise _no_namespace(error.errno or 0) from None
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
        """`/proc/self/fd/N`, for what takes a path; only good in this process and while open."""
        return f"/proc/self/fd/{self.fileno()}"

    def _identity(self) -> tuple[int, int]:
        with at_step("open_ns"):
            status = os.fstat(self.fileno())
        return status.st_dev, status.st_ino

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
        """The user id, in the caller's user namespace, that made this user namespace and has all
        capabilities in it (`NS_GET_OWNER_UID`).

        Raises:
            UsernsError: it is not a user namespace (`EINVAL`); ask its `owner()`.
        """
        answer = bytearray(4)
        try:
            fcntl.ioctl(self.fileno(), _core.NS_GET_OWNER_UID, answer)
        except OSError as error:
            reason = "only user namespaces have an owner_uid; ask its owner()"
            raise self._refused(error, reason) from None
        return int.from_bytes(answer, sys.byteorder)

    def owner(self) -> Namespace:
        """The user namespace that owns this one (`NS_GET_USERNS`); for a user namespace its parent.

        Raises:
            PermissionError: it is not this process' user namespace or one below it (`EPERM`).
        """
        return self._related(_core.NS_GET_USERNS, "its owner is outside the user namespace of this process")

    def parent(self) -> Namespace:
        """The parent of a user or pid namespace (`NS_GET_PARENT`).

        Raises:
            PermissionError: the parent is out of this process' sight (`EPERM`).
            UsernsError: the kind has no hierarchy (`EINVAL`).
        """
        return self._related(
            _core.NS_GET_PARENT,
            "only user and PID namespaces have parents, and only the caller's namespace and those below it are visible",
        )

    def _related(self, request: int, reason: str) -> Namespace:
        try:
            return Namespace(_core.open_related(self.fileno(), request))
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
                return WrittenMaps(caller.uid_map, caller.gid_map, own_setgroups())
        try:
            uids, gids, setgroups = _core.read_maps(self.fileno()).split(b"\0")
        except _core.Failure as failure:
            raise self._no_maps(failure) from None
        return WrittenMaps(IdMap.from_kernel(uids), IdMap.from_kernel(gids), setgroups.decode().strip())

    def _no_maps(self, failure: _core.Failure) -> UsernsError:
        error = failed(failure)
        if error.errno != EINVAL or self.kind is NamespaceKind.USER:
            return error
        note = f"{self!r} has no ID maps, only user namespaces do; ask its owner()."
        return userns_error(error.step or "setns", EINVAL, cause="not-a-user-namespace", note=note)

    def enter(self) -> Entered:
        """Move the calling **thread** into the namespace at once, with `setns(2)`.

        What is returned can be thrown away, and is a way back otherwise: in
        `with namespace.enter(): ...` the thread is in the namespace for the block,
        and where it was before afterwards; see `Entered`.

        Nothing else moves but the calling thread, and what it starts meanwhile.
        A pid namespace is entered by children that are made later, not by the
        thread itself. With a mount namespace, the root and the working directory
        become the root of that namespace.

        In a mount namespace, every path leads to a file of its owner. All modules of this
        package are loaded before the thread enters; other modules that are imported there
        are the owner's, and run with the rights of this process. Use `join` of
        `UsernsProcess` for a mount namespace that you do not trust.

        Raises:
            PermissionError: `EPERM`: it takes `CAP_SYS_ADMIN` in the namespace's
                owner, and in the own user namespace (`CAP_SYS_CHROOT`, too, for a
                mount namespace).
            UsernsError: `EINVAL`, `EUSERS`, with the reason in a note: a user or
                time namespace cannot be entered by a process with several threads,
                nor a user namespace by one that is in it already; a mount
                namespace not by a thread that shares its root and working
                directory (`CLONE_FS`) with others; a pid namespace only by who is
                in it or above.
        """
        return _enter.enter(self)

    def pin(self, path: str | bytes | os.PathLike[str]) -> None:
        """Keep the namespace at a path, without any process or descriptor, until `unpin`.

        The namespace is mounted on a file there, as `unshare(1)` and `ip netns` do
        it, with `open_tree(OPEN_TREE_CLONE)` and `move_mount()`. The file is made,
        if it is not there, and goes again when that fails: either the namespace is
        pinned or nothing has changed; what cannot be undone is told by a note. What
        takes a path of a namespace takes this one: `Namespace.open`, `nsenter(1)`,
        `idmapped_mount`.

        Args:
            path: a name that does not exist, or an empty regular file. A symbolic
                link is not followed.

        Raises:
            FileExistsError: at *path* there is a pin already (cause
                `already-pinned`), or something that is no empty regular file (cause
                `not-a-mount-point`); step `mount_point`.
            FileNotFoundError, PermissionError: as `open(2)` does, where the file has
                to be made; step `mount_point`.
            PermissionError: step `open_tree`: a mount takes `CAP_SYS_ADMIN` in the
                owner of the current mount namespace (`EPERM`). An ordinary user pins
                in a mount namespace of its own.
            UsernsError: of a mount namespace only, step `move_mount`: `ELOOP` (it is the
                current one, or older than that: cause `mount-loop`), `EINVAL` (the
                mount at *path* propagates to others: cause `shared-mount`).

        Linux 5.2. See `namespaces(7)`, `mount_namespaces(7)`.
        """
        _pin.pin(self, path)

    @staticmethod
    def unpin(path: str | bytes | os.PathLike[str]) -> None:
        """Undo `pin`: unmount the namespace at *path* and remove the file, if it is empty.

        What is mounted there is looked at first, and only a namespace is unmounted,
        and exactly the one that was looked at (the topmost, where other tools have
        stacked several). The namespace ends, unless something
        else holds it: a process, a descriptor (also one of this file), another pin,
        a copy of the mount in another mount namespace.

        The directory of *path* is looked up once: if it is renamed meanwhile, nothing in
        another directory is unmounted or removed.

        Raises:
            FileNotFoundError: there is no such file; step `mount_point`.
            UsernsError: `EINVAL`: no namespace is pinned there (cause `not-pinned`,
                step `mount_point`); or the mount came from a mount namespace with
                more rights (step `umount`).
            PermissionError: step `umount`: no `CAP_SYS_ADMIN` in the owner of the
                current mount namespace (`EPERM`). Step `mount_point`: it is
                unmounted, but the file could not be removed.

        Linux 5.2. See `umount2(2)`.
        """
        _pin.unpin(path)

    @staticmethod
    def list(kind: str | None = None) -> NamespaceList:
        """The namespaces that can be seen from here; see `NamespaceInfo` and `NamespaceList`.

        Found in `/proc`: those of the threads of all processes, those that open
        descriptors and bind mounts hold, and their parents and owners. Where the
        kernel lists them itself (`listns(2)`, Linux 6.19), those that only something
        else holds, such as a descriptor in a socket's queue, or a mount in a mount
        namespace without any process, are found too. It does not list a network
        namespace that only a socket is in. No descriptor stays open.

        It is no snapshot: what begins or ends meanwhile may be missed, or may be
        gone.

        Args:
            kind: only namespaces of this kind.

        Raises:
            FileNotFoundError: `/proc` is not mounted; step `open_proc`.
            UsernsError: there are not enough descriptors, memory or processes
                (`EMFILE`, `ENFILE`, `ENOMEM`, `EAGAIN`); step `open_ns` or `open_proc`.
        """
        from .listing import list_namespaces

        return list_namespaces(None if kind is None else NamespaceKind(kind))


def _no_namespace(errno: int, filename: object = None) -> UsernsError:
    note = "It is not a namespace (ioctl_ns(2)). Use a file of /proc/PID/ns/, or a pin."
    return userns_error("open_ns", errno, filename, note=note)


class WrittenMaps:
    """What the kernel says of a user namespace; an unwritten map is empty."""

    __slots__ = ("gid_map", "setgroups", "uid_map")

    def __init__(self, uid_map: IdMap, gid_map: IdMap, setgroups: str) -> None:
        self.uid_map = uid_map
        self.gid_map = gid_map
        self.setgroups = setgroups


def own_setgroups() -> str:
    return read_proc("thread-self/setgroups").strip()


def open_namespace_of(pidfd: int, kind: NamespaceKind) -> OwnedFd:
    """By the pidfd alone (Linux 6.11); else by the link in `/proc`, whose answer says more."""
    try:
        return _core.namespace_of(pidfd, kind)
    except OSError:
        pass
    with open_proc_dir_of(pidfd) as proc_dir:
        return _open_namespace_at(proc_dir, kind)


def _open_namespace_at(proc_dir: int, kind: NamespaceKind) -> OwnedFd:
    try:
        return _core.open_namespace_link(proc_dir, f"ns/{kind}")
    except OSError as error:
        if error.errno == ENOENT and is_known(kind):
            note = "The process has exited: a zombie is only in its user and PID namespace. Open it before."
            raise userns_error("open_ns", ESRCH, _path_of(proc_dir, kind), cause="process-gone", note=note) from None
        raise proc_error("open_ns", error, _path_of(proc_dir, kind)) from None


def is_known(kind: NamespaceKind) -> bool:
    """Whether this kernel has such a kind."""
    try:
        Namespace.current(kind).close()
    except FileNotFoundError:
        return False
    return True


def _path_of(proc_dir: int, kind: NamespaceKind) -> str:
    """For messages."""
    try:
        folder = os.fsdecode(_core.read_link(-1, f"thread-self/fd/{proc_dir}")).removesuffix(" (deleted)")
    except OSError:
        folder = ""
    return os.path.join(folder, "ns", kind)
