"""Namespaces that a mounted file keeps alive."""

from __future__ import annotations

import os
import stat
from errno import EEXIST, EINVAL, ELOOP

from .. import _core
from .._errors import at_step, userns_error
from .._procdir import descriptor_path, own_namespace_identity

TYPE_CHECKING = False  # typing takes longer to load than this package
if TYPE_CHECKING:
    from typing_extensions import TypeAlias

    from .namespace import Namespace

    Path: TypeAlias = "str | bytes | os.PathLike[str]"

AT_EMPTY_PATH = 0x1000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MNT_DETACH = 2


def pin(namespace: Namespace, path: Path) -> None:
    """`Namespace.pin`."""
    kind, point = namespace.kind, _MountPoint(path, namespace)
    try:
        try:
            tree = _detached_mount(namespace, path)
            try:
                point.prepare()
                _attach(tree, point, kind)
            finally:
                os.close(tree)
        finally:
            point.close()
    except BaseException as error:
        point.undo(error)
        raise


def unpin(path: Path) -> None:
    """`Namespace.unpin`."""
    device = nsfs_device()
    fd = _open_point(path)
    try:
        with at_step("mount_point", os.fspath(path)):
            is_pin = os.fstat(fd).st_dev == device
        if not is_pin:
            note = "No namespace is pinned at this path. Check the path, and the mount namespace."
            raise userns_error("mount_point", EINVAL, os.fspath(path), cause="not-pinned", note=note)
        _unmount(fd, path)
    finally:
        os.close(fd)
    _remove_if_empty(path, device)


def nsfs_device() -> int:
    """The device number of all namespaces, by which they differ from other files."""
    return own_namespace_identity("user")[0]


class _MountPoint:
    """The file that a namespace is mounted on; ours where we have made it."""

    _closed = True

    def __init__(self, path: Path, namespace: Namespace) -> None:
        self._made: list[int] = []
        self._found: list[int] = []
        self._ready = self._closed = False
        self._path = path
        self._nsfs = namespace.device
        self._inode = namespace.inode

    def prepare(self) -> None:
        try:
            # Without a bytecode between the making of the file and the record of it,
            # no signal handler can raise there.
            self._made.extend(map(os.open, (self._path,), (_MAKE,), (0,)))
        except FileExistsError:
            self._found.append(_open_point(self._path))
            self._refuse_unless_empty_file()
        except OSError as error:
            raise userns_error("mount_point", error.errno or 0, os.fspath(self._path)) from None
        self._ready = True

    def _refuse_unless_empty_file(self) -> None:
        with at_step("mount_point", os.fspath(self._path)):
            status = os.fstat(self.fd)
        if status.st_dev == self._nsfs:
            cause, note = "already-pinned", "A namespace is pinned at this path already. To replace it, unpin it first."
        elif not stat.S_ISREG(status.st_mode) or status.st_size:
            cause, note = "not-a-mount-point", "The path is not an empty regular file. Use one, or a new name."
        else:
            return
        raise userns_error("mount_point", EEXIST, os.fspath(self._path), cause=cause, note=note)

    @property
    def path(self) -> Path:
        return self._path

    @property
    def fd(self) -> int:
        return (self._made or self._found)[0]

    def undo(self, error: BaseException) -> None:
        """When it is not known whether the mount was made: an interrupt, *error*, may have come after it."""
        if not (self._made or self._ready):
            return  # nothing was changed
        what = "pin"
        try:
            there = os.lstat(self._path)
            if self._ready and (there.st_dev, there.st_ino) == (self._nsfs, self._inode):
                _core.umount2(os.fsencode(self._path), MNT_DETACH)
            what = "file"
            if self._made:
                os.unlink(self._path)
        except FileNotFoundError:
            pass  # somebody else has removed it
        except OSError as second:
            path = os.fsdecode(self._path)
            error.add_note(f"The {what} at {path} stays, as it could not be removed: {second.strerror}.")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for fd in self._made + self._found:
                os.close(fd)

    __del__ = close  # of one that a signal handler's exception has lost


_MAKE = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _open_point(path: Path) -> int:
    try:
        [fd] = map(os.open, (path,), (os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC,))  # as in `prepare`
        return fd
    except OSError as error:
        raise userns_error("mount_point", error.errno or 0, os.fspath(path)) from None


def _detached_mount(namespace: Namespace, path: Path) -> int:
    try:
        flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
        [tree] = map(_core.open_tree, (namespace.fileno(),), (b"",), (flags,))  # as in `prepare`
        return tree
    except OSError as error:
        raise userns_error("open_tree", error.errno or 0, os.fspath(path)) from None


def _attach(tree: int, point: _MountPoint, kind: str) -> None:
    try:
        _core.move_mount(tree, b"", point.fd, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
    except OSError as error:
        cause, note = _WHY_NOT_MNT.get(error.errno or 0, (None, None)) if kind == "mnt" else (None, None)
        raise userns_error("move_mount", error.errno or 0, os.fspath(point.path), cause=cause, note=note) from None


_WHY_NOT_MNT = {
    ELOOP: (
        "mount-loop",
        "A mount namespace can only be pinned in an older one. Pin it from the mount namespace that it was made in. "
        "(Since Linux 6.18, namespace IDs are allocated per CPU, so a namespace that was created on another CPU can "
        "appear older: create it again on the CPU that this one was made on.)",
    ),
    EINVAL: (
        "shared-mount",
        "A mount namespace cannot be pinned where mounts propagate to it. Pin it below a private mount: "
        "mount --bind DIR DIR; mount --make-private DIR.",
    ),
}


def _unmount(fd: int, path: Path) -> None:
    """By its descriptor: that it is this mount and no other. Detached, since the descriptor
    keeps it busy; it is one file, with no mounts below, so nothing can be hidden by that."""
    try:
        _core.umount2(descriptor_path(fd).encode(), MNT_DETACH)
    except OSError as error:
        cause = note = None
        if error.errno == EINVAL:
            cause, note = (
                "locked-mount",
                "Likely: the mount came from a more privileged mount namespace (mount_namespaces(7)). Unpin it there.",
            )
        raise userns_error("umount", error.errno or 0, os.fspath(path), cause=cause, note=note) from None


def _remove_if_empty(path: Path, nsfs: int) -> None:
    try:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size == 0 and status.st_dev != nsfs:
            os.unlink(path)
    except FileNotFoundError:
        pass  # somebody else has removed it
    except OSError as error:
        error = userns_error("mount_point", error.errno or 0, os.fspath(path))
        error.add_note("The namespace is unpinned, but the file that it was mounted on stays. Remove it.")
        raise error from None
