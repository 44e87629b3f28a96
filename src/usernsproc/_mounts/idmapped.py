"""Idmapped mounts: a directory seen with other owners."""

from __future__ import annotations

from .._errors import UsernsError
from .._typing import TYPE_CHECKING
from .._uapi import MS_PRIVATE, MS_UNBINDABLE
from .attributes import Attributes
from .causes import Request, refusal
from .detached import DetachedMount
from .idmapped_copy import idmapped_copy, open_path
from .userns_like import borrowed_userns

if TYPE_CHECKING:
    from .mount import Mount
    from .userns_like import Path, UsernsLike

__all__ = ["idmapped_mount", "open_idmapped"]


def idmapped_mount(
    source: Path,
    target: Path,
    userns: UsernsLike,
    *,
    recursive: bool = False,
    read_only: bool | None = None,
    nosuid: bool | None = None,
    nodev: bool | None = None,
    noexec: bool | None = None,
    propagation: str | None = "private",
) -> Mount:
    """Mount *source* on *target* with its owners shifted by a user namespace's maps.

    What belongs to id *i* on disk is shown as the id that `i` has outside: with
    `0:100000:65536` a file of user 0 shows as 100000, and what user 100000 creates
    through the mount belongs to 0 on disk. Nothing is changed on disk, and the cost
    does not depend on how many files there are.

    `open_tree(OPEN_TREE_CLONE)`, `mount_setattr(MOUNT_ATTR_IDMAP)` and
    `move_mount()`: either the whole mount is made or nothing has changed. The mount
    keeps its own copy of the maps; the namespace may go. Where *source* is an
    idmapped mount already, the new maps are in place of the old ones, not on top of
    them (`open_tree_attr()`, Linux 6.15).

    Args:
        source: what to mount, a directory or a file.
        target: where, of the same type.
        userns: a `Namespace`, a `UsernsProcess`, a descriptor, a path, or a pair of
            maps (uid, gid), for which a namespace is made and closed again.
        recursive: with the mounts below *source*, each given the maps; one that
            cannot take them makes the whole fail. Unbindable ones are left out, as by
            `mount --rbind`. Without, what they cover is seen.
        read_only: `True`: writing through the mount fails with `EROFS`. `False`:
            writable although the source's mount is read-only. `None`: as there.
        nosuid: likewise, set-user-id bits and file capabilities have no effect.
        nodev: likewise, device files cannot be opened.
        noexec: likewise, no program can be executed.
        propagation: how mounts made later below *source* and *target* are passed on
            (`mount_namespaces(7)`): `"private"`, not; `"slave"`, to *target*;
            `"shared"`, both ways; `"unbindable"`, not, and it cannot be mounted
            elsewhere; `None`: as the kernel has it for a bind mount. Where *target* lies
            below a shared mount, other mount namespaces that share it get a copy of the
            mount until it is unmounted, without its submounts but for `"shared"` and `None`.

    Raises:
        UsernsError: `open_tree`: `ENOENT`, `EPERM` (`CAP_SYS_ADMIN` in the mount
            namespace's owner is needed), `EINVAL` (the source is of another mount
            namespace, unbindable, or its submounts are locked to it);
            `mount_setattr`: `EINVAL` (the file system cannot, or a map of the
            namespace is unwritten), `EPERM` (no `CAP_SYS_ADMIN` over the file
            system, the namespace is the initial one, or before Linux 6.15 *source*
            is an idmapped mount), `EBADF`, `ENOSYS` (before Linux 5.12);
            `move_mount`: `ENOENT`, `ENOSPC`, `EINVAL` (of source and target, only one
            is a directory). The `cause` tells these apart; `filename` is the submount
            at fault, where it is one.

    Linux 5.12. See `mount_setattr(2)`.
    """
    detached = open_idmapped(
        source,
        userns,
        recursive=recursive,
        read_only=read_only,
        nosuid=nosuid,
        nodev=nodev,
        noexec=noexec,
        propagation=propagation,
    )
    try:
        return detached.attach(target)
    except BaseException:
        detached.close()
        raise


def open_idmapped(
    source: Path,
    userns: UsernsLike,
    *,
    recursive: bool = False,
    read_only: bool | None = None,
    nosuid: bool | None = None,
    nodev: bool | None = None,
    noexec: bool | None = None,
    propagation: str | None = "private",
) -> DetachedMount:
    """Make an idmapped mount of *source* that is not mounted anywhere yet, as a descriptor.

    `idmapped_mount` is this and `attach()`: parameters and errors are described
    there. The two can be apart: in time, or in different processes and mount
    namespaces, when the descriptor is passed on.

    Linux 5.12. See `open_tree(2)`, `mount_setattr(2)`.
    """
    attributes = Attributes.wanted(read_only, nosuid, nodev, noexec, propagation)
    if attributes.propagation == MS_UNBINDABLE:  # could not be attached below a shared mount
        attributes = attributes._replace(propagation=MS_PRIVATE)
    with borrowed_userns(userns) as userns_fd, open_path("open_tree", source) as source_fd:
        try:
            copy = idmapped_copy(source_fd, userns_fd, recursive=recursive, attributes=attributes)
        except UsernsError as error:
            raise refusal(error, Request(source, source_fd, userns_fd, recursive, attributes)) from None
    detached = DetachedMount(copy, propagation=propagation)
    detached._may_be_tree = recursive
    return detached
