"""Why there is no idmapped mount: found out by trying, on copies that nobody sees."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from errno import EINVAL, ENOSYS, ENOTTY, EPERM
from typing import NamedTuple

from .. import _core
from .._errors import UsernsError, userns_error
from .._namespaces.namespace import Namespace, NamespaceKind, create_userns
from .abi import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, OPEN_TREE_CLOEXEC
from .attributes import Attributes
from .idmapped_copy import can_copy, idmapped_copy
from .table import MountEntry, MountId, find_mount, mounts_below, path_of, read_mounts
from .userns_like import Path

_INITIAL_USERNS = 0xEFFFFFFD  # its inode, PROC_USER_INIT_INO of the kernel

_SINCE = {
    "ext4": "5.12",
    "xfs": "5.12",
    "vfat": "5.12",
    "btrfs": "5.15",
    "ntfs3": "5.15",
    "f2fs": "5.18",
    "erofs": "5.19",
    "squashfs": "6.2",
    "tmpfs": "6.3",
    "ceph": "6.7",
    "hugetlbfs": "6.9",
}
"""The Linux version in which a file system began to take idmapped mounts (mount_setattr(2))."""


class Request(NamedTuple):
    """What was asked for."""

    source: Path
    source_fd: int
    userns_fd: int
    recursive: bool
    attributes: Attributes


class Cause(NamedTuple):
    name: str
    note: str
    culprit: str | None = None
    """The submount that is at fault."""


def refusal(failure: _core.Failure, request: Request) -> UsernsError:
    """The exception for a copy that could not be made, or not be given maps."""
    step, errno = failure.args[:2]
    find = _why_no_copy if step == "open_tree" else _why_no_maps
    try:
        cause = find(errno, request)
    except OSError:  # no descriptor left to look with, or the like: the refusal is what counts
        cause = None
    if cause is None:
        return userns_error(step, errno, os.fspath(request.source))
    return userns_error(step, errno, cause.culprit or os.fspath(request.source), cause=cause.name, note=cause.note)


def _why_no_copy(errno: int, request: Request) -> Cause | None:
    if errno != EINVAL:
        return None  # the table knows
    entry = _entry_of(request.source_fd)
    if entry is None:
        return Cause(
            "other-mount-namespace",
            "The source is not in the mount namespace of the calling thread: enter that one first. "
            "(If it is a detached mount, Linux 6.15 can copy it.)",
        )
    if entry.is_unbindable:
        return Cause("unbindable", f"The mount at {entry.point} is unbindable; mount --make-private undoes that.")
    if not request.recursive and can_copy(request.source_fd, recursive=True):
        return Cause(
            "locked-submounts",
            "The submounts came from a more privileged mount namespace and may not be taken off, "
            "as that could show what they cover: mount it recursively, with them.",
        )
    return None


def _why_no_maps(errno: int, request: Request) -> Cause | None:
    if errno == ENOSYS:
        return Cause("kernel-too-old", "Idmapped mounts need Linux 5.12.")
    if errno not in (EINVAL, EPERM):
        return None
    if errno == EPERM and _may_change_nothing(request.source_fd):
        return Cause("idmap-refused", "The system call itself is refused, likely by a seccomp profile.")
    cause = _userns_at_fault(errno, request.userns_fd) or _mount_at_fault(request)
    if cause is None and errno == EPERM and request.attributes.to_clear:
        return Cause(
            "locked-attributes",
            "The mount came from a more privileged mount namespace, so that read-only, nosuid, nodev and noexec "
            "can be set, but not taken away.",
        )
    if cause is None and errno == EPERM:
        return Cause("idmap-refused", "Likely: a security module forbids it.")
    return cause


def _may_change_nothing(fd: int) -> bool:
    """Whether even a call that asks for no change is refused, which the kernel grants to all who may mount."""
    try:
        _core.mount_setattr(fd, b"", AT_EMPTY_PATH, 0, 0, 0, 0)
    except OSError as error:
        return error.errno == EPERM
    return False


def _userns_at_fault(errno: int, userns_fd: int) -> Cause | None:
    try:
        with Namespace(os.dup(userns_fd)) as userns:
            if userns.kind != NamespaceKind.USER:
                return Cause("not-a-user-namespace", f"The namespace is of kind {userns.kind}.")
            if userns.inode == _INITIAL_USERNS:
                return Cause(
                    "initial-user-namespace",
                    "The initial user namespace cannot give the maps: to the kernel it means a mount without maps. "
                    "For no change of owners, make a plain bind mount.",
                )
            maps = {"uid_map": userns.uid_map, "gid_map": userns.gid_map}
    except OSError as error:
        if error.errno == ENOTTY:
            return Cause("not-a-user-namespace", "The descriptor is no namespace.")
        if not isinstance(error, UsernsError) or (error.step, error.errno, errno) != ("setns", EPERM, EPERM):
            raise
        note = "The maps are taken only by who has CAP_SYS_ADMIN in the user namespace that gives them."
        return Cause("no-rights-over-userns", note)
    missing = [name for name, ids in maps.items() if not ids]
    if missing:
        return Cause("map-missing", f"Not written: {' and '.join(missing)} of the user namespace. Both are needed.")
    return None


def _mount_at_fault(request: Request) -> Cause | None:
    for fd, entry, culprit in _mounts_of(request):
        try:
            os.close(idmapped_copy(fd, request.userns_fd, recursive=False))
        except _core.Failure as failure:
            step, errno = failure.args[:2]
            if step != "mount_setattr" or errno not in (EINVAL, EPERM):
                continue
            cause = _refused_maps(entry) if errno == EPERM else _took_no_maps(fd, entry)
            return cause._replace(culprit=culprit)
    return None


def _refused_maps(entry: MountEntry | None) -> Cause:
    where = _described(entry)
    if entry is not None and entry.is_idmapped:
        return Cause(
            "already-idmapped",
            f"The mount of {where} has maps already; others can replace them since Linux 6.15 (open_tree_attr(2)).",
        )
    return Cause(
        "no-rights-over-file-system",
        f"It takes CAP_SYS_ADMIN in the user namespace that mounted {where}. For disks that is as a rule the initial "
        "one: only root of the host can do it. A tmpfs that was mounted in a user namespace belongs to its root.",
    )


def _took_no_maps(fd: int, entry: MountEntry | None) -> Cause:
    where = _described(entry)
    try:
        with create_userns("root", "root") as another:
            os.close(idmapped_copy(fd, another.fileno(), recursive=False))
        return Cause(
            "same-user-namespace",
            f"This is the user namespace that mounted {where}: its maps apply already. Use one that is nested in it.",
        )
    except (_core.Failure, OSError, ValueError):
        fs_type = "" if entry is None else entry.fs_type
        return Cause("no-idmap-support", f"On this kernel, {where} cannot be idmapped.{_advice(fs_type)}")


def _advice(fs_type: str) -> str:
    if fs_type in _SINCE:
        return f" {fs_type} can be, since Linux {_SINCE[fs_type]}."
    if fs_type == "overlay":
        return " Idmapped mounts can be its layers, since Linux 5.19."
    if fs_type.partition(".")[0] in ("fuse", "fuseblk"):
        return " FUSE can be, since Linux 6.12, where its server asks for it (FUSE_ALLOW_IDMAP, default_permissions)."
    return ""


def _described(entry: MountEntry | None) -> str:
    return "a file system of unknown type" if entry is None else f"the {entry.fs_type} at {entry.point}"


def _entry_of(fd: int) -> MountEntry | None:
    return find_mount(read_mounts(), MountId.of_fd(fd).number)


def _mounts_of(request: Request) -> Iterator[tuple[int, MountEntry | None, str | None]]:
    """Each mount of the source that can be reached: a descriptor, its entry, and its path if it is a submount."""
    mounts = read_mounts()
    number = MountId.of_fd(request.source_fd).number
    yield request.source_fd, find_mount(mounts, number), None
    if not request.recursive:
        return
    top = path_of(request.source_fd).rstrip("/") + "/"
    for entry in mounts_below(mounts, number):
        if entry.point.startswith(top):
            with _opened(entry) as fd:
                if fd is not None:
                    yield fd, entry, entry.point


@contextmanager
def _opened(entry: MountEntry) -> Generator[int | None]:
    """A descriptor of it; `None` where another mount covers it."""
    try:
        fd = _core.open_tree(AT_FDCWD, os.fsencode(entry.point), OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        yield fd if MountId.of_fd(fd).number == entry.number else None
    finally:
        os.close(fd)


def move_refusal(errno: int, tree: int, target: Path, target_fd: int) -> UsernsError:
    """The exception for a mount that could not be attached."""
    try:
        cause, note = _why_not_moved(errno, tree, target_fd)
    except OSError:
        cause = note = None
    return userns_error("move_mount", errno, os.fspath(target), cause=cause, note=note)


def _why_not_moved(errno: int, tree: int, target_fd: int) -> tuple[str, str] | tuple[None, None]:
    if errno == EINVAL:
        if stat.S_ISDIR(os.fstat(tree).st_mode) != stat.S_ISDIR(os.fstat(target_fd).st_mode):
            return "type-mismatch", "Of source and target, one is a directory and the other is not."
        if _entry_of(target_fd) is None:
            return (
                "other-mount-namespace",
                "The target is not in the mount namespace of the calling thread: attach it by a process there.",
            )
    return None, None
