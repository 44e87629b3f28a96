"""The root of a command while it is set up: paths in it, and the mounts that come there.

Files are set up in three rounds. *Gather*: everything that comes from the old root is opened
there. *Pivot*: the new root takes its place. *Attach*: targets are made and looked up inside the
new root, which no path and no symbolic link leads out of.
"""

from __future__ import annotations

import fcntl
import os
import struct
from errno import EEXIST, ENOSYS
from functools import lru_cache, partial
from itertools import count

from .. import _system_calls
from .._typing import TYPE_CHECKING
from .._uapi import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOVE_MOUNT_EMPTY_PATHS,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_REMOUNT,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
)
from .calls import MAKE_LIKE, OWN_MEMORY_AND_MAPS, Result, SystemCall
from .step import Phase, refuse

if TYPE_CHECKING:
    from .calls import Argument
    from .compiler import Emitter

_ABOVE_STDIO = 3
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@lru_cache(maxsize=1)
def has_mount_setattr() -> bool:
    try:
        _system_calls.mount_setattr(-1, b"", AT_EMPTY_PATH, 0, 0, 0, -1)
    except OSError as error:
        return error.errno != ENOSYS
    return True


class KnownMount:
    """A mount of a tree. *path*: within the tree, empty for its root."""

    __slots__ = ("flags", "is_directory", "path")

    def __init__(self, path: str, flags: int, is_directory: bool = True) -> None:
        self.path = path
        self.flags = flags
        self.is_directory = is_directory


class Tree:
    """The root of the command. Paths in it are looked up beneath a descriptor of it, and lead nowhere else."""

    def __init__(self, calls: Emitter, *, has_root: bool) -> None:
        self._calls = calls
        self._has_root = has_root
        self._has_begun = False
        self.follows_last = True
        """Whether the last component of a target may be a symbolic link."""
        self._made = {"/"}
        self._kernels: dict[str, Argument] = {}
        """Mounts of file systems of the kernel, by path: what lies in them is looked up from there."""
        self._root = self._umask = self._old_directory = Result()
        self._has_moved = False
        self._known: dict[str | Argument, list[KnownMount]] = {}

    @property
    def root(self) -> Result:
        self.begin()
        return self._root

    def begin(self) -> None:
        """Before the first call that concerns files."""
        if self._has_begun:
            return
        self._has_begun = True
        add = self._calls.add
        self._umask = add("umask", 0, phase=Phase.GATHER)  # files get the modes that the steps say
        for name, number in zip(("setfsuid", "setfsgid"), self._calls.process.file_ids, strict=True):
            if number is not None:
                add(name, number, phase=Phase.CREATE)
                add(name, number, phase=Phase.CREATE, expected=number)  # it returns the one before, and no error
        if not self._has_root:
            self._old_directory = add("openat", AT_FDCWD, b".", _DIRECTORY, phase=Phase.GATHER, path=".")
            self._root = add("openat", AT_FDCWD, b"/", _DIRECTORY, phase=Phase.ATTACH, path="/")

    def pivot(self, root: Argument, source: str, phase: Phase = Phase.PIVOT) -> None:
        """Put a detached mount over the old root, and let that go."""
        add = partial(self._calls.add, phase=phase)
        self._made, self._kernels = {"/"}, {}
        self._root = self._calls.setup.new_root = add("fcntl", root, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STDIO)
        self._known = {"/": self._known[root]} if root in self._known else {}
        add("move_mount", root, b"", AT_FDCWD, b"/", MOVE_MOUNT_F_EMPTY_PATH, path=source)
        add("fchdir", root, path=source)
        add("pivot_root", b".", b".", path=source)
        add("umount2", b".", MNT_DETACH, path="/")
        add("chdir", b"/", path="/")

    def chroot(self, directory: Argument, path: str) -> None:
        """Change the root; nothing is mounted."""
        self.enter(directory, path)
        self._calls.attach("chroot", b".", path=path)
        self._calls.attach("chdir", b"/", path=path)
        self._calls.attach("close", self._root)
        self._root = self._calls.setup.new_root = self._calls.attach("openat", AT_FDCWD, b"/", _DIRECTORY, path=path)
        self._has_moved = False
        self._made, self._kernels, self._known = {"/"}, {}, {}

    def enter(self, directory: Argument, path: str) -> None:
        """For calls that know no descriptor."""
        self._calls.attach("fchdir", directory, path=path)
        self._has_moved = True

    def end(self) -> None:
        """After the last one."""
        if not self._has_begun:
            return
        self._calls.scratch.end()
        self._calls.attach("umask", self._umask)
        if self._calls.setup.new_root is None:
            self._calls.attach("fchdir", self._old_directory, path=".")
        elif self._has_moved:
            self._calls.attach("chdir", b"/", path="/")
        if not self._has_root:
            self._calls.attach("close", self._old_directory)

    def open(
        self, path: str, flags: int = os.O_PATH, *, strict: bool = False, tolerated: tuple[int, ...] = ()
    ) -> Result:
        """A descriptor of what is there. If *strict*, no symbolic link is followed."""
        how = _how(flags, RESOLVE_NO_SYMLINKS if strict else RESOLVE_NO_MAGICLINKS)
        start, below = self._start(path)
        return self._calls.attach("openat2", start, os.fsencode(below), how, len(how), path=path, tolerated=tolerated)

    def open_below(self, directory: Argument, path: str, resolve: int, shown: str) -> Result:
        """Before the pivot: what is at a path below a directory."""
        how = _how(os.O_PATH, resolve)
        return self._calls.create("openat2", directory, os.fsencode(path), how, len(how), path=shown)

    def _start(self, path: str) -> tuple[Argument, str]:
        """Where the lookup of a path begins, and the path from there."""
        for point, mount in self._kernels.items():
            if path.startswith(point + "/"):
                return mount, path[len(point) :]
        return self.root, path

    def parent(self, path: str, *, make: bool = True) -> tuple[Argument, bytes]:
        """A descriptor of the parent directory, which is made if it is missing, and the name in it."""
        head, _, name = path.rpartition("/")
        if not head:
            return self.root, os.fsencode(name)
        if head in self._kernels:
            return self._kernels[head], os.fsencode(name)
        if make:
            self.make(head)
        return self.open(head, _DIRECTORY), os.fsencode(name)

    def make(self, path: str, *, mode: int = 0o755, like: Argument | None = None) -> None:
        """Make a directory, and those above it, where they are missing. It may be a file if *like* is one."""
        if path in self._made:
            return
        parent, name = self.parent(path)
        if like is None:
            self._made.add(path)
            self._calls.attach("mkdirat", parent, name, mode, path=path, tolerated=(EEXIST,))
        else:
            self._calls.attach(MAKE_LIKE, parent, name, like, path=path, tolerated=(EEXIST,))

    def attach(
        self,
        mount: Argument,
        path: str,
        *,
        like: Argument | None = None,
        create: bool = True,
        strict: bool = False,
        tolerated: tuple[int, ...] = (),
    ) -> None:
        """Attach a detached mount to a path, which is made like a directory, or like another descriptor."""
        if path == "/":  # the root of a process is a mount, and one on top of it is not seen
            if tolerated:
                raise refuse(self._calls._step, "the root directory cannot be missing")
            self.pivot(mount, path, Phase.ATTACH)
            return
        if create:
            self.make(path, like=like)
        if strict or self.follows_last:
            place = self.open(path, strict=strict, tolerated=tolerated)
        else:
            parent, name = self.parent(path, make=False)
            how = _how(os.O_PATH, RESOLVE_NO_SYMLINKS)
            place = self._calls.attach("openat2", parent, name, how, len(how), path=path, tolerated=tolerated)
        self.put(mount, place, path)
        if strict:
            self._kernels[path] = mount

    def put(self, mount: Argument, place: Argument, path: str) -> None:
        """Attach a detached mount to what has been opened at a path."""
        self._calls.attach("move_mount", mount, b"", place, b"", MOVE_MOUNT_EMPTY_PATHS, path=path)
        self.forget(path)
        if mount in self._known:
            self._known[path] = self._known.pop(mount)

    def know(self, mount: Argument, mounts: list[KnownMount]) -> None:
        """The flags of a mount that the list makes, and of those below it; see `_setup/remount.py`."""
        self._known[mount] = mounts

    def known_at(self, path: str, *, recursive: bool) -> list[KnownMount]:
        """With paths in the root of the command; nothing: the mount is not one that the list makes."""
        if path not in self._known:
            return []
        below = path.rstrip("/") + "/"
        found: dict[str, KnownMount] = {}
        for point, mounts in self._known.items():  # in the order in which they were mounted
            if not isinstance(point, str):
                continue
            found = {at: mount for at, mount in found.items() if not f"{at}/".startswith(point.rstrip("/") + "/")}
            for mount in mounts:
                at = f"{point.rstrip('/')}/{mount.path}" if mount.path else point
                found[at] = KnownMount(at, mount.flags, mount.is_directory)
        return [mount for at, mount in found.items() if at == path or (recursive and at.startswith(below))]

    def forget(self, path: str) -> None:
        """What was known of a path, and below: another file system is there now."""
        below = path.rstrip("/") + "/"
        self._known = {
            at: found for at, found in self._known.items() if not (isinstance(at, str) and f"{at}/".startswith(below))
        }
        self._made = {made for made in self._made if not made.startswith(below)}
        self._kernels = {at: mount for at, mount in self._kernels.items() if not f"{at}/".startswith(below)}


class Scratch:
    """A file system in memory that only the launcher reaches, attached before the pivot: what has to lie on
    an attached mount is put together there.

    It lies over the root directory, where no path leads: an absolute one begins below it.
    """

    def __init__(self, calls: Emitter) -> None:
        self._calls = calls
        self._root: Result | None = None
        self._names = count()

    @property
    def root(self) -> Result:
        if self._root is None:
            create = self._calls.create
            context = create("fsopen", b"tmpfs", FSOPEN_CLOEXEC)
            create("fsconfig", context, FSCONFIG_SET_STRING, b"source", b"tmpfs", 0)
            create("fsconfig", context, FSCONFIG_SET_STRING, b"mode", b"0755", 0)
            create("fsconfig", context, FSCONFIG_CMD_CREATE, 0, 0, 0)
            self._root = create("fsmount", context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
            create("close", context)
            create("move_mount", self._root, b"", AT_FDCWD, b"/", MOVE_MOUNT_F_EMPTY_PATH, path="/")
        return self._root

    def directory(self, mode: int = 0o755) -> bytes:
        """Make one, and return its name."""
        root, name = self.root, b"%d" % next(self._names)
        self._calls.create("mkdirat", root, name, mode)
        return name

    def file(self, data: bytes = b"", mode: int = 0o644, *, path: str | None = None) -> bytes:
        root, name = self.root, b"%d" % next(self._names)
        fd = self._calls.create("openat", root, name, NEW_FILE, mode, path=path)
        if data:
            self._calls.create("write", fd, data, len(data), path=path, expected=len(data))
        self._calls.create("close", fd)
        return name

    def mount(self, tree: Argument, *, path: str) -> bytes:
        """Attach a detached directory, and return its name."""
        name = self.directory()
        self._calls.create("move_mount", tree, b"", self.root, name, MOVE_MOUNT_F_EMPTY_PATH, path=path)
        return name

    def mount_like(self, tree: Argument, *, path: str) -> bytes:
        """Attach a detached directory or file, and return its name."""
        root, name = self.root, b"%d" % next(self._names)
        self._calls.create(MAKE_LIKE, root, name, tree, path=path)
        self._calls.create("move_mount", tree, b"", root, name, MOVE_MOUNT_F_EMPTY_PATH, path=path)
        return name

    def clone(self, name: bytes, flags: int = 0, *, path: str) -> Result:
        """A detached mount of what has this name, with these flags as well."""
        if flags:
            self._remount(flags)
        mount = self._calls.create("open_tree", self.root, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, path=path)
        if flags:
            self._remount(0)
        return mount

    def _remount(self, flags: int) -> None:
        """A copy has the flags of the original. Before Linux 5.12, only what is attached can change."""
        self.enter()
        self._calls.create("mount", 0, b".", 0, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | flags, 0)

    def enter(self) -> None:
        """So that paths are names."""
        self._calls.create("fchdir", self.root)

    def end(self) -> None:
        """Before the pivot."""
        if self._root is not None:
            self.enter()
            self._calls.create("umount2", b".", MNT_DETACH)


def _how(flags: int, resolve: int) -> bytes:
    """`struct open_how`, for a path in a root that it cannot leave."""
    return struct.pack("=3Q", flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | resolve)


def change_directory(new_root: Result | None, path: bytes, filename: object) -> tuple[SystemCall, ...]:
    """In a new root not by a magic link of `/proc`: one of a descriptor could lead out of it."""
    if new_root is None:
        return (SystemCall("chdir", "chdir", path, filename=filename),)
    how, directory = _how(_DIRECTORY, RESOLVE_NO_MAGICLINKS), Result()
    call = partial(SystemCall, "chdir", needs=OWN_MEMORY_AND_MAPS, filename=filename)
    return (
        call("openat2", new_root, path, how, len(how), result=directory),
        call("fchdir", directory),
    )
