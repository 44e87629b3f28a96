"""Steps that mount: the root, bind mounts, fresh file systems."""

from __future__ import annotations

import os
import re
import stat
import struct
from errno import ENOENT

from .._mounts.detached import DetachedMount
from .._typing import TYPE_CHECKING
from .._uapi import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)
from .calls import IS_SAME
from .remount import is_possible, mounts_at, remounted
from .step import Phase, Step, descriptor, inside, number, refuse, text_of
from .tree import KnownMount, has_mount_setattr

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, ClassVar

    from typing_extensions import TypeAlias

    from .._proc import HasFileno
    from .calls import Argument, Result
    from .compiler import Emitter, Process
    from .step import Path

    Source: TypeAlias = "Path | HasFileno | int | DetachedMount"

_SAFE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
_COPY = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def source_of(step: Step, value: Any) -> str | int | DetachedMount:
    if isinstance(value, DetachedMount):
        return value
    if isinstance(value, (str, bytes, os.PathLike)):
        path = text_of(step, "source", value)
        if not path:
            raise refuse(type(step), "source is an empty path")
        return path
    return descriptor(step, "source", value)


def _attributes(to_set: int, to_clear: int = 0) -> bytes:
    """`struct mount_attr`."""
    return struct.pack("=4Q", to_set, to_clear, 0, 0)


def gather(calls: Emitter, source: str | int | DetachedMount, *, recursive: bool, missing_ok: bool = False) -> Argument:
    """A detached copy of the mount at a path or a descriptor, or the detached mount itself."""
    flags = _COPY | (AT_RECURSIVE if recursive else 0)
    if isinstance(source, DetachedMount):
        return calls.keep(source.fileno())
    if isinstance(source, str):
        tolerated = (ENOENT,) if missing_ok else ()
        return calls.gather("open_tree", AT_FDCWD, os.fsencode(source), flags, path=source, tolerated=tolerated)
    # The mounts of a new namespace are copies, and a descriptor is of the original: the path leads to the copy.
    path = os.readlink(f"/proc/self/fd/{calls.keep(source)}")
    tree = calls.gather("open_tree", AT_FDCWD, os.fsencode(path), flags, path=path)
    calls.gather(IS_SAME, tree, calls.keep(source), path=path)
    return tree


def set_attributes(
    calls: Emitter,
    mount: Argument,
    to_set: int,
    to_clear: int = 0,
    *,
    path: str | None,
    recursive: bool = True,
    phase: Phase = Phase.GATHER,
) -> None:
    """Of a mount, and of those below."""
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    packed = _attributes(to_set, to_clear)
    calls.add("mount_setattr", mount, b"", flags, packed, len(packed), phase=phase, path=path)


def limit(
    calls: Emitter,
    mount: Argument,
    source: str | int | DetachedMount,
    attributes: int,
    *,
    path: str,
    recursive: bool = True,
) -> Argument:
    """A gathered tree, all of whose mounts have these attributes as well."""
    if not attributes:
        return mount
    if has_mount_setattr() or not is_possible(calls) or isinstance(source, DetachedMount):
        set_attributes(calls, mount, attributes, path=path)
        return mount
    return remounted(calls, mount, mounts_at(calls, source, recursive=recursive), attributes, path=path)


def new_file_system(
    calls: Emitter, kind: str, options: Iterable[tuple[str, str | None]] = (), attributes: int = _SAFE, *, path: str
) -> Result:
    """A detached mount of a fresh file system."""
    context = calls.create("fsopen", kind.encode(), FSOPEN_CLOEXEC, path=path)
    for name, value in (("source", kind), *options):
        command, text = (FSCONFIG_SET_FLAG, 0) if value is None else (FSCONFIG_SET_STRING, os.fsencode(value))
        calls.create("fsconfig", context, command, name.encode(), text, 0, path=path)
    calls.create("fsconfig", context, FSCONFIG_CMD_CREATE, 0, 0, 0, path=path)
    mount = calls.create("fsmount", context, FSMOUNT_CLOEXEC, attributes, path=path)
    calls.create("close", context)
    calls.tree.know(mount, [KnownMount("", attributes)])
    return mount


class Root(Step):
    """The new `/` of the command: `pivot_root(2)`, and the old root is unmounted.

    Args:
        source: `"tmpfs"`, an empty one; the path of a directory, a descriptor of one, or a `DetachedMount`,
            which moves and can be used once.

    A new mount namespace comes with it. The mount is nodev, with all mounts below. Whatever the
    next steps need is made in it: in a directory, for good. Nothing of the old root can be
    reached afterwards. Without `cwd`, the command starts in `/`.

    See `pivot_root(2)`, `open_tree(2)`. Requires Linux 5.6.
    """

    __slots__ = ("source",)
    source: str | int | DetachedMount
    is_root: ClassVar[bool] = True
    namespace: ClassVar[str | None] = "mnt"

    def __init__(self, source: Source) -> None:
        self._set(source=source_of(self, source))

    def is_constant(self) -> bool:
        return isinstance(self.source, str)

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        if sum(step.is_root for step in steps) > 1:
            raise refuse(self, "there is another Root in the list")
        if process.options.get("propagation") in ("shared", "unchanged"):
            raise refuse(self, "the mounts of the old root have to be private: leave propagation= out")
        if process.options.get("mount_proc"):
            raise refuse(self, "mount_proc= is for the old root: use the step Proc()")

    def emit(self, calls: Emitter) -> None:
        if self.source == "tmpfs":
            mount: Argument = new_file_system(calls, "tmpfs", [("mode", "0755")], path="tmpfs")
            calls.tree.pivot(mount, "tmpfs")
            return
        shown = str(self.source)
        mount = gather(calls, self.source, recursive=True)
        mount = limit(calls, mount, self.source, MOUNT_ATTR_NODEV, path=shown)
        calls.tree.pivot(mount, shown)


class Bind(Step):
    """What is at a path of the old root, with the mounts below it, at a path of the new one.

    Args:
        source: a path, a descriptor, or a `DetachedMount`, which moves and can be used once: so idmapped
            mounts go in.
        target: default: the same path.
        read_only: with all mounts below.
        recursive: with the mounts below it.
        dev: device nodes work.
        suid: set-user-ID and file capabilities work.
        missing_ok: nothing is mounted where the source does not exist.
        create: make the target where it is missing, of the kind of the source, with the directories
            above it.

    See `open_tree(2)`, `mount_setattr(2)` (Linux 5.12), `move_mount(2)`. Requires Linux 5.6.
    """

    __slots__ = ("create", "dev", "missing_ok", "read_only", "recursive", "source", "suid", "target")
    source: str | int | DetachedMount
    target: str
    read_only: bool
    recursive: bool
    dev: bool
    suid: bool
    missing_ok: bool
    create: bool
    namespace: ClassVar[str | None] = "mnt"

    def __init__(
        self,
        source: Source,
        target: Path | None = None,
        *,
        read_only: bool = False,
        recursive: bool = True,
        dev: bool = False,
        suid: bool = False,
        missing_ok: bool = False,
        create: bool = True,
    ) -> None:
        found = source_of(self, source)
        if target is None and not isinstance(found, str):
            raise refuse(type(self), "a source without a path needs a target")
        self._set(
            source=found,
            target=inside(self, "target", found if target is None else target),
            read_only=bool(read_only),
            recursive=bool(recursive),
            dev=bool(dev),
            suid=bool(suid),
            missing_ok=bool(missing_ok),
            create=bool(create),
        )

    def is_constant(self) -> bool:
        return isinstance(self.source, str)

    def emit(self, calls: Emitter) -> None:
        shown = str(self.source)
        mount = gather(calls, self.source, recursive=self.recursive, missing_ok=self.missing_ok)
        attributes = MOUNT_ATTR_RDONLY * self.read_only
        attributes |= MOUNT_ATTR_NODEV * (not self.dev) | MOUNT_ATTR_NOSUID * (not self.suid)
        mount = limit(calls, mount, self.source, attributes, path=shown, recursive=self.recursive)
        tolerated = (ENOENT,) if self.missing_ok else ()
        calls.tree.attach(mount, self.target, like=mount, create=self.create, tolerated=tolerated)


_SIZE = re.compile(r"[0-9]+[kKmMgGtTpPeE%]?")


class Tmpfs(Step):
    """An empty file system in memory.

    Args:
        size: in bytes, or a text such as `"64M"` or `"10%"` of the memory; `None`: half of the memory.
        inodes: how many files.
        mode: of its root directory.

    See `tmpfs(5)`. Requires Linux 5.6.
    """

    __slots__ = ("inodes", "mode", "size", "target")
    target: str
    size: int | str | None
    inodes: int | None
    mode: int
    namespace: ClassVar[str | None] = "mnt"

    def __init__(
        self, target: Path, *, size: int | str | None = None, inodes: int | None = None, mode: int = 0o755
    ) -> None:
        if isinstance(size, str) and not _SIZE.fullmatch(size):
            raise refuse(type(self), f'size is a number of bytes, or a text such as "64M" or "10%", not {size!r}')
        self._set(
            target=inside(self, "target", target),
            size=size if size is None or isinstance(size, str) else number(self, "size", size, 1, 2**63 - 1),
            inodes=None if inodes is None else number(self, "inodes", inodes, 1, 2**63 - 1),
            mode=number(self, "mode", mode, 0, 0o7777),
        )

    def is_constant(self) -> bool:
        return True

    def emit(self, calls: Emitter) -> None:
        options = [("mode", f"{self.mode:o}")]
        if self.size is not None:
            options.append(("size", str(self.size)))
        if self.inodes is not None:
            options.append(("nr_inodes", str(self.inodes)))
        calls.tree.attach(new_file_system(calls, "tmpfs", options, path=self.target), self.target)


class _Kernel(Step):
    """A file system of the kernel. No component of the target may be a symbolic link."""

    __slots__ = ("target",)
    target: str
    namespace: ClassVar[str | None] = "mnt"
    file_system: ClassVar[str]
    of: ClassVar[str]
    """The namespace that it shows: in a new user namespace, that has to be new or joined."""

    def __init__(self, target: Path) -> None:
        self._set(target=inside(self, "target", target))

    def is_constant(self) -> bool:
        return True

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        if process.userns == "new" and self.of not in process.kinds:
            raise refuse(
                self, f'the kernel mounts it for the owner of the {self.of} namespace: namespaces=("{self.of}",)'
            )

    def emit(self, calls: Emitter) -> None:
        attributes = _SAFE | MOUNT_ATTR_NOEXEC
        calls.tree.attach(
            new_file_system(calls, self.file_system, attributes=attributes, path=self.target), self.target, strict=True
        )


class Proc(_Kernel):
    """A fresh `/proc`, of the PID namespace of the command. See `proc(5)`. Requires Linux 5.6."""

    __slots__ = ()
    file_system = "proc"
    of = "pid"

    def __init__(self, target: Path = "/proc") -> None:
        super().__init__(target)


class Sysfs(_Kernel):
    """A fresh `/sys`, of the network namespace of the command. See `sysfs(5)`. Requires Linux 5.6."""

    __slots__ = ()
    file_system = "sysfs"
    of = "net"

    def __init__(self, target: Path = "/sys") -> None:
        super().__init__(target)


class Mqueue(_Kernel):
    """The POSIX message queues of the IPC namespace of the command. See `mq_overview(7)`. Requires Linux 5.6."""

    __slots__ = ()
    file_system = "mqueue"
    of = "ipc"

    def __init__(self, target: Path = "/dev/mqueue") -> None:
        super().__init__(target)


class Cgroup2(_Kernel):
    """The cgroups (version 2), with the root of the cgroup namespace of the command. See `cgroups(7)`.

    Requires Linux 5.6.
    """

    __slots__ = ()
    file_system = "cgroup2"
    of = "cgroup"

    def __init__(self, target: Path = "/sys/fs/cgroup") -> None:
        super().__init__(target)


def _devpts(calls: Emitter, path: str) -> Result:
    options = [("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620")]
    return new_file_system(calls, "devpts", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, path=path)


class Devpts(_Kernel):
    """Pseudo-terminals of its own, with `ptmx`. See `pts(4)`. Requires Linux 5.6."""

    __slots__ = ()
    file_system = "devpts"
    of = "mnt"

    def __init__(self, target: Path = "/dev/pts") -> None:
        super().__init__(target)

    def emit(self, calls: Emitter) -> None:
        calls.tree.attach(_devpts(calls, self.target), self.target, strict=True)


class Dev(_Kernel):
    """A minimal `/dev`: the devices null, zero, full, random, urandom and tty of the old root,
    pseudo-terminals of its own, an empty `shm`, and the usual links. See `null(4)`, `pts(4)`. Requires Linux 5.6."""

    __slots__ = ()
    file_system = "tmpfs"
    of = "mnt"

    def __init__(self, target: Path = "/dev") -> None:
        super().__init__(target)

    def emit(self, calls: Emitter) -> None:
        devices: dict[str, Argument] = {
            name: calls.gather("open_tree", AT_FDCWD, f"/dev/{name}".encode(), _COPY, path=f"/dev/{name}")
            for name in _DEVICES
        }
        for name, device in devices.items():
            path = f"/dev/{name}"
            devices[name] = limit(calls, device, path, MOUNT_ATTR_NOSUID, path=path, recursive=False)
        mount = new_file_system(calls, "tmpfs", [("mode", "0755")], path=self.target)
        for name in _DEVICES:
            calls.create("mknodat", mount, name.encode(), stat.S_IFREG | 0o444, 0, path=f"{self.target}/{name}")
        for name, mode in (("pts", 0o755), ("shm", 0o1777)):
            calls.create("mkdirat", mount, name.encode(), mode, path=f"{self.target}/{name}")
        links = {
            "fd": "/proc/self/fd",
            "stdin": "/proc/self/fd/0",
            "stdout": "/proc/self/fd/1",
            "stderr": "/proc/self/fd/2",
        }
        for name, to in {**links, "core": "/proc/kcore", "ptmx": "pts/ptmx"}.items():
            calls.create("symlinkat", to.encode(), mount, name.encode(), path=f"{self.target}/{name}")
        pts = _devpts(calls, f"{self.target}/pts")
        calls.tree.attach(mount, self.target, strict=True)
        for name, device in {**devices, "pts": pts}.items():
            path = f"{self.target}/{name}".replace("//", "/")
            calls.tree.attach(device, path, create=False, strict=True)
