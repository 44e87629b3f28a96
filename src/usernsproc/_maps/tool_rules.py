"""What `newuidmap(1)` and `newgidmap(1)` demand, as far as it can be known before they are run.

The rules are those of their source, and of the kernel for set-user-ID programs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from .. import _core
from .._caller import CAP_SETFCAP, CAP_SETGID, CAP_SETUID, Caller
from .._errors import Objection, at_step
from .._proc import proc_error, read_proc, read_sysctl
from .idmap import IDENTITY, MAX_TEXT, IdMap, IdRange
from .subids import FILES, Owner, Ranges, malformed_line, other_source, ranges_of
from .tool import find_tool

TOOLS = {"uid_map": "newuidmap", "gid_map": "newgidmap"}
_CAPABILITIES = {"uid_map": CAP_SETUID, "gid_map": CAP_SETGID}
_NAMES = {"uid_map": "CAP_SETUID", "gid_map": "CAP_SETGID"}
_IDS = {"uid_map": "user", "gid_map": "group"}
_SHOWN = 5  # subordinate ranges, in a message


def objections(step: str, id_map: IdMap, caller: Caller) -> Iterator[Objection]:
    """Why the tool will not write this map, that which says most first."""
    tool = TOOLS[step]
    status = _own_status()
    bounds = int(status["CapBnd"], 16)
    if not bounds >> _CAPABILITIES[step] & 1:
        rule = f"without {_NAMES[step]} only the own id {_own_id(step, caller)} can be mapped, alone and with count 1"
        reason = f"{rule}; {tool} could not have it either: it is not in this process' bounding set"
        yield Objection(id_map[0], "no-cap-setuid" if step == "uid_map" else "no-cap-setgid", reason)
    if Owner.of(None).name is None:  # before lines are looked for: usermod(8) adds them for names alone
        yield no_user_name(step)
    yield from _not_given(step, id_map, caller)
    if step == "uid_map" and not bounds >> CAP_SETFCAP & 1:
        reason = f"mapping outside id 0 needs CAP_SETFCAP, which is not in the bounding set: {tool} could not have it"
        yield from (Objection(r, "no-cap-setfcap", reason) for r in id_map if r.outside == 0)
    if (os.getuid(), os.getgid()) != (caller.uid, caller.gid):
        ids = f"{os.getuid()}:{os.getgid()} and {caller.uid}:{caller.gid}"
        yield Objection(None, "ids-differ", f"{tool} demands that real and effective ids are the same, not {ids}")
    yield from _tool_without_rights(step)
    if status.get("NoNewPrivs") == "1":
        yield Objection(None, "no-new-privs", f"no_new_privs is set: {tool} would not get the rights that it needs")
    if not _is_dumpable(caller):
        yield Objection(None, "not-dumpable", f"this process is not dumpable: {tool} could not open the map's file")
    if len(_as_the_tool_writes_it(id_map)) > MAX_TEXT:
        reason = f"{tool} would write {len(_as_the_tool_writes_it(id_map))} bytes, the kernel takes at most {MAX_TEXT}"
        yield Objection(None, "too-many-ranges", reason)


def no_user_name(step: str) -> Objection:
    """To whatever this user would have the tool write."""
    return Objection(None, "no-user-name", f"{TOOLS[step]} demands a user name, and user id {os.getuid()} has none")


def _own_status() -> dict[str, str]:
    lines = read_proc("thread-self/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _own_id(step: str, caller: Caller) -> int:
    return caller.uid if step == "uid_map" else caller.gid


def _is_dumpable(caller: Caller) -> bool:
    """The files in /proc of a process that is not belong to root."""
    path = "self/environ"
    try:
        with _core.open_proc(path, os.O_PATH) as fd:
            return os.fstat(fd).st_uid == caller.uid
    except OSError as error:
        raise proc_error("open_proc", error, f"/proc/{path}") from None


def _as_the_tool_writes_it(id_map: IdMap) -> str:
    """With a newline at the end, also where that is one byte too much."""
    return "".join(f"{r.inside} {r.outside} {r.count}\n" for r in id_map)


def _not_given(step: str, id_map: IdMap, caller: Caller) -> Iterator[Objection]:
    """Ranges that are neither the own id nor subordinate ids of this user."""
    owner = Owner.of(None)
    given = ranges_of(owner, step)
    for r in id_map:
        if (r.outside, r.count) == (_own_id(step, caller), 1):
            continue
        first = _first_not_in(r, given)
        if first is None:
            continue
        yield _not_given_objection(step, r, first, owner, given)


def _not_given_objection(step: str, r: IdRange, first: int, owner: Owner, given: Ranges) -> Objection:
    if not given:
        return no_subids(step, owner, r)
    shown = ", ".join(f"{start} … {start + count - 1}" for start, count in given[:_SHOWN])
    shown += ", …" if len(given) > _SHOWN else ""
    cause, where = ("subids-foreign", "not among") if first == r.outside else ("subids-too-small", "beyond")
    theirs = f"the subordinate {_IDS[step]} ids of {owner} in {_where(step)}, {shown}"
    reason = f"{_rule(step)}; outside id {first} is {where} {theirs}"
    return Objection(r, cause, reason, owner.name or str(owner.uid))


def no_subids(step: str, owner: Owner, id_range: IdRange | None = None, own_map: IdMap = IDENTITY) -> Objection:
    """Said of a map, and of a preset that cannot be made without."""
    line, malformed = "there is no line for it in", malformed_line(owner, step)
    if malformed is not None:
        line = f"its line {malformed!r} is malformed (NAME:FIRST:COUNT, and no more) in"
    reason = f"{owner} has no subordinate {_IDS[step]} ids: {line} {_where(step)}"
    if sum(r.count for r in own_map) <= 1:  # a line would be of no use
        reason = f"{reason}, and this process' own user namespace maps no id that could be one ({own_map})"
        return Objection(id_range, "not-mapped-in-parent", reason)
    reason = reason if id_range is None else f"{_rule(step)}; {reason}"
    return Objection(id_range, "no-subids", reason, owner.name or str(owner.uid))


def _rule(step: str) -> str:
    own_id = os.geteuid() if step == "uid_map" else os.getegid()
    return f"without {_NAMES[step]} a range is the own id {own_id} with count 1, or of subordinate ids"


def _where(step: str) -> str:
    source = other_source()
    return FILES[step] if source is None else f"{source!r} (of /etc/nsswitch.conf)"


def _first_not_in(r: IdRange, given: Ranges) -> int | None:
    """The first outside id of the range that no given one has. They may adjoin."""
    wanted = r.outside
    for first, count in sorted(given):
        if first <= wanted:
            wanted = max(wanted, first + count)
    return wanted if wanted < r.outside + r.count else None


def _tool_without_rights(step: str) -> Iterator[Objection]:
    path = find_tool(TOOLS[step])
    if path is None:
        yield Objection(
            None,
            "tool-missing",
            f"no {TOOLS[step]} that this process may execute is installed; it could write this map",
        )
        return
    with at_step(TOOLS[step], path):
        status, flags = os.stat(path), os.statvfs(path).f_flag
    if not _file_capabilities(path) >> _CAPABILITIES[step] & 1:
        yield from _not_root_by_set_user_id(path, status)
    if flags & os.ST_NOSUID:
        yield Objection(None, "tool-nosuid", f"{path} is on a file system that is mounted nosuid")


def _not_root_by_set_user_id(path: str, status: os.stat_result) -> Iterator[Objection]:
    if not status.st_mode & 0o4000:
        yield Objection(None, "tool-not-setuid", f"{path} has neither set-user-ID nor file capabilities")
    elif status.st_uid != 0 and status.st_uid == _overflow_uid():
        reason = f"the owner of {path} is not mapped in this user namespace: its set-user-ID has no effect"
        yield Objection(None, "tool-owner-unmapped", reason)
    elif status.st_uid != 0:
        yield Objection(None, "tool-not-setuid", f"{path} has set-user-ID, but belongs to user {status.st_uid}")


def _overflow_uid() -> int:
    """What stands for all owners that are not mapped."""
    return int(read_sysctl("kernel/overflowuid"))


def _file_capabilities(path: str) -> int:
    """The permitted ones: the second word of `struct vfs_cap_data`."""
    try:
        return int.from_bytes(os.getxattr(path, "security.capability")[4:8], "little")
    except OSError:
        return 0
