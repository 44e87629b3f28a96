"""`usernsproc umount`: unmount a mount."""

from __future__ import annotations

import argparse
import os
import stat
from errno import ENOENT
from typing import Any

from .._causes import at_step, userns_error
from .._place import Place


def add_to(commands: Any) -> None:
    """The parser of this command."""
    command = commands.add_parser(
        "umount",
        help="unmount a mount",
        usage="usernsproc umount [--recursive | --lazy] TARGET",
        description="Unmount what is mounted on TARGET, even if another program mounted it, idmapped or not. "
        "A TARGET that is a symbolic link is refused. A mount that is in use stays mounted.",
        epilog="Exit status: 0, or 125 if everything is still mounted.",
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument("--recursive", action="store_true", help="include the mounts below it: all of them or none")
    how.add_argument("--lazy", action="store_true", help="detach the mount and its submounts even if busy")
    command.add_argument("target", metavar="TARGET")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from .._mounts.table import MountId  # `run` does without
    from .._mounts.unmount import unmount_one, unmount_tree

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
