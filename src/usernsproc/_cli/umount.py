"""`usernsproc umount`: unmount a mount."""

from __future__ import annotations

import os
import stat
from errno import ENOENT

from .._causes import at_step, userns_error
from .._mounts.table import MountId
from .._mounts.unmount import unmount_one, unmount_tree
from .._place import Place
from .._typing import TYPE_CHECKING
from .options import Command, Option, only_one

if TYPE_CHECKING:
    from .options import Options


COMMAND = Command(
    "umount",
    "unmount a mount",
    "Unmount what is mounted on TARGET, even if another program mounted it, idmapped or not. A TARGET that is a "
    "symbolic link is refused. A mount that is in use stays mounted.",
    {
        "options": (
            Option("--recursive", help="include the mounts below it: all of them or none"),
            Option("--lazy", help="detach the mount and its submounts even if busy"),
        ),
    },
    arguments="TARGET",
    examples={"usernsproc umount --recursive /srv/container": ""},
    notes=("Exit status: 0, or 125 if everything is still mounted.",),
)


def run(options: Options) -> int:
    only_one(options, "--recursive", "--lazy")
    with at_step("umount", options.target), _place(options.target) as place:
        mount = MountId.at(place.name, dir_fd=place.directory)
        if options.recursive or options.lazy:
            unmount_tree(mount, place, None, lazy=options.lazy)
        else:
            unmount_one(mount, place)
    return 0


def _place(target: str) -> Place:
    """Looked up once; errors show it without symbolic links in the directories."""
    if not target:  # from an unset variable; it does not mean the root or working directory
        raise userns_error("umount", ENOENT, target)
    target = target.rstrip("/") or "/"
    folder, name = os.path.split(target)
    if name in ("", ".", ".."):
        folder, name = os.path.split(os.path.realpath(target, strict=True))
    if not name:
        raise ValueError("umount: / is the root directory, which cannot be unmounted")
    place = Place(os.path.join(os.path.realpath(folder, strict=True), name))
    if stat.S_ISLNK(place.status().st_mode):
        raise ValueError(f"umount: {target} is a symbolic link, to {os.path.realpath(target)}")
    return place
