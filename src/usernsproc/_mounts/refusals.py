"""Why the kernel refused an idmapped mount: found by trying, on copies that no other process sees."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from errno import EINVAL, ENOSYS, ENOTTY, EPERM
from typing import NamedTuple

from .. import _system_calls
from .._causes import too_old, userns_error
from .._errors import UsernsError
from .._namespaces.kind import NamespaceKind
from .._namespaces.new import create_userns
from .._proc import MountEntry, path_of, read_mounts
from .._typing import TYPE_CHECKING
from .._uapi import AT_EMPTY_PATH
from .copy import Attributes, copy_idmapped, copy_mount, duplicate_userns
from .table import MountId, find_mount, mounts_below, open_mount

if TYPE_CHECKING:
    from .._place import Path

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
"""The Linux version that added idmapped mounts to a file system (mount_setattr(2))."""


class Request(NamedTuple):
    """The parameters of the copy."""

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


def copy_refusal(error: UsernsError, request: Request) -> UsernsError:
    """The exception for a copy that could not be created, or not be given maps."""
    step, errno, find = error.step, error.errno, _FINDS.get(error.step or "")
    if step is None or errno is None or find is None:
        return error  # the namespace could not be read
    return _refusal(step, errno, request.source, lambda: find(errno, request))


def move_refusal(errno: int, tree: int, target: Path, target_fd: int) -> UsernsError:
    """The exception for a mount that could not be attached."""
    return _refusal("move_mount", errno, target, lambda: _why_not_moved(errno, tree, target_fd))


def _refusal(step: str, errno: int, path: Path, find: Callable[[], Cause | None]) -> UsernsError:
    try:
        cause = find()
    except OSError:  # for example, no descriptor is left to look with: report the refusal alone
        cause = None
    if cause is None:
        return userns_error(step, errno, os.fspath(path))
    return userns_error(step, errno, cause.culprit or os.fspath(path), cause=cause.name, note=cause.note)


def _why_no_copy(errno: int, request: Request) -> Cause | None:
    if errno != EINVAL:
        return None  # the table has the cause
    entry = _entry_of(request.source_fd)
    if entry is None:
        return Cause(
            "other-mount-namespace",
            "The source is not in the mount namespace of the calling thread. Enter that one first, or if it is a "
            "detached mount, use Linux 6.15.",
        )
    if entry.is_unbindable:
        return Cause("unbindable", f"The mount at {entry.point} is unbindable. Run mount --make-private on it.")
    if not request.recursive and _can_copy_tree(request.source_fd):
        return Cause(
            "locked-submounts",
            "The submounts came from a more privileged mount namespace and cannot be separated from the source, since "
            "that could show what they cover. Mount it recursively.",
        )
    return None


def _can_copy_tree(fd: int) -> bool:
    try:
        copy_mount(fd, recursive=True).close()
    except OSError:
        return False
    return True


def _why_no_maps(errno: int, request: Request) -> Cause | None:
    if errno == ENOSYS:
        return Cause(*too_old("An idmapped mount", "5.12"))
    if errno not in (EINVAL, EPERM):
        return None
    if errno == EPERM and _may_change_nothing(request.source_fd):
        note = "Likely: a seccomp profile refuses mount_setattr(2). Allow it in the profile."
        return Cause("idmap-refused", note)
    cause = _userns_at_fault(errno, request.userns_fd) or _mount_at_fault(request)
    if cause is None and errno == EPERM and request.attributes.to_clear:
        return Cause(
            "locked-attributes",
            "The mount came from a more privileged mount namespace, so read-only, nosuid, nodev and noexec can be set, "
            "but not cleared. Leave them as they are.",
        )
    if cause is None and errno == EPERM:
        return Cause("idmap-refused", "Likely: a security module forbids it. Look for a denial in the kernel's log.")
    return cause


_FINDS = {"open_tree": _why_no_copy, "mount_setattr": _why_no_maps}


def _may_change_nothing(fd: int) -> bool:
    """Whether even a call without a change is refused. The kernel allows it to every process that may mount."""
    try:
        _system_calls.mount_setattr(fd, b"", AT_EMPTY_PATH, 0, 0, 0, 0)
    except OSError as error:
        return error.errno == EPERM
    return False


def _userns_at_fault(errno: int, userns_fd: int) -> Cause | None:
    try:
        with duplicate_userns(userns_fd) as userns:
            if userns.kind != NamespaceKind.USER:
                note = f"The namespace is of kind {userns.kind}. Pass a user namespace."
                return Cause("not-a-user-namespace", note)
            if userns.inode == _INITIAL_USERNS:
                return Cause(
                    "initial-user-namespace",
                    "The initial user namespace cannot supply the maps: to the kernel it means a mount without maps. "
                    "For unchanged owners, create a plain bind mount.",
                )
            maps = {"uid_map": userns.uid_map, "gid_map": userns.gid_map}
    except OSError as error:
        if error.errno == ENOTTY:
            return Cause("not-a-user-namespace", "The descriptor is not a namespace. Pass a user namespace.")
        if not isinstance(error, UsernsError) or (error.step, error.errno, errno) != ("setns", EPERM, EPERM):
            raise
        note = "Using the maps requires CAP_SYS_ADMIN in the user namespace that supplies them. Create it yourself."
        return Cause("no-rights-over-userns", note)
    missing = [name for name, ids in maps.items() if not ids]
    if missing:
        note = f"Not written: {' and '.join(missing)} of the user namespace. Write both."
        return Cause("map-missing", note)
    return None


def _mount_at_fault(request: Request) -> Cause | None:
    for fd, entry, culprit in _mounts_of(request):
        try:
            copy_idmapped(fd, request.userns_fd).close()
        except UsernsError as error:
            if error.step != "mount_setattr" or error.errno not in (EINVAL, EPERM):
                continue
            cause = _cause_of_eperm(entry) if error.errno == EPERM else _cause_of_einval(fd, entry)
            return cause._replace(culprit=culprit)
    return None


def _cause_of_eperm(entry: MountEntry | None) -> Cause:
    where = _describe(entry)
    if entry is not None and entry.is_idmapped:
        return Cause(
            "already-idmapped",
            f"The mount of {where} has maps already. Use Linux 6.15, which can replace them (open_tree_attr(2)), or "
            "mount its source.",
        )
    return Cause(
        "no-rights-over-file-system",
        f"An idmapped mount requires CAP_SYS_ADMIN in the user namespace that mounted {where}, for disks usually the "
        "initial one. Run as root there, or use a tmpfs that was mounted in the caller's user namespace.",
    )


def _cause_of_einval(fd: int, entry: MountEntry | None) -> Cause:
    where = _describe(entry)
    try:
        with create_userns("root", "root") as another:
            copy_idmapped(fd, another.fileno()).close()
        return Cause(
            "same-user-namespace",
            f"This is the user namespace that mounted {where}, and its maps apply already. Use one nested in it.",
        )
    except (OSError, ValueError):
        fs_type = "" if entry is None else entry.fs_type
        note = f"On this kernel, {where} cannot be idmapped.{_advice(fs_type)}"
        return Cause("no-idmap-support", note)


def _advice(fs_type: str) -> str:
    if fs_type in _SINCE:
        return f" {fs_type} requires Linux {_SINCE[fs_type]}."
    if fs_type == "overlay":
        return " Use idmapped mounts as its layers, which requires Linux 5.19."
    if fs_type.partition(".")[0] in ("fuse", "fuseblk"):
        return " FUSE requires Linux 6.12 and a server that asks for it (FUSE_ALLOW_IDMAP, default_permissions)."
    return ""


def _describe(entry: MountEntry | None) -> str:
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
            try:
                with open_mount(entry) as fd:
                    yield fd, entry, entry.point
            except OSError:
                continue  # another mount covers it


def _why_not_moved(errno: int, tree: int, target_fd: int) -> Cause | None:
    if errno != EINVAL:
        return None  # the table has the cause
    if stat.S_ISDIR(os.fstat(tree).st_mode) != stat.S_ISDIR(os.fstat(target_fd).st_mode):
        note = "Only one of source and target is a directory. Choose two of the same type."
        return Cause("type-mismatch", note)
    if _entry_of(target_fd) is None:
        note = "The target is not in the mount namespace of the calling thread. Attach it in a process there."
        return Cause("other-mount-namespace", note)
    return None
