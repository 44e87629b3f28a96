"""`usernsproc mount`: a directory or file mounted with other owners."""

from __future__ import annotations

import argparse

from .._typing import TYPE_CHECKING
from .._uapi import PROPAGATIONS

if TYPE_CHECKING:
    from typing import Any

    from .._mounts.userns_like import UsernsLike


def add_to(commands: Any) -> None:
    """The parser of this command."""
    command = commands.add_parser(
        "mount",
        help="mount a directory or file with other owners",
        usage="usernsproc mount (--map MAP | --uid-map MAP --gid-map MAP | --userns PATH) [options] SOURCE TARGET",
        description="Mount SOURCE on TARGET with its owners shifted by id maps. A MAP is inside:outside:count[,...]: "
        "inside is the owner on disk, outside the owner that is shown. The mount stays until it is unmounted.",
        epilog="Requires CAP_SYS_ADMIN over the file system. Exit status: 0, or 125 and nothing has changed.",
    )
    command.add_argument("--map", metavar="MAP", help="both id maps")
    command.add_argument("--uid-map", metavar="MAP", help="the user id map")
    command.add_argument("--gid-map", metavar="MAP", help="the group id map")
    command.add_argument("--userns", metavar="PATH", help="the maps of this user namespace, such as /proc/PID/ns/user")
    command.add_argument("--recursive", action="store_true", help="include the mounts below SOURCE")
    for name, meaning in (
        ("read-only", "nothing can be written through it"),
        ("nosuid", "set-user-id bits and file capabilities have no effect"),
        ("nodev", "device files cannot be opened"),
        ("noexec", "no program can be executed"),
    ):
        command.add_argument(f"--{name}", action="store_true", default=None, help=meaning)
    command.add_argument("--propagation", choices=PROPAGATIONS, default="private", help="default: private")
    command.add_argument("source", metavar="SOURCE")
    command.add_argument("target", metavar="TARGET")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from .._mounts.idmapped import idmapped_mount  # `run` does without

    idmapped_mount(
        options.source,
        options.target,
        _userns(options),
        recursive=options.recursive,
        read_only=options.read_only,
        nosuid=options.nosuid,
        nodev=options.nodev,
        noexec=options.noexec,
        propagation=options.propagation,
    )
    return 0


def _userns(options: argparse.Namespace) -> UsernsLike:
    uid_map = options.map if options.uid_map is None else options.uid_map
    gid_map = options.map if options.gid_map is None else options.gid_map
    if options.userns is not None:
        if uid_map is not None or gid_map is not None:
            raise ValueError("mount: --userns has maps of its own; leave out --map, --uid-map and --gid-map")
        path: str = options.userns
        return path
    from .._maps.writer import with_preset_for_both

    uid_map, gid_map = with_preset_for_both(uid_map, gid_map)
    if uid_map is None or gid_map is None:
        raise ValueError("mount: both maps are needed: --map, or --uid-map and --gid-map, or --userns")
    return uid_map, gid_map
