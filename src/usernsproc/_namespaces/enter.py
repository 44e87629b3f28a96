"""The calling thread in another namespace, and its return."""

from __future__ import annotations

import os
from _thread import get_ident
from errno import EINVAL, EPERM, EUSERS

from .. import _core, _system_calls
from .._causes import userns_error
from .._core import attempt
from .._errors import UsernsError
from .._proc import list_in, namespace_identity, open_root, own_namespace_identity
from .._typing import TYPE_CHECKING
from .kind import NamespaceKind

if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

    from typing_extensions import Self

    from .._core import OwnedFd

__all__ = ["Entered"]

USER, MNT, PID, TIME = NamespaceKind.USER, NamespaceKind.MNT, NamespaceKind.PID, NamespaceKind.TIME

_CHILD = "Enter the namespace in a child process instead."

# Only children enter a PID namespace: setns(2) changes this link.
_LINK = {PID: "pid_for_children"}


def enter(fd: int, kind: NamespaceKind) -> Entered:
    """`Namespace.enter`."""
    if kind is MNT:
        from .._preload import before_entering  # slow, and needed for this kind alone

        before_entering()
    entered = Entered(kind)
    try:
        refusal = attempt(_system_calls.setns, fd, kind.flag)
    except BaseException as error:
        entered._undo(error)  # of a signal handler: the thread may have moved already
        raise
    if refusal:
        entered.close()
        raise _refusal(fd, kind, refusal.errno or 0)
    return entered


class Entered:
    """A thread's stay in a namespace, returned by `Namespace.enter()`. `leave()`, or the end of
    a `with` block, returns the thread to the previous namespace.

    Until it is closed, left or dropped, it holds a descriptor of the previous namespace,
    and for a mount namespace also of the previous root and working directory.

    The thread cannot always return. From a user namespace it cannot, because a thread that
    has entered one has no capabilities in its parent. From other kinds, returning requires
    `CAP_SYS_ADMIN` in the owner of the **previous** namespace. If that is missing, `with`
    raises before its block begins, and the thread stays where it is.

    If a signal handler raises while the thread enters or leaves, the thread returns to the
    previous namespace, except for an exception at the very beginning of `__enter__` or
    `__exit__`.
    """

    __slots__ = ("_fds", "_is_back", "_kind", "_obstacle", "_thread")

    def __init__(self, kind: NamespaceKind) -> None:
        self._kind = kind
        self._thread = get_ident()
        self._fds: list[OwnedFd] = []
        self._obstacle: OSError | None = None
        self._is_back = False
        if kind is not USER:
            self._remember()

    def _remember(self) -> None:
        """Before the thread moves: afterwards it could not open them."""
        opened = [attempt(_core.own_namespace, _LINK.get(self._kind, self._kind))]
        if self._kind is MNT:
            opened += [attempt(_core.open, path, os.O_PATH) for path in ("/", ".")]
        for fd in opened:
            if isinstance(fd, OSError):
                self._obstacle = fd
                self.close()
                return
            self._fds.append(fd)

    @property
    def kind(self) -> NamespaceKind:
        """The kind of the namespace that was entered."""
        return self._kind

    def leave(self) -> None:
        """Return the calling thread to the previous namespace with `setns(2)`. Calling it again,
        or after `close()`, has no effect.

        Returning to a mount namespace also restores the root and the working directory,
        with `fchdir(2)` and `chroot(2)`.

        Raises:
            PermissionError: the thread cannot return (`EPERM`, cause `no-way-back`, step
                `setns`); it stays where it is.
            UsernsError: threads that were started meanwhile still run, which mount and time
                namespaces do not allow (`EINVAL`, `EUSERS`); or the root or the working
                directory could not be restored (step `chroot`).
            RuntimeError: a different thread has entered; a thread can only move itself.
        """
        if self._thread != get_ident():
            raise RuntimeError("another thread has entered this namespace: only that one can leave it")
        if self._kind is USER or self._obstacle is not None:
            raise self._no_way_back()
        if self._fds and not self._is_back:
            self._go_back()
            self._is_back = True
        self.close()

    def _go_back(self) -> None:
        previous, *directories = self._fds
        if refusal := attempt(_system_calls.setns, previous, self._kind.flag):
            raise self._not_left(refusal.errno or 0)
        if directories:
            root, cwd = directories
            # os.fchdir() would run signal handlers after EINTR.
            if error := attempt(os.chdir, root.fileno()) or attempt(os.chroot, ".") or attempt(os.chdir, cwd.fileno()):
                note = f"The thread is back in its mount namespace, but in that one's root directory. {_CHILD}"
                raise userns_error("chroot", error.errno or 0, note=note)

    def _undo(self, error: BaseException) -> None:
        """After an interrupt, *error*, when it is not known in which namespace the thread is."""
        try:
            self.leave()
        except OSError as second:
            error.add_note(f"The thread may be in the {self._kind} namespace now; it could not return: {second}.")
        finally:
            self.close()

    def _not_left(self, errno: int) -> OSError:
        if errno == EPERM:
            return self._no_way_back()
        cause = note = None
        if errno in (EINVAL, EUSERS) and self._kind in (MNT, TIME):
            cause = "shared-fs" if self._kind is MNT else "threads"
            note = (
                f"The thread stays in the {self._kind} namespace, since setns(2) is refused while threads that were "
                "started meanwhile run. Join them first."
            )
        return userns_error("setns", errno, cause=cause, note=note)

    def _no_way_back(self) -> OSError:
        if self._kind is USER:
            why = "a user namespace cannot be left, since the thread has no capabilities in its parent"
        elif self._obstacle is not None:
            why = f"the namespace that it came from could not be opened ({self._obstacle})"
        else:
            why = f"returning requires CAP_SYS_ADMIN in the owner of the {self._kind} namespace that it came from"
        note = f"The thread has entered the {self._kind} namespace and stays in it: {why}. {_CHILD}"
        return userns_error("setns", EPERM, cause="no-way-back", note=note)

    def _may_go_back(self) -> bool:
        """Whether the owner of the previous namespace is the thread's user namespace, or one below
        it: those are the ones in which it can have capabilities."""
        owner = attempt(_system_calls.open_related, self._fds[0], _core.NS_GET_USERNS)
        if isinstance(owner, OSError):
            return False
        owner.close()
        return True

    def close(self) -> None:
        """Close the descriptors: the thread stays where it is. Calling it again has no effect."""
        for fd in self._fds:
            fd.close()
        self._fds.clear()

    def __enter__(self) -> Self:
        if self._is_back:
            raise ValueError(f"the thread has left this {self._kind} namespace: enter() it again")
        try:
            may_go_back = bool(self._fds) and self._may_go_back()
        except BaseException as error:
            self._undo(error)
            raise
        if not may_go_back:
            self.close()
            raise self._no_way_back()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.leave()
        except BaseException as error:
            if not isinstance(error, UsernsError) and self._thread == get_ident():
                self._undo(error)  # of a signal handler: the thread may not have moved yet
            raise
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"<Entered {self._kind} namespace, {'with a way' if self._fds else 'no way'} back>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Entered cannot be pickled: it belongs to a thread of this process")


def _refusal(fd: int, kind: NamespaceKind, errno: int) -> OSError:
    try:
        cause, note = _cause_of_refusal(fd, kind, errno)
    except OSError:
        cause = note = None  # /proc cannot be read
    return userns_error("setns", errno, cause=cause, note=note)


def _cause_of_refusal(fd: int, kind: NamespaceKind, errno: int) -> tuple[str | None, str | None]:
    if errno == EPERM:
        chroot = " and CAP_SYS_CHROOT" if kind is MNT else ""
        where = "in it" if kind is USER else "in the user namespace that owns it and in the caller's own"
        note = f"Entering a {kind} namespace requires CAP_SYS_ADMIN{chroot} {where}. Run as root there."
        return "no-setns-rights", note
    if errno not in (EINVAL, EUSERS):
        return None, None
    if kind is USER and namespace_identity(fd) == own_namespace_identity(kind):
        return "already-there", "The calling thread is in this user namespace already. Omit the call."
    if kind in (USER, TIME) and _thread_count() > 1:
        return "threads", (
            f"A process with several threads cannot enter a {kind} namespace. "
            "Start a command in it (UsernsProcess with join=), or enter it in a child process."
        )
    if kind in (USER, MNT):
        return "shared-fs", (
            "The thread shares its root and working directory with other threads (CLONE_FS). Start a command in the "
            "namespace (UsernsProcess with join=), or enter it in a child process, or call os.unshare(os.CLONE_FS) "
            "before (Python 3.12), which permanently gives the thread its own working directory."
        )
    if kind is PID:
        note = "A PID namespace can only be entered from itself or from one above it. Enter it from there."
        return "not-below", note
    return None, None


def _thread_count() -> int:
    with open_root() as root:
        return len(list_in(root, "self/task"))
