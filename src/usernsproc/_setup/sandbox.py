"""Steps for options of the command line that no public step has the meaning of, most of them those of bubblewrap."""

from __future__ import annotations

import os
from errno import EACCES, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOSPC, ENOSYS, ENOTDIR, EPERM, EROFS, EUSERS

from .._typing import TYPE_CHECKING
from .._uapi import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    CLONE_NEWUSER,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_EMPTY_PATHS,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    PR_CAPBSET_DROP,
)
from .capabilities import HIGHEST
from .file_systems import Root, gather, limit, new_file_system, set_attributes
from .step import Phase, Step, inside, number, text_of

if TYPE_CHECKING:
    from typing import ClassVar

    from .calls import Argument
    from .compiler import Emitter
    from .step import Path

_AT_EACCESS = 0x200
_SAFE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
_KERNEL_INTERFACES = ("sys", "sysrq-trigger", "irq", "bus")
_UNREACHABLE = (ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG)


_PR_SET_PDEATHSIG = 1


class DeathSignal(Step):
    """A signal that the command gets when its parent ends: `PR_SET_PDEATHSIG`. A change of IDs would clear it."""

    __slots__ = ("signal",)
    signal: int

    def __init__(self, signal: int) -> None:
        self._set(signal=signal)

    def emit(self, calls: Emitter) -> None:
        calls.add("prctl", _PR_SET_PDEATHSIG, self.signal, phase=Phase.SIGNALS)


class EmptyRoot(Root):
    """An empty root, in which no target of a mount may be a symbolic link."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("tmpfs")

    def emit(self, calls: Emitter) -> None:
        calls.tree.follows_last = False
        super().emit(calls)


class GuardedProc(Step):
    """A `/proc`, read-only where the command could change the kernel.

    Args:
        target: where.
        fresh: of the PID namespace of the command; otherwise the mount of the caller.
    """

    __slots__ = ("fresh", "target")
    target: str
    fresh: bool
    namespace: ClassVar[str | None] = "mnt"

    def __init__(self, target: Path, *, fresh: bool) -> None:
        self._set(target=inside(self, "target", target), fresh=bool(fresh))

    def emit(self, calls: Emitter) -> None:
        if self.fresh:
            mount: Argument = new_file_system(calls, "proc", (), _SAFE | MOUNT_ATTR_NOEXEC, path=self.target)
        else:
            mount = limit(calls, gather(calls, "/proc", recursive=True), "/proc", _SAFE, path="/proc")
        calls.tree.attach(mount, self.target, strict=True)
        for name in _KERNEL_INTERFACES:
            self._guard(calls, mount, name.encode(), f"{self.target}/{name}")

    def _guard(self, calls: Emitter, mount: Argument, name: bytes, path: str) -> None:
        refused = (EACCES, ENOENT, EROFS)
        may_write = calls.attach("faccessat2", mount, name, os.W_OK, _AT_EACCESS, path=path, tolerated=refused)
        # The mode means nothing without O_CREAT: where writing is refused, this call and the others are left out.
        entry = calls.attach("openat", mount, name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, may_write, path=path)
        flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE
        copy = calls.attach("open_tree", entry, b"", flags, path=path)
        set_attributes(calls, copy, _SAFE | MOUNT_ATTR_RDONLY, path=path, phase=Phase.ATTACH)
        calls.attach("move_mount", copy, b"", entry, b"", MOVE_MOUNT_EMPTY_PATHS, path=path)


class Mode(Step):
    """The permissions of a file or directory. See `chmod(2)`."""

    __slots__ = ("mode", "path")
    path: str
    mode: int
    namespace: ClassVar[str | None] = "mnt"

    def __init__(self, path: Path, mode: int) -> None:
        self._set(path=inside(self, "path", path), mode=number(self, "mode", mode, 0, 0o7777))

    def emit(self, calls: Emitter) -> None:
        file = calls.tree.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        calls.attach("fchmod", file, self.mode, path=self.path)


class StartDirectory(Step):
    """The working directory: the first of these that can be reached, otherwise `/`."""

    __slots__ = ("paths",)
    paths: tuple[str, ...]
    phase = Phase.DIRECTORY

    def __init__(self, *paths: str) -> None:
        self._set(paths=tuple(text_of(self, "path", path) for path in paths))

    def emit(self, calls: Emitter) -> None:
        for path in reversed(self.paths):  # the last that succeeds is that of the command
            calls.add("chdir", os.fsencode(path), path=path, tolerated=_UNREACHABLE)


class BoundingSet(Step):
    """Drop all other capabilities from the bounding set, and from no other."""

    __slots__ = ("keep",)
    keep: int
    phase = Phase.BOUNDING

    def __init__(self, keep: int) -> None:
        self._set(keep=number(self, "keep", keep, 0, 2 ** (HIGHEST + 1) - 1))

    def emit(self, calls: Emitter) -> None:
        for capability in range(HIGHEST + 1):
            if not self.keep >> capability & 1:
                calls.add("prctl", PR_CAPBSET_DROP, capability, tolerated=(EINVAL,))


class UserNamespacesDisabled(Step):
    """An error, unless the kernel refuses a further user namespace."""

    __slots__ = ()
    phase = Phase.NO_NAMESPACES

    def emit(self, calls: Emitter) -> None:
        refusals = (ENOSPC, EPERM, EUSERS, ENOSYS, EINVAL)
        calls.add("unshare", CLONE_NEWUSER, tolerated=refusals, expected=1)  # success is 0
