"""A detached mount, and how it is attached."""

from __future__ import annotations

import os
import warnings
from errno import EINVAL
from operator import index

from .. import _core, _system_calls
from .._causes import at_step, userns_error
from .._proc import descriptor_path, open_mounts, path_of, read_mounts
from .._typing import TYPE_CHECKING
from .._uapi import MNT_DETACH, MOVE_MOUNT_EMPTY_PATHS
from .copy import Attributes, open_path, set_propagation
from .mount import Mount, maps_of_detached_mount
from .propagation import set_propagation_of_tree
from .refusals import move_refusal
from .table import MountId, find_mount, is_mounted, mounts_below

if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

    from typing_extensions import Self

    from .._core import OwnedFd
    from .._maps.idmap import IdMap
    from .._place import Path

__all__ = ["DetachedMount"]


class DetachedMount:
    """A mount that is not mounted anywhere, as a descriptor that this object owns.

    Files in it can be reached by the descriptor (`dir_fd=mount.fileno()`). Closing it
    before it is attached ends the mount. Leaving a `with` block closes it; an object
    that is dropped without `close()` is closed with a `ResourceWarning`.

    `DetachedMount(fd)` takes over a descriptor, such as one that came from another
    process. `propagation` is what `attach()` sets, as for `idmapped_mount`.
    """

    __slots__ = ("__weakref__", "_may_be_tree", "_owned", "_propagation")

    def __init__(self, fd: int | OwnedFd, *, propagation: str | None = None) -> None:
        self._propagation = Attributes.resolve(propagation=propagation).propagation
        self._may_be_tree = True
        self._owned = fd if isinstance(fd, _core.OwnedFd) else _core.own(index(fd))

    def fileno(self) -> int:
        """The descriptor, borrowed: this object owns it."""
        if self._owned.closed:
            raise ValueError("operation on a closed detached mount")
        return self._owned.fileno()

    def detach(self) -> int:
        """Return the descriptor, which the caller must close, and close this object."""
        self.fileno()
        return self._owned.take()

    def close(self) -> None:
        """Close the descriptor. That ends a mount that was not attached. Calling it again has no effect."""
        self._owned.close()

    @property
    def closed(self) -> bool:
        """Whether the descriptor was closed or given up, or the mount was attached."""
        return self._owned.closed

    def attach(self, target: Path) -> Mount:
        """Mount it on *target*, with `move_mount(2)`, in the calling thread's mount namespace.

        Then this object is closed: an open descriptor would keep the mount busy.
        If it fails, nothing has changed, and it can be attached elsewhere.

        Raises:
            UsernsError: `ENOENT`; `EPERM` (`CAP_SYS_ADMIN` in the mount namespace's
                owner is required); `ENOSPC` (too many mounts); `EINVAL` (only one of the
                two is a directory; the target is in another mount namespace; it is
                not a detached mount).

        Linux 5.2.
        """
        tree = self.fileno()
        with at_step("move_mount", os.fspath(target)):
            mount_id = MountId.of_fd(tree)
            is_attached = is_mounted(mount_id)
        if is_attached:  # it would be moved
            raise userns_error(
                "move_mount",
                EINVAL,
                os.fspath(target),
                cause="attached",
                note="The descriptor refers to a mount that is attached already. Pass a detached mount.",
            )
        mount: Mount | None = None
        below: dict[int, MountId] = {}
        try:
            # Everything that can fail comes before other processes can see it.
            with open_path("move_mount", target) as target_fd, open_mounts() as mounts:
                mount = Mount(path_of(target_fd), mount_id, below)
                self._move(tree, target, target_fd)
                below.update(self._settle(tree, target, mount_id, mounts))
            self.close()
        except BaseException as error:
            if mount is not None:
                self._take_back(mount, mount_id, error)
            raise
        return mount

    def _take_back(self, mount: Mount, mount_id: MountId, error: BaseException) -> None:
        try:
            if self.closed:  # a signal handler has raised when all was done
                mount.unmount(lazy=True)
            elif is_mounted(mount_id):
                _system_calls.umount2(descriptor_path(self.fileno()), MNT_DETACH)
        except OSError as second:
            error.add_note(f"It may still be mounted at {mount.target}: {second.strerror}.")

    def _move(self, tree: int, target: Path, target_fd: int) -> None:
        try:
            _system_calls.move_mount(tree, b"", target_fd, b"", MOVE_MOUNT_EMPTY_PATHS)
        except OSError as error:
            raise move_refusal(error.errno or 0, tree, target, target_fd) from None

    def _settle(self, tree: int, target: Path, mount_id: MountId, unread: int) -> dict[int, MountId]:
        """Set the propagation, and return the submounts."""
        with at_step("mount_setattr", os.fspath(target)):
            if not self._may_be_tree:
                set_propagation(tree, self._propagation, recursive=True)
                return {}
            mounts = read_mounts(unread)
            top = find_mount(mounts, mount_id.number)
            if top is not None:
                return set_propagation_of_tree(tree, self._propagation, top, mounts_below(mounts, top.number))
        note = "The target is outside the root directory of this process. Attach it in a process that can reach it."
        raise userns_error("move_mount", EINVAL, os.fspath(target), cause="out-of-reach", note=note)

    @property
    def uid_map(self) -> IdMap:
        """The user ID map; like `Mount.uid_map`, but requires Linux 7.0 (before: `EINVAL`) and, for a mount without
        submounts, the right to copy it (else: `EPERM`)."""
        return maps_of_detached_mount(self.fileno())[0]

    @property
    def gid_map(self) -> IdMap:
        """The group ID map; as `uid_map`."""
        return maps_of_detached_mount(self.fileno())[1]

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

    def __repr__(self) -> str:
        return "<DetachedMount closed>" if self.closed else f"<DetachedMount fd {self.fileno()}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a DetachedMount cannot be pickled: its descriptor belongs to this process")
