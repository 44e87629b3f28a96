"""The propagation of a tree of mounts that has just been attached.

Below a shared mount the kernel makes everything shared, and attaches copies in all
mount namespaces that have a peer of it. Those of the topmost mount are unmounted with it,
but only if nothing is mounted on them; and if the topmost mount is private, what is
unmounted below it is not unmounted below them. So copies of a whole tree would stay in
other mount namespaces for ever. Therefore the submounts are unmounted, there too, before
the topmost one is made private, and put back afterwards.
"""

from __future__ import annotations

from .._proc import MountEntry
from .._uapi import MS_SHARED
from .copy import MountCopy, set_propagation
from .table import MountId
from .unmount import unmount_at, unmount_below


def set_propagation_of_tree(fd: int, propagation: int, top: MountEntry, below: list[MountEntry]) -> dict[int, MountId]:
    """Return the mounts below *top*, the one that *fd* is open on, by number."""
    if below and top.peer_group is not None and propagation not in (0, MS_SHARED):
        found = _without_copies_elsewhere(fd, top, below, propagation)
    else:
        found = {entry.number: MountId.of(entry) for entry in below}
    set_propagation(fd, propagation, recursive=True)
    return found


def _without_copies_elsewhere(
    fd: int, top: MountEntry, below: list[MountEntry], propagation: int
) -> dict[int, MountId]:
    copies: list[MountCopy] = []
    restored: dict[int, MountCopy] = {}
    try:
        unmount_below(top, below, copies, unmount_at)
        set_propagation(fd, propagation)
        for copy in reversed(copies):
            copy.attach(restored)
            restored[copy.entry.number] = copy
        return {copy.id.number: copy.id for copy in copies}
    finally:
        for copy in copies:
            copy.close()
