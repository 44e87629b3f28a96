"""`usernsproc umount`: take a mount away."""

from __future__ import annotations

import argparse
import os
from errno import ENOENT
from typing import Any

from .._errors import at_step, userns_error


def add_to(commands: Any) -> None:
    """The parser of this command."""
    command = commands.add_parser(
        "umount",
        help="take a mount away",
        usage="usernsproc umount [--recursive | --lazy] TARGET",
        description="Unmount what is mounted on TARGET, whoever mounted it, idmapped or not. "
        "A TARGET that is a symbolic link is refused. What is in use stays mounted.",
        epilog="Exit status: 0, or 125 and everything is still mounted.",
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument("--recursive", action="store_true", help="with the mounts below it: all of them or none")
    how.add_argument("--lazy", action="store_true", help="with all below, even if in use: who uses it keeps it")
    command.add_argument("target", metavar="TARGET")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from .._mounts.table import MountId  # `run` does without
    from .._mounts.unmount import unmount_one, unmount_tree

    if not options.target:  # of an unset variable: it is neither the root nor the working directory
        raise userns_error("umount", ENOENT, options.target)
    target = options.target.rstrip("/") or "/"
    if os.path.islink(target):
        raise ValueError(f"umount: {target} is a symbolic link, to {os.path.realpath(target)}")
    with at_step("umount", target):
        path = os.path.realpath(target, strict=True)
        mount = MountId.at(path)
        if options.lazy or options.recursive:
            unmount_tree(mount, path, None, lazy=options.lazy)
        else:
            unmount_one(mount, path)
    return 0
