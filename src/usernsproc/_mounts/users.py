"""Who keeps a mount busy."""

from __future__ import annotations

import os
from collections.abc import Iterator

from .. import _core
from .._proc import list_in, name_in, open_root
from .._uapi import AT_NO_AUTOMOUNT, AT_STATX_DONT_SYNC, STATX_MNT_ID

_SHOWN = 5


def described_users(number: int) -> str:
    """A sentence for the note of an error."""
    users: list[str] = []
    for name in _users(number):
        users.append(name)
        if len(users) > _SHOWN:
            return f"It is in use by {', '.join(users[:_SHOWN])} and others."
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
                what = _use_by(root, pid, number)
                if what is not None:
                    yield what
    except OSError:
        return  # it cannot be found out


def _use_by(root: int, pid: int, number: int) -> str | None:
    try:
        owned = _core.open_in(root, str(pid), os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None  # gone
    with owned as proc_dir:
        what = next((link for link in _links(proc_dir) if _is_on(proc_dir, link, number)), None)
        return None if what is None else f"process {pid} ({_name(proc_dir)}: {what})"


def _links(proc_dir: int) -> Iterator[str]:
    """What keeps a mount busy: all of these keep the mount that they were opened on."""
    yield from ("cwd", "root", "exe")
    for folder in ("fd", "map_files"):
        try:
            names = list_in(proc_dir, folder)
        except OSError:
            continue  # gone, or somebody else's
        yield from (f"{folder}/{name}" for name in names)


def _is_on(proc_dir: int, link: str, number: int) -> bool:
    try:
        flags = AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC
        return _core.mount_id(proc_dir, link.encode(), flags, STATX_MNT_ID) == number
    except OSError:
        return False


def _name(proc_dir: int) -> str:
    try:
        return name_in(proc_dir, "comm")
    except OSError:
        return "gone"
