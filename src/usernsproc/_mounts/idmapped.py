"""Idmapped mounts: a directory seen with other owners."""

from __future__ import annotations

from .._errors import UsernsError
from .._suggest import suggesting
from .._typing import TYPE_CHECKING
from .._uapi import MS_PRIVATE, MS_UNBINDABLE
from .copy import Attributes, copy_idmapped, open_path
from .detached import DetachedMount
from .refusals import Request, copy_refusal
from .userns_like import borrow_userns

if TYPE_CHECKING:
    from .._place import Path
    from .mount import Mount
    from .userns_like import UsernsLike

__all__ = ["idmapped_mount", "open_idmapped"]


@suggesting
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

    A file that belongs to ID *i* on disk is shown with the ID that *i* has in the parent
    namespace: with `0:100000:65536` a file of user 0 shows as 100000, and a file that user
    100000 creates through the mount belongs to 0 on disk. Nothing is changed on disk, and
    the cost does not depend on the number of files.

    The calls are `open_tree(OPEN_TREE_CLONE)`, `mount_setattr(MOUNT_ATTR_IDMAP)` and
    `move_mount()`. On failure nothing has changed. The mount has its own copy of the maps,
    so the namespace is not needed afterwards. If *source* is an idmapped mount already, the
    new maps replace the old ones and are not added to them (`open_tree_attr()`, Linux 6.15).

    Args:
        source: the directory or file to mount.
        target: the mount point, of the same type.
        userns: a `Namespace`, a `UsernsProcess`, a descriptor, a path, or a pair of
            maps (uid, gid), for which a namespace is created and closed again.
        recursive: include the mounts below *source*, each with the maps; if one does not
            support them, the call fails. Unbindable ones are left out, as by
            `mount --rbind`. Default: submounts are not included, and the directories below
            them become visible.
        read_only: `True`: writing through the mount fails with `EROFS`. `False`:
            writable even if the source's mount is read-only. `None`: as the source's mount.
        nosuid: `True`: set-user-ID bits and file capabilities have no effect. `False`,
            `None`: as for *read_only*.
        nodev: `True`: device files cannot be opened. `False`, `None`: as for *read_only*.
        noexec: `True`: no program can be executed. `False`, `None`: as for *read_only*.
        propagation: how later mounts below *source* and *target* propagate
            (`mount_namespaces(7)`): `"private"`, not; `"slave"`, to *target*;
            `"shared"`, both ways; `"unbindable"`, not, and it cannot be mounted
            elsewhere; `None`: as for a bind mount. If *target* is below a shared mount,
            other mount namespaces that share it get a copy of the mount until it is
            unmounted. Submounts are copied only with `"shared"` and `None`.

    Raises:
        UsernsError: `open_tree`: `ENOENT`, `EPERM` (`CAP_SYS_ADMIN` in the mount
            namespace's owner is required), `EINVAL` (the source is in another mount
            namespace, unbindable, or its submounts are locked to it);
            `mount_setattr`: `EINVAL` (the file system does not support it, or a map of
            the namespace is not written), `EPERM` (no `CAP_SYS_ADMIN` over the file
            system, the namespace is the initial one, or before Linux 6.15 *source*
            is an idmapped mount), `EBADF`, `ENOSYS` (before Linux 5.12);
            `move_mount`: `ENOENT`, `ENOSPC`, `EINVAL` (of source and target, only one
            is a directory). The `cause` distinguishes these; if a submount is at fault,
            `filename` is that submount.

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
    try:  # not a `with` block: a signal handler that raises at its end would leave the mount attached
        return detached.attach(target)
    except BaseException:
        detached.close()
        raise


@suggesting
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
    """Create an idmapped mount of *source* that is not mounted anywhere yet, as a descriptor.

    `idmapped_mount` calls this and `attach()`, and describes the parameters and errors.
    The two calls can be made at different times, or in different processes and mount
    namespaces if the descriptor is passed on.

    Linux 5.12. See `open_tree(2)`, `mount_setattr(2)`.
    """
    attributes = Attributes.resolve(
        read_only=read_only, nosuid=nosuid, nodev=nodev, noexec=noexec, propagation=propagation
    )
    if attributes.propagation == MS_UNBINDABLE:  # could not be attached below a shared mount
        attributes = attributes._replace(propagation=MS_PRIVATE)
    with borrow_userns(userns) as userns_fd, open_path("open_tree", source) as source_fd:
        try:
            copy = copy_idmapped(source_fd, userns_fd, recursive=recursive, attributes=attributes)
        except UsernsError as error:
            raise copy_refusal(error, Request(source, source_fd, userns_fd, recursive, attributes)) from None
    detached = DetachedMount(copy, propagation=propagation)
    detached._may_be_tree = recursive
    return detached
