"""Why a mount stays mounted: what uses it, and the exceptions that say so."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from errno import EINVAL

from .. import _core, _system_calls
from .._causes import userns_error
from .._errors import UsernsError
from .._proc import MountEntry, list_in, name_in, open_root
from .._uapi import AT_NO_AUTOMOUNT, AT_STATX_DONT_SYNC, STATX_MNT_ID

_MAX_SHOWN = 5


def still_mounted_error(errno: int, path: str | bytes, cause: str | None, note: str) -> UsernsError:
    note += " It is still mounted: deleting below the target deletes files in the source."
    return userns_error("umount", errno, path, cause=cause, note=note)


def moved_error(path: str | bytes) -> UsernsError:
    return still_mounted_error(EINVAL, path, "mount-moved", "It was moved or renamed at this moment. Try again.")


def name_mounts(entries: Sequence[MountEntry]) -> str:
    names = [f"{entry.point} ({entry.fs_type})" for entry in entries[:_MAX_SHOWN]]
    return ", ".join(names) + (" and others" if len(entries) > _MAX_SHOWN else "")


def describe_users(number: int) -> str:
    """A sentence that names the processes that use a mount, for the note of an error."""
    users: list[str] = []
    for user in _users(number):
        users.append(user)
        if len(users) > _MAX_SHOWN:
            return f"It is in use by {', '.join(users[:_MAX_SHOWN])} and others."
    if users:
        return f"It is in use by {', '.join(users)}."
    return (
        "It is in use, but by no process that this one may look into: likely by a process of another user, a loop "
        "device or a swap file."
    )


def _users(number: int) -> Iterator[str]:
    try:
        with open_root() as root:
            for pid in sorted(int(name) for name in list_in(root, ".") if name.isdigit()):
                use = _use_by(root, pid, number)
                if use is not None:
                    yield use
    except OSError:
        return  # /proc cannot be read


def _use_by(root: int, pid: int, number: int) -> str | None:
    try:
        owned = _core.open_in(root, str(pid), os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None  # it has exited
    with owned as proc_dir:
        use = next((link for link in _links(proc_dir) if _is_on(proc_dir, link, number)), None)
        return None if use is None else f"process {pid} ({_name(proc_dir)}: {use})"


def _links(proc_dir: int) -> Iterator[str]:
    """What a process refers to files by. Each keeps the mount busy that the file was opened on."""
    yield from ("cwd", "root", "exe")
    for folder in ("fd", "map_files"):
        try:
            names = list_in(proc_dir, folder)
        except OSError:
            continue  # it has exited, or belongs to another user
        yield from (f"{folder}/{name}" for name in names)


def _is_on(proc_dir: int, link: str, number: int) -> bool:
    try:
        flags = AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC
        return _system_calls.mount_id(proc_dir, link.encode(), flags, STATX_MNT_ID) == number
    except OSError:
        return False


def _name(proc_dir: int) -> str:
    try:
        return name_in(proc_dir, "comm")
    except OSError:
        return "gone"
