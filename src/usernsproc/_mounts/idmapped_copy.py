"""Detached copies of mounts, and maps for them. Nothing here is to be seen by others."""

from __future__ import annotations

import os
from errno import EINVAL, ENOSYS, EPERM

from .. import _core
from .._errors import at_step, userns_error
from .._namespaces.namespace import Namespace
from .._proc import overflow_id
from .._typing import TYPE_CHECKING
from .._uapi import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    MOUNT_ATTR_IDMAP,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)
from .attributes import Attributes
from .userns_like import Path

if TYPE_CHECKING:
    from .._core import OwnedFd

AS_IT_IS = Attributes(0, 0, 0)


def open_path(step: str, path: Path) -> OwnedFd:
    """What a path leads to, looked up once and for all: it may change afterwards."""
    try:
        return _core.open_tree(AT_FDCWD, os.fsencode(path), OPEN_TREE_CLOEXEC)
    except OSError as error:
        raise userns_error(step, error.errno or 0, os.fspath(path)) from None


def idmapped_copy(source_fd: int, userns_fd: int, *, recursive: bool, attributes: Attributes = AS_IT_IS) -> OwnedFd:
    """A detached copy of what *source_fd* is open on, idmapped.

    Raises:
        UsernsError: step `open_tree` or `mount_setattr`; the cause is the caller's to find.
    """
    flags = AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    to_set = attributes.to_set | MOUNT_ATTR_IDMAP
    try:
        tree = _core.open_tree(source_fd, b"", flags)
    except OSError as error:
        raise userns_error("open_tree", error.errno or 0) from None
    below = AT_EMPTY_PATH | (flags & AT_RECURSIVE)
    with tree as fd:
        try:
            _core.mount_setattr(fd, b"", below, to_set, attributes.to_clear, attributes.propagation, userns_fd)
        except OSError as error:
            if error.errno != EPERM:
                raise userns_error("mount_setattr", error.errno or 0) from None
        else:
            _refuse_missing_maps(fd, userns_fd)
            return tree.move()
    # It may have maps already. Then mount_setattr() refuses others, even on a new
    # copy, and only the call that makes the copy may replace them.
    try:
        return _core.open_tree_attr(
            source_fd, b"", flags, to_set, attributes.to_clear, attributes.propagation, userns_fd
        )
    except OSError as error:
        errno = EPERM if error.errno == ENOSYS else error.errno or 0
        raise userns_error("mount_setattr", errno) from None


def copy_of(userns_fd: int) -> Namespace:
    """The namespace by a descriptor of its own, the caller's to close."""
    with at_step("mount_setattr"):
        return Namespace(_core.dup(userns_fd))


def _refuse_missing_maps(tree: int, userns_fd: int) -> None:
    """Older kernels, as 6.1, take also a user namespace whose maps are not written, and show all
    files as nobody's. Only where the top is shown so are the maps looked at: that takes a process."""
    with at_step("mount_setattr"):
        shown = os.stat(tree)
    if shown.st_uid != overflow_id("uid") and shown.st_gid != overflow_id("gid"):
        return
    with copy_of(userns_fd) as userns:
        try:
            are_written = bool(userns.uid_map and userns.gid_map)
        except PermissionError:
            return  # who may not enter it cannot tell
    if not are_written:
        raise userns_error("mount_setattr", EINVAL)


def can_copy(source_fd: int, *, recursive: bool) -> bool:
    flags = AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    try:
        _core.open_tree(source_fd, b"", flags).close()
    except OSError:
        return False
    return True
