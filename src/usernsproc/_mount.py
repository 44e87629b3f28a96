"""Idmapped mounts: a directory seen with other owners."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from errno import EINVAL, ENOSYS, EPERM
from typing import TYPE_CHECKING, NoReturn

from . import _core
from ._errors import userns_error
from ._idmap import IdMapLike
from ._namespace import Namespace, NamespaceKind, create_userns

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, TypeAlias

    from ._procdir import HasFileno

__all__ = ["Mount", "idmapped_mount"]

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_SYMLINKS = 0x10
MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_IDMAP = 0x00100000
MS_PRIVATE = 1 << 18
UMOUNT_NOFOLLOW = 8

Path: TypeAlias = "str | bytes | os.PathLike[str]"

UsernsLike: TypeAlias = "Namespace | HasFileno | int | Path | tuple[IdMapLike, IdMapLike]"
"""A user namespace: a `Namespace`, a process, a descriptor, a path of a namespace
file, or a pair of maps."""


def idmapped_mount(source: Path, target: Path, userns: UsernsLike, *, read_only: bool | None = None) -> Mount:
    """Mount *source* on *target* with its owners shifted by a user namespace's maps.

    What belongs to id *i* on disk is shown as the id that `i` has outside: with
    `0:100000:65536` a file of user 0 shows as 100000, and what user 100000 creates
    through the mount belongs to 0 on disk. Nothing is changed on disk, and the cost
    does not depend on how many files there are. Submounts of *source* are not
    visible through the mount, and mount events do not propagate to it.

    `open_tree(OPEN_TREE_CLONE)`, `mount_setattr(MOUNT_ATTR_IDMAP)` and
    `move_mount()`: either the whole mount is made or nothing has changed. The mount
    keeps its own copy of the maps; the namespace may go.

    Args:
        source: what to mount, a directory or a file.
        target: where, of the same type.
        userns: a `Namespace`, a `UsernsProcess`, a descriptor, a path, or a pair of
            maps (uid, gid), for which a namespace is made and closed again.
        read_only: `True`: writing through the mount fails with `EROFS`. `False`:
            writable although the source's mount is read-only. `None`: as there.

    Raises:
        UsernsError: `open_tree`: `ENOENT`, `EPERM` (`CAP_SYS_ADMIN` in the mount
            namespace's owner is needed); `mount_setattr`: `EINVAL` (the file system
            cannot, or a map of the namespace is unwritten), `EPERM` (no
            `CAP_SYS_ADMIN` over the file system, *source* is an idmapped mount
            already, or the namespace is the initial one), `EBADF`, `ENOSYS` (before
            Linux 5.12); `move_mount`: `ENOENT`, `EINVAL` (of source and target,
            only one is a directory).

    Linux 5.12. See `mount_setattr(2)`.
    """
    with _borrowed(userns) as userns_fd:
        tree = _open_tree(source)
        try:
            _set_attributes(tree, source, userns_fd, read_only)
            mount = Mount(target, _mount_id(tree))  # what can fail comes before it is to be seen
            _attach(tree, source, target)
            return mount
        finally:
            os.close(tree)


class Mount:
    """A mount that this program made. Leaving a `with` block unmounts it.

    Dropping the object leaves the mount where it is.
    """

    def __init__(self, target: Path, mount_id: int) -> None:
        self.target = os.path.realpath(os.fsdecode(target))
        """Where it is mounted, as an absolute path without symbolic links."""
        self._mount_id = mount_id
        self._mounted = True

    def unmount(self) -> None:
        """Unmount it, with `umount2(2)`. Again: no effect.

        It is never detached lazily: as long as files are open below, it stays, so
        that nobody deletes what seems to be an empty mount point.

        Raises:
            UsernsError: `EBUSY`: it is in use. `EINVAL`: at the target there is
                another mount, or none.
        """
        if not self._mounted:
            return
        if self._mount_at_target() != self._mount_id:
            raise userns_error(
                "umount", EINVAL, self.target, note="The mount at this path is not, or no longer, the one made here."
            )
        try:
            _core.umount2(os.fsencode(self.target), UMOUNT_NOFOLLOW)
        except OSError as error:
            raise userns_error("umount", error.errno or 0, self.target) from None
        self._mounted = False

    def _mount_at_target(self) -> int:
        try:
            fd = os.open(self.target, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise userns_error("umount", error.errno or 0, self.target) from None
        try:
            return _mount_id(fd)
        finally:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.unmount()

    def __repr__(self) -> str:
        return f"<Mount at {self.target}{'' if self._mounted else ', unmounted'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Mount cannot be pickled: it would be unmounted twice")


@contextmanager
def _borrowed(userns: UsernsLike) -> Generator[int]:
    """A descriptor of the user namespace, valid in the block."""
    if isinstance(userns, int):
        yield userns
    elif isinstance(userns, Namespace):
        yield userns.fileno()
    elif isinstance(userns, (str, bytes, os.PathLike)):
        with Namespace.open(userns) as opened:
            yield opened.fileno()
    elif isinstance(userns, tuple):
        if len(userns) != 2:
            raise TypeError(f"a pair of maps is needed (uid, gid), not {len(userns)}")
        uid_map, gid_map = userns
        with create_userns(uid_map, gid_map) as made:
            yield made.fileno()
    elif not hasattr(userns, "fileno"):
        raise TypeError(f"userns is a Namespace, a process, a descriptor, a path or a pair of maps, not {userns!r}")
    else:
        with Namespace.of(userns) as found:
            yield found.fileno()


def _open_tree(source: Path) -> int:
    try:
        return _core.open_tree(AT_FDCWD, os.fsencode(source), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
    except OSError as error:
        raise userns_error("open_tree", error.errno or 0, os.fspath(source)) from None


def _set_attributes(tree: int, source: Path, userns_fd: int, read_only: bool | None) -> None:
    attr_set, attr_clr = MOUNT_ATTR_IDMAP, 0
    if read_only is not None:
        attr_set |= MOUNT_ATTR_RDONLY if read_only else 0
        attr_clr |= 0 if read_only else MOUNT_ATTR_RDONLY
    try:
        _core.mount_setattr(tree, b"", AT_EMPTY_PATH, attr_set, attr_clr, MS_PRIVATE, userns_fd)
    except OSError as error:
        raise _not_idmapped(error.errno or 0, source, userns_fd) from None


def _not_idmapped(errno: int, source: Path, userns_fd: int) -> OSError:
    cause = note = None
    if errno == EPERM:
        cause, note = (
            "idmap-refused",
            (
                "Likely one of: the source is an idmapped mount already; the namespace is the initial one; "
                "CAP_SYS_ADMIN over the file system (in the user namespace that mounted it) is missing."
            ),
        )
    elif errno == EINVAL:
        cause, note = _cause_of_einval(userns_fd)
    elif errno == ENOSYS:
        cause, note = "kernel-too-old", "Idmapped mounts need Linux 5.12."
    return userns_error("mount_setattr", errno, os.fspath(source), cause=cause, note=note)


def _cause_of_einval(userns_fd: int) -> tuple[str, str]:
    try:
        with Namespace(os.dup(userns_fd)) as userns:
            if userns.kind != NamespaceKind.USER:
                return "not-a-user-namespace", f"The namespace is of kind {userns.kind}."
            if not (userns.uid_map and userns.gid_map):
                return "map-missing", "The namespace has an unwritten map; both maps are needed."
    except OSError:
        return "not-a-user-namespace", "The descriptor is no user namespace, or one that cannot be examined."
    return "no-idmap-support", "Likely: the file system does not support idmapped mounts on this kernel."


def _attach(tree: int, source: Path, target: Path) -> None:
    try:
        _core.move_mount(tree, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS)
    except OSError as error:
        cause = note = None
        if error.errno == EINVAL and os.path.isdir(source) != os.path.isdir(target):
            cause, note = "type-mismatch", "Of source and target, one is a directory and the other is not."
        raise userns_error("move_mount", error.errno or 0, os.fspath(target), cause=cause, note=note) from None


def _mount_id(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise AssertionError("no mnt_id in fdinfo")
