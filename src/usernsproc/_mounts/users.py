"""Who keeps a mount busy."""

from __future__ import annotations

import os
from collections.abc import Iterator

from .._names import process_name
from .table import MountId

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
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        what = next((link for link in _links(pid) if _is_on(f"/proc/{pid}/{link}", number)), None)
        if what is not None:
            yield f"process {pid} ({process_name(pid)}: {what})"


def _links(pid: int) -> Iterator[str]:
    """What keeps a mount busy: all of these keep the mount that they were opened on."""
    yield from ("cwd", "root", "exe")
    for folder in ("fd", "map_files"):
        try:
            names = os.listdir(f"/proc/{pid}/{folder}")
        except OSError:
            continue  # gone, or somebody else's
        yield from (f"{folder}/{name}" for name in names)


def _is_on(link: str, number: int) -> bool:
    try:
        return MountId.at(link, follow=True).number == number
    except OSError:
        return False
