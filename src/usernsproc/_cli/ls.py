"""`usernsproc ls`: the namespaces that can be seen."""

from __future__ import annotations

from .._namespaces.listing import NamespaceInfo, NamespaceList
from .._namespaces.namespace import Namespace, NamespaceKind
from .._proc import process_name
from .._text import printable
from .._typing import TYPE_CHECKING
from .options import Command, Option, only_one, several
from .output import write_error, write_json, write_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from .options import Options

HEADER = ("INODE", "KIND", "OWNER", "PROCS", "PID", "WHAT")


COMMAND = Command(
    "ls",
    "list namespaces",
    "List the visible namespaces, including those that only an open descriptor or a bind mount keeps alive. OWNER is "
    "the inode of the user namespace that owns one; PID the lowest of its processes.",
    {
        "options": (
            Option("--kind", "KIND[,...]", f"only these: {', '.join(NamespaceKind)}", several(NamespaceKind)),
            Option("--tree", help="as a tree of user namespaces and what they own"),
            Option("--json", help="as JSON"),
        ),
    },
    examples={
        "usernsproc ls --kind user,net": "those of two kinds",
        "usernsproc ls --tree": "which namespace owns which",
    },
)


def run(options: Options) -> int:
    only_one(options, "--tree", "--json")  # in the JSON, owner and parent make the tree
    found = Namespace.list()
    kinds: Sequence[NamespaceKind] = options.kind or tuple(NamespaceKind)
    if options.json:
        write_json(_as_json(found, kinds))
    else:
        lines = _tree(found, kinds) if options.tree else _table(info for info in found if info.kind in kinds)
        write_out("".join(f"{line}\n" for line in lines))
        _report_unseen(found)
    return 0


def _report_unseen(found: NamespaceList) -> None:
    if found.unseen_processes:
        write_error(f"usernsproc: processes that could not be looked into: {found.unseen_processes}\n")
    if found.unseen_namespaces:
        write_error(f"usernsproc: namespaces that could not be opened: {found.unseen_namespaces}\n")


def _as_json(found: NamespaceList, kinds: Sequence[NamespaceKind]) -> dict[str, Any]:
    namespaces = [_as_object(info) for info in found if info.kind in kinds]
    unseen = {"unseen_processes": found.unseen_processes, "unseen_namespaces": found.unseen_namespaces}
    return {"namespaces": namespaces, **unseen}


def _as_object(info: NamespaceInfo) -> dict[str, Any]:
    fields = info._asdict()
    del fields["routes"]
    return fields


def _table(infos: Iterable[NamespaceInfo]) -> Iterator[str]:
    rows = [HEADER, *map(_row, infos)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(info: NamespaceInfo) -> tuple[str, ...]:
    owner = "-" if info.owner is None else str(info.owner)
    pid = str(info.pids[0]) if info.pids else "-"
    return str(info.inode), info.kind, owner, str(len(info.pids)), pid, _what(info)


def _what(info: NamespaceInfo) -> str:
    """What is to be recognized by: its maps, its first command, where it is pinned."""
    parts: list[str] = []
    if info.uid_map is not None:
        same = info.gid_map in (None, info.uid_map)
        parts.append(info.uid_map or "unmapped" if same else f"uid {info.uid_map} gid {info.gid_map}")
    if info.pids:
        parts.append(f"({process_name(info.pids[0])})")
    parts += map(printable, info.pins)
    return " ".join(parts)


def _tree(found: NamespaceList, kinds: Sequence[NamespaceKind]) -> Iterator[str]:
    users = {info.inode for info in found if info.kind is NamespaceKind.USER}
    below: dict[int | None, list[NamespaceInfo]] = {}
    for info in sorted(found, key=lambda info: info.kind is NamespaceKind.USER):
        if info.kind is NamespaceKind.USER or info.kind in kinds:
            below.setdefault(info.owner if info.owner in users else None, []).append(info)
    for top in below.get(None, ()):
        yield _node(top)
        yield from _branches(top, below, "")


def _branches(parent: NamespaceInfo, below: dict[int | None, list[NamespaceInfo]], indent: str) -> Iterator[str]:
    children = below.get(parent.inode, []) if parent.kind is NamespaceKind.USER else []
    for child in children:
        last = child is children[-1]
        yield f"{indent}{'└─' if last else '├─'} {_node(child)}"
        yield from _branches(child, below, f"{indent}{'   ' if last else '│  '}")


def _node(info: NamespaceInfo) -> str:
    count = len(info.pids)
    facts = [f"{info.kind}:[{info.inode}]"]
    if info.owner_uid is not None:
        facts.append(f"owner {info.owner_uid}")
    facts.append("1 process" if count == 1 else f"{count} processes")
    if count:
        facts.append(f"pid {info.pids[0]}")
    return " ".join([*facts, _what(info)]).rstrip()
