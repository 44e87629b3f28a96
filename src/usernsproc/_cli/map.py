"""`usernsproc map`: shows an ID map, and translates IDs with it."""

from __future__ import annotations

from typing import Any, NamedTuple

from .._caller import Caller
from .._maps.idmap import PRESETS, IdMap, as_id_map
from .._maps.side import SIDES
from .._maps.writer import Maps
from .._namespaces.namespace import Namespace
from .._proc import open_pidfd, open_proc_dir_of, own_setgroups, read_id_map
from .drawing import draw
from .options import Command, Option, Options, each, number, one, only_one
from .output import columns, write_json, write_out

NOT_MAPPED = 1


COMMAND = Command(
    "map",
    "show an ID map, translate IDs",
    "Show an ID map: the given one, or that of the caller's user namespace. A MAP is inside:outside:count[,...], or a "
    f"preset ({', '.join(PRESETS)}), shown as it is for the caller.",
    {
        "options": (
            Option("--pid", "PID", "the maps of a process", one(number)),
            Option("--namespace", "FILE", "the maps of a namespace file"),
            Option("--to-outside", "ID", "translate an ID inside; can be repeated", each(number)),
            Option("--to-inside", "ID", "translate an ID outside; can be repeated", each(number)),
            Option("--json", help="as JSON"),
        ),
    },
    arguments="[MAP]",
    examples={
        "usernsproc map rootless": "which IDs the preset has for the caller",
        "usernsproc map --pid 1234": "the maps of a process",
        "usernsproc map 0:100000:65536 --to-outside 33": "100033",
    },
    notes=("Exit status: 0; 1 if an ID to be translated is not mapped; 125 for an error.",),
)


class Shown(NamedTuple):
    """One map, and the program that would write it."""

    title: str
    key: str
    id_map: IdMap
    writer: str | None = None


def run(options: Options) -> int:
    only_one(options, "MAP", "--pid", "--namespace")
    maps, setgroups = _find_maps(options)
    if options.json:
        write_json(_as_json_document(maps, setgroups, options))
    elif options.to_outside or options.to_inside:
        write_out("".join(f"{line}\n" for shown in maps for line in _translations(shown, options)))
    else:
        last = "" if setgroups is None else f"\nsetgroups: {setgroups}\n"
        write_out("\n".join(_describe(shown) for shown in maps) + last)
    return NOT_MAPPED if _anything_unmapped(maps, options) else 0


def _find_maps(options: Options) -> tuple[list[Shown], str | None]:
    if options.pid is not None:
        return _both(*_of_process(options.pid)), None
    if options.namespace is not None:
        with Namespace.open(options.namespace) as namespace:
            return _both(namespace.uid_map, namespace.gid_map), None
    if options.map is None:
        caller = Caller.now()
        return _both(caller.uid_map, caller.gid_map), None
    if options.map not in PRESETS:
        return [Shown("", "map", as_id_map(options.map))], None
    maps = Maps.resolve(options.map, None, None, Caller.now())
    assert maps.uid_map is not None
    assert maps.gid_map is not None
    writers = [side.tool if side in maps.via_newidmap else "this process" for side in SIDES]
    return _both(maps.uid_map, maps.gid_map, *writers), maps.setgroups or own_setgroups()


def _both(uids: IdMap, gids: IdMap, uid_writer: str | None = None, gid_writer: str | None = None) -> list[Shown]:
    return [Shown("user ids", "uid_map", uids, uid_writer), Shown("group ids", "gid_map", gids, gid_writer)]


def _of_process(pid: int) -> tuple[IdMap, IdMap]:
    with open_pidfd(pid) as pidfd, open_proc_dir_of(pidfd) as proc_dir:
        return read_id_map(proc_dir, "uid_map"), read_id_map(proc_dir, "gid_map")


def _describe(shown: Shown) -> str:
    title = f"{shown.title}, written by {shown.writer}" if shown.writer else shown.title
    return (f"{title}:\n" if title else "") + draw(shown.id_map, columns())


def _translate(shown: Shown, options: Options) -> list[tuple[str, int, int | None]]:
    found = [("outside", id, shown.id_map.to_outside(id)) for id in options.to_outside]
    return found + [("inside", id, shown.id_map.to_inside(id)) for id in options.to_inside]


def _translations(shown: Shown, options: Options) -> list[str]:
    name = {"uid_map": "user ", "gid_map": "group "}.get(shown.key, "")
    lines: list[str] = []
    for side, id, other in _translate(shown, options):
        from_side = "inside" if side == "outside" else "outside"
        answer = f"not mapped {side}" if other is None else f"{other} {side}"
        lines.append(f"{name}{id} {from_side} is {answer}")
    return lines


def _anything_unmapped(maps: list[Shown], options: Options) -> bool:
    return any(other is None for shown in maps for _, _, other in _translate(shown, options))


def _as_json_document(maps: list[Shown], setgroups: str | None, options: Options) -> dict[str, Any]:
    document: dict[str, Any] = {shown.key: _as_json(shown, options) for shown in maps}
    if setgroups is not None:
        document["setgroups"] = setgroups
    return document


def _as_json(shown: Shown, options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {
        "map": str(shown.id_map),
        "ids": sum(r.count for r in shown.id_map),
        "ranges": [{"inside": r.inside, "outside": r.outside, "count": r.count} for r in shown.id_map],
    }
    if shown.writer is not None:
        found["written_by"] = shown.writer
    if options.to_outside:
        found["to_outside"] = {str(id): shown.id_map.to_outside(id) for id in options.to_outside}
    if options.to_inside:
        found["to_inside"] = {str(id): shown.id_map.to_inside(id) for id in options.to_inside}
    return found
