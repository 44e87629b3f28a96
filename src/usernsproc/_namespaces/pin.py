"""Namespaces that a mounted file keeps alive."""

from __future__ import annotations

import os
import stat
from errno import EEXIST, EINVAL, ELOOP

from .. import _core, _system_calls
from .._causes import at_step, userns_error
from .._place import Place
from .._proc import descriptor_path, namespace_identity, nsfs_device
from .._typing import TYPE_CHECKING
from .._uapi import AT_EMPTY_PATH, MNT_DETACH, MOVE_MOUNT_EMPTY_PATHS, OPEN_TREE_CLOEXEC, OPEN_TREE_CLONE
from .kind import NamespaceKind

if TYPE_CHECKING:
    from .._core import OwnedFd
    from .._place import Path


def pin(fd: int, kind: NamespaceKind, path: Path) -> None:
    """`Namespace.pin`."""
    new = Pin(fd, kind, path)
    try:
        new.make()
        new.close()
    except BaseException as error:
        new.undo(error)
        raise


def unpin(path: Path) -> None:
    """`Namespace.unpin`."""
    device = nsfs_device()
    with _place(path) as place:
        with _open(place) as fd:
            if _status(fd, path).st_dev != device:
                note = "No namespace is pinned at this path. Check the path, and the mount namespace."
                raise userns_error("mount_point", EINVAL, os.fspath(path), cause="not-pinned", note=note)
            _unmount(fd, path)
        _remove_if_empty(place, device)


class Pin:
    """A namespace that is being pinned. Until `close()` it can be undone.

    It holds descriptors of the mount and of the directory of its file, so that nothing else
    is unmounted or removed even if the path changes meanwhile.
    """

    def __init__(self, fd: int, kind: NamespaceKind, path: Path) -> None:
        self._tree: OwnedFd | None = None
        self._made: list[OwnedFd] = []
        self._found: OwnedFd | None = None
        self._file: os.stat_result | None = None
        self._may_be_mounted = False
        self._namespace, self._kind, self._path = fd, kind, path
        self._identity = namespace_identity(fd)
        self._place = _place(path)

    def make(self) -> None:
        tree = self._tree = self._copy()
        point = self._prepare_file()
        self._may_be_mounted = True
        try:
            _system_calls.move_mount(tree.fileno(), b"", point.fileno(), b"", MOVE_MOUNT_EMPTY_PATHS)
        except OSError as error:
            causes = _CAUSES_OF_MNT if self._kind is NamespaceKind.MNT else {}
            cause, note = causes.get(error.errno or 0, (None, None))
            raise userns_error("move_mount", error.errno or 0, os.fspath(self._path), cause=cause, note=note) from None

    def _copy(self) -> OwnedFd:
        with at_step("open_tree", os.fspath(self._path)):
            return _system_calls.open_tree(self._namespace, b"", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH)

    def _prepare_file(self) -> OwnedFd:
        try:
            # There is no bytecode between the call and the storing of its result, so a signal
            # handler cannot raise there: it is known whether the file was created.
            self._made.extend(map(_core.open, (self._place.name,), (_MAKE,), (0,), (self._place.directory,)))
        except FileExistsError:
            found = self._found = _open(self._place)
            self._refuse_unless_empty_file(_status(found.fileno(), self._path))
            return found
        except OSError as error:
            raise userns_error("mount_point", error.errno or 0, os.fspath(self._path)) from None
        self._file = _status(self._made[0].fileno(), self._path)
        return self._made[0]

    def _refuse_unless_empty_file(self, status: os.stat_result) -> None:
        if status.st_dev == self._identity[0]:
            cause, note = "already-pinned", "A namespace is pinned at this path already. To replace it, unpin it first."
        elif not stat.S_ISREG(status.st_mode) or status.st_size:
            cause, note = "not-a-mount-point", "The path is not an empty regular file. Use one, or a new name."
        else:
            return
        raise userns_error("mount_point", EEXIST, os.fspath(self._path), cause=cause, note=note)

    def undo(self, error: BaseException) -> None:
        """Also if it is not known whether the mount exists: an interrupt, *error*, may have come after it was made."""
        what = "pin"
        try:
            if self._place.closed:  # an interrupt at the very end
                self._place = _place(self._path)
            if self._may_be_mounted:
                self._unmount()
            what = "file"
            if self._made or self._file is not None:
                self._remove_file()
        except FileNotFoundError:
            pass  # another process has removed it
        except OSError as second:
            path = os.fsdecode(self._path)
            error.add_note(f"The {what} at {path} stays, as it could not be removed: {second.strerror}.")
        finally:
            self.close()

    def _unmount(self) -> None:
        if self._tree is not None and not self._tree.closed:
            try:
                _system_calls.umount2(descriptor_path(self._tree.fileno()), MNT_DETACH)
            except OSError as error:
                if error.errno != EINVAL:  # it is not mounted anywhere
                    raise
            return
        with self._place.open(os.O_PATH) as fd:
            if _identity(os.fstat(fd)) == self._identity:
                _system_calls.umount2(descriptor_path(fd), MNT_DETACH)

    def _remove_file(self) -> None:
        made = self._file or os.fstat(self._made[0].fileno())
        if _identity(self._place.status()) == _identity(made):
            self._place.remove()

    def close(self) -> None:
        """Close the descriptors; the namespace stays pinned."""
        for fd in (self._tree, self._found, *self._made, self._place):
            if fd is not None:
                fd.close()


_MAKE = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _status(fd: int, path: Path) -> os.stat_result:
    with at_step("mount_point", os.fspath(path)):
        return os.fstat(fd)


def _place(path: Path) -> Place:
    with at_step("mount_point", os.fspath(path)):
        return Place(path)


def _open(place: Place) -> OwnedFd:
    with at_step("mount_point", place.path):
        return place.open(os.O_PATH)


_CAUSES_OF_MNT = {
    ELOOP: (
        "mount-loop",
        "A mount namespace can only be pinned in an older one. Pin it from the mount namespace that it was made in. "
        "(Since Linux 6.18, namespace IDs are allocated per CPU, so a namespace that was created on another CPU can "
        "appear older: create it again on the CPU that the current one was made on.)",
    ),
    EINVAL: (
        "shared-mount",
        "A mount namespace cannot be pinned where mounts propagate to it. Pin it below a private mount: "
        "mount --bind DIR DIR; mount --make-private DIR.",
    ),
}


def _unmount(fd: int, path: Path) -> None:
    """By its descriptor, so that it is this mount and not another one. Detached, since the
    descriptor keeps it busy; it is one file, without submounts, so this hides nothing."""
    try:
        _system_calls.umount2(descriptor_path(fd), MNT_DETACH)
    except OSError as error:
        cause = note = None
        if error.errno == EINVAL:
            cause, note = (
                "locked-mount",
                "Likely: the mount came from a more privileged mount namespace (mount_namespaces(7)). Unpin it there.",
            )
        raise userns_error("umount", error.errno or 0, os.fspath(path), cause=cause, note=note) from None


def _remove_if_empty(place: Place, nsfs: int) -> None:
    try:
        status = place.status()
        if stat.S_ISREG(status.st_mode) and status.st_size == 0 and status.st_dev != nsfs:
            place.remove()
    except FileNotFoundError:
        pass  # another process has removed it
    except OSError as error:
        error = userns_error("mount_point", error.errno or 0, place.path)
        error.add_note("The namespace is unpinned, but the file that it was mounted on stays. Remove it.")
        raise error from None
