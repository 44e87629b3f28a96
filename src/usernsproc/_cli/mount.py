"""`usernsproc mount`: a directory or file mounted with other owners."""

from __future__ import annotations

from .._mounts.idmapped import idmapped_mount
from .._typing import TYPE_CHECKING
from .._uapi import PROPAGATIONS
from ._arguments import map_options, maps_of
from .options import Command, Option
from .output import write_json

if TYPE_CHECKING:
    from .._mounts.userns_like import UsernsLike
    from .options import Options

RESTRICTIONS = {
    "read-only": "nothing can be written through it",
    "nosuid": "set-user-id bits and file capabilities have no effect",
    "nodev": "device files cannot be opened",
    "noexec": "no program can be executed",
}


COMMAND = Command(
    "mount",
    "mount a directory or file with other owners",
    "Mount SOURCE on TARGET with its owners shifted by ID maps. A MAP is inside:outside:count[,...]: inside is the "
    "owner on disk, outside the owner that is shown. The mount stays until it is unmounted.",
    {
        "ID maps": (
            *map_options("both maps are required"),
            Option("--userns", "PATH", "the maps of this user namespace, such as /proc/PID/ns/user"),
        ),
        "the mount": (
            Option("--recursive", help="include the mounts below SOURCE"),
            *(Option(f"--{name}", help=meaning) for name, meaning in RESTRICTIONS.items()),
            Option("--propagation", "|".join(PROPAGATIONS), "default: private"),
        ),
        "output": (Option("--json", help="print what was mounted, as JSON"),),
    },
    arguments="SOURCE TARGET",
    examples={
        "usernsproc mount --map 0:100000:65536 /srv/image /srv/container": "files of root are shown as of user 100000",
        "usernsproc mount --userns /proc/1234/ns/user --read-only /srv/data /mnt": "with the maps of a process",
    },
    notes=(
        "Requires CAP_SYS_ADMIN over the file system.",
        "Exit status: 0, or 125 and nothing has changed.",
    ),
)


def run(options: Options) -> int:
    mount = idmapped_mount(
        options.source,
        options.target,
        _userns(options),
        recursive=options.recursive,
        read_only=options.read_only or None,
        nosuid=options.nosuid or None,
        nodev=options.nodev or None,
        noexec=options.noexec or None,
        propagation=options.propagation or "private",
    )
    if options.json:
        write_json({"source": options.source, "target": mount.target, "userns": options.userns, **maps_of(options)})
    return 0


def _userns(options: Options) -> UsernsLike:
    uid_map, gid_map = maps_of(options).values()
    if options.userns is not None:
        if uid_map is not None or gid_map is not None:
            raise ValueError("mount: --userns has maps of its own; leave out --map, --uid-map and --gid-map")
        path: str = options.userns
        return path
    from .._maps.writer import with_preset_for_both

    uids, gids = with_preset_for_both(uid_map, gid_map)
    if uids is None or gids is None:
        raise ValueError("mount: both maps are needed: --map, or --uid-map and --gid-map, or --userns")
    return uids, gids
