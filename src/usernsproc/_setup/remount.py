"""Attributes of the mounts of a tree. Linux before 5.12 has no mount_setattr(2).

There, `mount(2)` changes one mount, which must be attached. So the parent determines, before the child starts,
which mounts there are and with which flags, which it must keep. The child attaches the tree to the scratch file system,
changes one mount after the other, and copies the tree. While the child waits, the parent checks that its mount
namespace contains the same mounts; nothing reaches that from outside any more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from errno import EAGAIN

from .. import _core
from .._mounts.table import MountId, find_mount
from .._proc import MountEntry, path_of, read_mounts
from .._typing import TYPE_CHECKING
from .._uapi import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    MOVE_MOUNT_EMPTY_PATHS,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    RESOLVE_NO_SYMLINKS,
)
from .step import Phase
from .tree import KnownMount

if TYPE_CHECKING:
    from .calls import Argument
    from .compiler import Emitter

_COPY = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
_FLAGS = {"ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}
"""Those of `mount_setattr(2)` have the same numbers. Without a flag for access times, `mount(2)` keeps theirs."""


def is_possible(calls: Emitter) -> bool:
    """Whether the mounts of the command are a copy of those that the parent sees."""
    return bool(calls.process.options.get("copied_mounts"))


def mounts_at(calls: Emitter, source: str | int, *, recursive: bool) -> list[KnownMount]:
    """Those that the child finds there, or nothing if the source does not exist. The child starts only if it is so."""
    try:
        with _core.open(os.fsencode(source), os.O_PATH) if isinstance(source, str) else _core.dup(source) as fd:
            path, number = path_of(fd), MountId.of_fd(fd).number
    except OSError:
        return []  # the child fails in the same way
    mounts = read_mounts()
    top = find_mount(mounts, number)
    if top is None:
        return []
    _have_it_checked(calls, path, mounts)
    found = {"": KnownMount("", _flags_of(top))}
    for mount in _visible(mounts, top, path.rstrip("/") + "/") if recursive else ():
        below = mount.point[len(path.rstrip("/")) + 1 :]
        found[below] = KnownMount(below, _flags_of(mount), stat.S_ISDIR(os.stat(mount.point).st_mode))
    return list(found.values())


def _flags_of(mount: MountEntry) -> int:
    return sum(flag for name, flag in _FLAGS.items() if name in mount.options)


def _visible(mounts: list[MountEntry], mount: MountEntry, below: str) -> Iterator[MountEntry]:
    """Those that a recursive copy contains, except what another mount covers."""
    children = [child for child in mounts if child.parent == mount.number and child.point.startswith(below)]
    for child in children:
        if child.is_unbindable or any(child.point.startswith(f"{other.point}/") for other in children):
            continue
        top = child
        while cover := next((m for m in mounts if m.parent == top.number and m.point == top.point), None):
            top = cover
        yield top
        yield from _visible(mounts, top, top.point + "/")


def _have_it_checked(calls: Emitter, path: str, mounts: list[MountEntry]) -> None:
    before = _described(mounts, path)

    def check(pid: int) -> None:
        with _core.open_proc(f"{pid}/mountinfo", os.O_RDONLY) as fd:
            if _described(read_mounts(fd), path) != before:
                raise OSError(EAGAIN, "mounts have changed meanwhile")

    if calls.process.options.get("propagation") in (None, "private"):
        calls.add("mount", 0, b"/", 0, MS_REC | MS_PRIVATE, phase=Phase.NEW_NAMESPACES)
    calls.in_parent("mount", check)


def _described(mounts: list[MountEntry], path: str) -> list[tuple[object, ...]]:
    below = path.rstrip("/") + "/"
    concerned = (m for m in mounts if m.point.startswith(below) or below.startswith(m.point.rstrip("/") + "/"))
    return sorted((m.point, m.root, m.device, m.options) for m in concerned)


def remounted(calls: Emitter, mount: Argument, known: list[KnownMount], flags: int, *, path: str) -> Argument:
    """A copy of a detached tree, whose mounts have these flags as well."""
    scratch, create = calls.scratch, calls.create
    name = scratch.mount_like(mount, path=path)
    for found in known:
        to_set = MS_REMOUNT | MS_BIND | found.flags | flags
        if not found.path:
            scratch.enter()
            create("mount", 0, name, 0, to_set, 0, mount, path=path)  # the last argument: only if there is a tree
            continue
        shown = f"{path.rstrip('/')}/{found.path}"
        place = calls.tree.open_below(mount, found.path, RESOLVE_NO_SYMLINKS, shown)
        if found.is_directory:
            create("fchdir", place, path=shown)
            create("mount", 0, b".", 0, to_set, 0, place, path=shown)
            continue
        # A path of a file could lead elsewhere meanwhile: a copy is changed and covers it.
        cover = create("open_tree", place, b"", _COPY, path=shown)
        name_of_cover = scratch.mount_like(cover, path=shown)
        scratch.enter()
        create("mount", 0, name_of_cover, 0, to_set, 0, cover, path=shown)
        create("move_mount", cover, b"", place, b"", MOVE_MOUNT_EMPTY_PATHS, path=shown)
    copy = create("open_tree", mount, b"", _COPY | AT_RECURSIVE, path=path)
    calls.tree.know(copy, [KnownMount(found.path, found.flags | flags, found.is_directory) for found in known])
    return copy


def change(calls: Emitter, known: list[KnownMount], flags: int) -> None:
    """Set `MS_RDONLY`, or not, of mounts in the root of the command."""
    for mount in known:
        place = calls.tree.open(mount.path, strict=True)
        calls.tree.enter(place, mount.path)
        to_set = MS_REMOUNT | MS_BIND | (mount.flags & ~MS_RDONLY) | flags
        calls.attach("mount", 0, b".", 0, to_set, 0, path=mount.path)
