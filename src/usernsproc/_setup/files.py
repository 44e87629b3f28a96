"""Steps for single files and mounts: made, covered, changed."""

from __future__ import annotations

import os
from errno import EEXIST, EINVAL, ENOENT

from .._typing import TYPE_CHECKING
from .._uapi import (
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MS_NOEXEC,
    MS_RDONLY,
    UMOUNT_NOFOLLOW,
)
from .calls import CHOOSE_LIKE, IS_EQUAL, Place
from .file_systems import set_attributes
from .remount import change
from .step import Phase, Step, descriptor, inside, number, refuse, text_of
from .tree import NEW_FILE, has_mount_setattr

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import ClassVar

    from typing_extensions import TypeAlias

    from .compiler import Emitter, Process
    from .step import Path

    Data: TypeAlias = "str | bytes | bytearray | memoryview | int"

_PERMISSIONS = 0o7777
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_MOST_DATA = 0x7FFFF000  # of one write(2)


class _AtPath(Step):
    """Something at a path of the root of the command."""

    __slots__ = ("path",)
    path: str

    def _below_root(self, path: Path) -> str:
        found = inside(self, "path", path)
        if found == "/":
            raise refuse(type(self), "path is the root directory")
        return found

    def is_constant(self) -> bool:
        return True


class Dir(_AtPath):
    """A directory, created where it is missing, with those above it (mode 0755).

    Args:
        path: absolute, in the root of the command.
        mode: its permissions, whatever the umask is. An existing directory keeps its own.

    Without `Root`, it is created in the file system of the caller and stays there.

    See `mkdir(2)`. Requires Linux 5.6.
    """

    __slots__ = ("mode",)
    mode: int

    def __init__(self, path: Path, mode: int = 0o755) -> None:
        self._set(path=self._below_root(path), mode=number(self, "mode", mode, 0, _PERMISSIONS))

    def emit(self, calls: Emitter) -> None:
        calls.tree.make(self.path, mode=self.mode)
        calls.tree.open(self.path, _DIRECTORY)  # what was there may be a file


class Symlink(_AtPath):
    """A symbolic link. The directories above it are created where they are missing.

    Args:
        to: the text of the link, as for `ln -s`.
        path: of the link; absolute, in the root of the command.

    If the path exists and is not the same link, the error is `EEXIST`.
    Without `Root`, the link is created in the file system of the caller and stays there.

    See `symlink(2)`. Requires Linux 5.6.
    """

    __slots__ = ("to",)
    to: str

    def __init__(self, to: Path, path: Path) -> None:
        text = text_of(self, "to", to)
        if not text:
            raise refuse(type(self), "to is an empty text")
        self._set(to=text, path=self._below_root(path))

    def emit(self, calls: Emitter) -> None:
        to = os.fsencode(self.to)
        parent, name = calls.tree.parent(self.path)
        calls.attach("symlinkat", to, parent, name, path=self.path, tolerated=(EEXIST,))
        found = bytearray(len(to) + 1)
        calls.attach("readlinkat", parent, name, Place(found), len(found), path=self.path, tolerated=(EINVAL,))
        calls.attach(IS_EQUAL, to, Place(found), len(found), path=self.path)


class File(_AtPath):
    """A file with this content. The directories above it are created where they are missing.

    Args:
        path: absolute, in the root of the command.
        data: the content: text (as UTF-8), bytes, or a descriptor that is read to its end when the command is started.
        mode: its permissions, whatever the umask is.
        cover: mount the file over the path, for the command alone, from memory that no other process
            reaches. What exists at the path is covered; a missing path is created, as an empty file.
        read_only: the mount is read-only; implies *cover*.

    Without *cover* and *read_only*, it is an ordinary new file, and a path that exists is an error (`EEXIST`).
    A covering file can be written but not renamed or removed (`EBUSY`), and requires a mount namespace.

    See `open(2)`, `open_tree(2)`. Requires Linux 5.6.
    """

    __slots__ = ("cover", "data", "mode", "read_only")
    data: str | bytes | int
    mode: int
    read_only: bool
    cover: bool

    def __init__(
        self,
        path: Path,
        data: Data = b"",
        mode: int = 0o644,
        read_only: bool = False,
        *,
        cover: bool = False,
    ) -> None:
        if isinstance(data, (bytearray, memoryview)):
            data = bytes(data)
        self._set(
            path=self._below_root(path),
            data=data if isinstance(data, (str, bytes)) else descriptor(self, "data", data),
            mode=number(self, "mode", mode, 0, _PERMISSIONS),
            read_only=bool(read_only),
            cover=bool(cover),
        )

    def is_constant(self) -> bool:
        return not isinstance(self.data, int)

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        if self.cover or self.read_only:
            needs_mounts(self, process)

    def _content(self) -> bytes:
        if isinstance(self.data, str):
            return self.data.encode("utf-8", "surrogateescape")
        if isinstance(self.data, bytes):
            return self.data
        try:
            with open(self.data, "rb", closefd=False) as file:
                return file.read()
        except OSError as error:
            raise refuse(self, f"descriptor {self.data} cannot be read: {error.strerror}") from None

    def emit(self, calls: Emitter) -> None:
        data = self._content()
        if len(data) > _MOST_DATA:
            raise refuse(type(self), f"data is longer than {_MOST_DATA} bytes")
        if self.cover or self.read_only:
            name = calls.scratch.file(data, self.mode, path=self.path)
            file = calls.scratch.clone(name, MS_RDONLY if self.read_only else 0, path=self.path)
            calls.tree.attach(file, self.path, like=file)
            return
        parent, name = calls.tree.parent(self.path)
        fd = calls.attach("openat", parent, name, NEW_FILE, self.mode, path=self.path)
        if data:
            calls.attach("write", fd, data, len(data), path=self.path, expected=len(data))
        calls.attach("close", fd)


class Mask(_AtPath):
    """Something empty and read-only over a path: a directory over a directory, a file over anything else.

    Args:
        path: absolute, in the root of the command. A symbolic link is followed: what it leads to is covered.
        missing_ok: do nothing where the path does not exist.

    A path below a `Proc`, `Sysfs` or another file system of the kernel in the list is looked up in that mount.
    A command with `CAP_SYS_ADMIN` in the user namespace can remove the mount.

    See `move_mount(2)`. Requires Linux 5.6.
    """

    __slots__ = ("missing_ok",)
    missing_ok: bool
    namespace: ClassVar[str | None] = "mnt"

    def __init__(self, path: Path, *, missing_ok: bool = False) -> None:
        self._set(path=self._below_root(path), missing_ok=bool(missing_ok))

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        needs_mounts(self, process)

    def emit(self, calls: Emitter) -> None:
        scratch = calls.scratch
        names = (scratch.directory(0o555), scratch.file(mode=0o444))
        covers = [scratch.clone(name, MS_RDONLY | MS_NOEXEC, path=self.path) for name in names]
        place = calls.tree.open(self.path, tolerated=(ENOENT,) if self.missing_ok else ())
        calls.tree.put(calls.attach(CHOOSE_LIKE, place, *covers, path=self.path), place, self.path)


class Remount(_AtPath):
    """Make the mount at a path read-only, or writable again.

    Args:
        path: of a mount point (otherwise the error is `EINVAL`); absolute, in the root of the command.
        read_only: or writable. A mount that is read-only in the mount namespace of the caller cannot be made
            writable by a new user namespace (`EPERM`).
        recursive: with all mounts below it.

    Only the mount changes, not the file system. A command with `CAP_SYS_ADMIN` in the user namespace can
    change it back.

    See `mount_setattr(2)` (Linux 5.12). Before, only a mount that the list makes can be changed, if it is a directory;
    otherwise the error is `ENOSYS`.
    """

    __slots__ = ("read_only", "recursive")
    read_only: bool
    recursive: bool
    namespace: ClassVar[str | None] = "mnt"

    def __init__(self, path: Path, *, read_only: bool = True, recursive: bool = False) -> None:
        self._set(path=inside(self, "path", path), read_only=bool(read_only), recursive=bool(recursive))

    def emit(self, calls: Emitter) -> None:
        if not has_mount_setattr():
            known = calls.tree.known_at(self.path, recursive=self.recursive)
            if known:
                change(calls, known, MS_RDONLY if self.read_only else 0)
                return
        mount = calls.tree.open(self.path)
        changes = (MOUNT_ATTR_RDONLY, 0) if self.read_only else (0, MOUNT_ATTR_RDONLY)
        set_attributes(calls, mount, *changes, path=self.path, recursive=self.recursive, phase=Phase.ATTACH)


class Unmount(_AtPath):
    """Unmount what is mounted at a path.

    Args:
        path: of a mount point; absolute, in the root of the command. A symbolic link at its end is not followed.
        lazy: `MNT_DETACH`: also a mount that is in use, with those below it.

    In a new user namespace, single mounts of the caller's cannot be unmounted (`EINVAL`): they would show
    what they cover. See `umount(2)`, `mount_namespaces(7)`. Requires Linux 5.6.
    """

    __slots__ = ("lazy",)
    lazy: bool
    namespace: ClassVar[str | None] = "mnt"

    def __init__(self, path: Path, lazy: bool = False) -> None:
        self._set(path=self._below_root(path), lazy=bool(lazy))

    def emit(self, calls: Emitter) -> None:
        parent, name = calls.tree.parent(self.path, make=False)
        calls.tree.enter(parent, self.path)
        calls.attach("umount2", name, UMOUNT_NOFOLLOW | (MNT_DETACH if self.lazy else 0), path=self.path)
        calls.tree.forget(self.path)


class Chroot(_AtPath):
    """Change the root directory; no mount namespace is required. Later steps for files work in the new root.

    Args:
        path: of a directory; absolute, in the root as it was before. Without `cwd`, the command starts in it.

    It is not a boundary: a command with `CAP_SYS_CHROOT` can leave it, and the mounts of the caller remain. Use
    `Root` to run what is not trusted. A process in it cannot create a user namespace (`EPERM`).

    See `chroot(2)`. Requires Linux 5.6.
    """

    __slots__ = ()

    def __init__(self, path: Path) -> None:
        self._set(path=inside(self, "path", path))

    def emit(self, calls: Emitter) -> None:
        calls.tree.chroot(calls.tree.open(self.path, _DIRECTORY), self.path)


def needs_mounts(step: Step, process: Process) -> None:
    """It is put together on a mount of its own, which must not become visible elsewhere."""
    if "mnt" not in process.kinds:
        raise refuse(step, 'the step requires namespaces=("mnt",)')
    if process.options.get("propagation") in ("shared", "unchanged"):
        raise refuse(step, "the mounts have to be private while it is made: leave propagation= out")
