"""The propagation of a tree of mounts that has just been attached.

Below a shared mount the kernel makes everything shared, and attaches copies in all
mount namespaces that have a peer of it. Those of the topmost mount go when that is
unmounted here, but only if nothing is mounted on them; and if the topmost mount is
private, what is unmounted below it is not unmounted below them. So copies of a whole
tree would stay in other mount namespaces for ever. Therefore the submounts are taken
off, there too, before the topmost one is made private, and put back afterwards.
"""

from __future__ import annotations

from .. import _core
from .._proc import MountEntry
from .._uapi import AT_EMPTY_PATH, AT_RECURSIVE, MS_SHARED
from . import whereabouts
from .copy_back import MountCopy
from .table import MountId


def set_propagation(fd: int, propagation: int) -> dict[int, MountId]:
    """Of the mount that *fd* is open on, and all below. 0: as they are."""
    if propagation:
        _core.mount_setattr(fd, b"", AT_EMPTY_PATH | AT_RECURSIVE, 0, 0, propagation, 0)
    return {}


def set_propagation_of_tree(fd: int, propagation: int, top: MountEntry, below: list[MountEntry]) -> dict[int, MountId]:
    """Gives the mounts below *top*, the one that *fd* is open on, by number."""
    if below and top.peer_group is not None and propagation not in (0, MS_SHARED):
        found = _without_copies_elsewhere(fd, top, below, propagation)
    else:
        found = {entry.number: MountId.of(entry) for entry in below}
    set_propagation(fd, propagation)
    return found


def _without_copies_elsewhere(
    fd: int, top: MountEntry, below: list[MountEntry], propagation: int
) -> dict[int, MountId]:
    tree = {entry.number: entry for entry in (top, *below)}
    copies: list[MountCopy] = []
    again: dict[int, MountCopy] = {}
    try:
        for entry in reversed(below):
            copies.append(MountCopy(entry, tree[entry.parent]))
            with copies[-1].unmounting() as place:
                whereabouts.unmount(copies[-1].original, place)
        _core.mount_setattr(fd, b"", AT_EMPTY_PATH, 0, 0, propagation, 0)
        for copy in reversed(copies):
            copy.attach(again)
            again[copy.entry.number] = copy
        return {copy.id.number: copy.id for copy in copies}
    finally:
        for copy in copies:
            copy.close()
