"""Who may write which ID map, known before a child exists.

First come the rules of the kernel (`new_idmap_permitted()` in its source), then those of
`newuidmap(1)` and `newgidmap(1)`, which are of their source and of the kernel's for
set-user-ID programs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from errno import ENOSYS, EPERM
from functools import cache

from .. import _core, _system_calls
from .._caller import CAP_SETFCAP, CAP_SETGID, Caller
from .._causes import REMEDIES, at_step
from .._errors import IdMapPermissionError
from .._evidence import faked_ids
from .._proc import overflow_id, read_status
from .._typing import TYPE_CHECKING
from .idmap import IDENTITY, MAX_TEXT, IdMap, IdRange
from .side import GID, UID, Side

if TYPE_CHECKING:
    from .subids import Owner, Ranges

_SHOWN = 5  # subordinate ranges, in a message


class Violation:
    """A rule that forbids this caller to write a range (`None`: the whole map), and how it is broken."""

    __slots__ = ("cause", "id_range", "reason", "user")

    def __init__(self, id_range: IdRange | None, cause: str, reason: str, user: str = "USER") -> None:
        self.id_range = id_range
        self.cause = cause
        self.reason = reason
        self.user = user
        """For the commands in the remedy."""

    def error(self, side: Side) -> IdMapPermissionError:
        """The kernel's EPERM, before the kernel is asked. With faked IDs, no other rule explains anything."""
        faked = faked_ids()
        cause, reason = (self.cause, self.reason) if faked is None else ("ids-faked", faked)
        where = side.file if self.id_range is None else f"{side.file} range {self.id_range}"
        error = IdMapPermissionError(EPERM, f"{os.strerror(EPERM)}: {where}: {reason}", step=side.file, cause=cause)
        error.add_note(REMEDIES[cause].replace("USER", self.user))
        return error


def refuse(side: Side, violations: Iterable[Violation]) -> None:
    """Raise the first one: it says most."""
    for violation in violations:
        raise violation.error(side)


# ---- the kernel's rules ----


def needs_newidmap(side: Side, id_map: IdMap, caller: Caller) -> bool:
    """Whether the map has more than the caller's ID, and the caller lacks the capability for that."""
    is_own_id = len(id_map) == 1 and (id_map[0].outside, id_map[0].count) == (side.id_of(caller), 1)
    return not is_own_id and not caller.has(side.capability)


def needed_setgroups(caller: Caller) -> str | None:
    """What has to be written before a group ID map is written directly, `None`: nothing.
    `newgidmap` does not need it."""
    return None if caller.has(CAP_SETGID) else "deny"


def kernel_violations(side: Side, id_map: IdMap, caller: Caller, setgroups: str | None = None) -> Iterator[Violation]:
    """Why the kernel would not let this caller write the map."""
    if side is UID and not caller.has(CAP_SETFCAP):
        reason = "mapping outside id 0 needs CAP_SETFCAP (Linux 5.12)"
        yield from (violation for violation in _of_id_0(id_map, reason) if _setfcap_is_needed())
    yield from not_mapped(id_map, side.map_of(caller))
    if side is GID and not caller.has(CAP_SETGID) and setgroups != "deny":
        yield Violation(id_map[0], "setgroups-allowed", 'without CAP_SETGID setgroups must be "deny"')


@cache
def _setfcap_is_needed() -> bool:
    """The rule came with Linux 5.12, as did `mount_setattr(2)`."""
    try:
        _system_calls.mount_setattr(-1, b"", 0, 0, 0, 0, 0)
    except OSError as error:
        return error.errno != ENOSYS
    return True


def _of_id_0(id_map: IdMap, reason: str) -> Iterator[Violation]:
    return (Violation(r, "no-cap-setfcap", reason) for r in id_map if r.outside == 0)


def not_mapped(id_map: IdMap, own_map: IdMap) -> Iterator[Violation]:
    """IDs that the namespace of the caller does not map can be mapped by neither the caller nor a tool."""
    for r in id_map:
        if not any(own.inside <= r.outside and r.outside + r.count <= own.inside + own.count for own in own_map):
            ids = _missing(r, own_map)
            reason = f"{ids} not mapped in this process' own user namespace ({own_map or 'nothing is'})"
            yield Violation(r, "not-mapped-in-parent", reason)


def _missing(r: IdRange, own_map: IdMap) -> str:
    """The outside IDs of the range that are not mapped, in words."""
    gaps: list[str] = []
    first, end = r.outside, r.outside + r.count
    for own in [*sorted(own_map), None]:
        until = end if own is None else min(own.inside, end)
        if first < until:
            gaps.append(str(first) if until == first + 1 else f"{first} … {until - 1}")
        if own is not None:
            first = max(first, own.inside + own.count)
    one = len(gaps) == 1 and "…" not in gaps[0]
    return f"outside id {gaps[0]} is" if one else f"outside ids {', '.join(gaps[:5])} are"


# ---- the rules of newuidmap and newgidmap ----


def newidmap_violations(side: Side, id_map: IdMap, caller: Caller) -> Iterator[Violation]:
    """Why the tool would not write this map; the one that says most comes first."""
    tool, own_id = side.tool, side.id_of(caller)
    try:
        # Slow to load, and rarely needed. A process that has changed its namespaces or its user may
        # no longer reach the files.
        from .._helper import find_tool
        from .subids import Owner
    except ImportError as error:
        reason = f"{_alone(side, own_id)}; whether a tool could write more cannot be found out: {error}"
        yield Violation(id_map[0], side.no_capability, reason)
        return
    status = read_status("thread-self")
    bounds = int(status["CapBnd"], 16)
    if not bounds >> side.capability & 1:
        reason = f"{_alone(side, own_id)}; {tool} could not have it either: it is not in this process' bounding set"
        yield Violation(id_map[0], side.no_capability, reason)
    owner = Owner.of(None)
    if owner.name is None:  # before lines are looked for: usermod(8) adds them for names alone
        yield no_user_name(side)
    yield from _not_given(side, id_map, caller, owner)
    if side is UID and not bounds >> CAP_SETFCAP & 1:
        reason = f"mapping outside id 0 needs CAP_SETFCAP, which is not in the bounding set: {tool} could not have it"
        yield from _of_id_0(id_map, reason)
    if (os.getuid(), os.getgid()) != (caller.uid, caller.gid):
        ids = f"{os.getuid()}:{os.getgid()} and {caller.uid}:{caller.gid}"
        yield Violation(None, "ids-differ", f"{tool} requires real and effective IDs to be the same, not {ids}")
    yield from _tool_without_rights(side, find_tool(tool))
    if status.get("NoNewPrivs") == "1":
        yield Violation(None, "no-new-privs", f"no_new_privs is set: {tool} would not get the rights that it needs")
    if not _is_dumpable(caller):
        yield Violation(None, "not-dumpable", f"this process is not dumpable: {tool} could not open the map's file")
    length = len(id_map.to_kernel().removesuffix("\n")) + 1  # the tool always writes the last newline
    if length > MAX_TEXT:
        reason = f"{tool} would write {length} bytes, the kernel accepts at most {MAX_TEXT}"
        yield Violation(None, "too-many-ranges", reason)


def _alone(side: Side, own_id: int) -> str:
    return f"without {side.capability_name} only the caller's ID {own_id} can be mapped, alone and with count 1"


def no_user_name(side: Side) -> Violation:
    """For any map that this user would have the tool write."""
    return Violation(None, "no-user-name", f"{side.tool} requires a user name, and user id {os.getuid()} has none")


def _is_dumpable(caller: Caller) -> bool:
    """If it is not, the files of the process in /proc belong to root."""
    with at_step("open_proc", "/proc/self/environ"), _core.open_proc("self/environ", os.O_PATH) as fd:
        return os.fstat(fd).st_uid == caller.uid


def _not_given(side: Side, id_map: IdMap, caller: Caller, owner: Owner) -> Iterator[Violation]:
    """Ranges that are neither the caller's ID nor subordinate IDs of this user."""
    given = owner.ranges(side)
    rule = f"without {side.capability_name} a range is the caller's ID {side.id_of(caller)} with count 1, "
    rule += "or of subordinate ids; "
    for r in id_map:
        first = None if (r.outside, r.count) == (side.id_of(caller), 1) else _first_not_in(r, given)
        if first is None:
            continue
        if not given:
            yield no_subids(side, owner, r, rule=rule)
            continue
        shown = ", ".join(f"{start} … {start + count - 1}" for start, count in given[:_SHOWN])
        shown += ", …" if len(given) > _SHOWN else ""
        cause, where = ("subids-foreign", "not among") if first == r.outside else ("subids-too-small", "beyond")
        theirs = f"the subordinate {side.noun} ids of {owner} in {owner.source(side)}, {shown}"
        yield Violation(r, cause, f"{rule}outside id {first} is {where} {theirs}", owner.name or str(owner.uid))


def no_subids(
    side: Side, owner: Owner, id_range: IdRange | None = None, *, rule: str = "", own_map: IdMap = IDENTITY
) -> Violation:
    """For a map, and for a preset that requires some."""
    line, malformed = "there is no line for it in", owner.malformed_line(side)
    if malformed is not None:
        line = f"its line {malformed!r} is malformed (NAME:FIRST:COUNT, and no more) in"
    reason = f"{owner} has no subordinate {side.noun} ids: {line} {owner.source(side)}"
    if sum(r.count for r in own_map) <= 1:  # a line would be of no use
        reason = f"{reason}, and this process' own user namespace maps no id that could be one ({own_map})"
        return Violation(id_range, "not-mapped-in-parent", reason)
    return Violation(id_range, "no-subids", rule + reason, owner.name or str(owner.uid))


def _first_not_in(r: IdRange, given: Ranges) -> int | None:
    """The first outside ID of the range that no given one has. They may adjoin."""
    wanted = r.outside
    for first, count in sorted(given):
        if first <= wanted:
            wanted = max(wanted, first + count)
    return wanted if wanted < r.outside + r.count else None


def _tool_without_rights(side: Side, path: str | None) -> Iterator[Violation]:
    if path is None:
        reason = f"no {side.tool} that this process may execute is installed; it could write this map"
        yield Violation(None, "tool-missing", reason)
        return
    with at_step(side.tool, path):
        status, flags = os.stat(path), os.statvfs(path).f_flag
    if not _file_capabilities(path) >> side.capability & 1:
        yield from _not_root_by_set_user_id(path, status)
    if flags & os.ST_NOSUID:
        yield Violation(None, "tool-nosuid", f"{path} is on a file system that is mounted nosuid")


def _not_root_by_set_user_id(path: str, status: os.stat_result) -> Iterator[Violation]:
    if not status.st_mode & 0o4000:
        yield Violation(None, "tool-not-setuid", f"{path} has neither set-user-ID nor file capabilities")
    elif status.st_uid != 0 and status.st_uid == overflow_id("uid"):
        reason = f"the owner of {path} is not mapped in this user namespace: its set-user-ID has no effect"
        yield Violation(None, "tool-owner-unmapped", reason)
    elif status.st_uid != 0:
        yield Violation(None, "tool-not-setuid", f"{path} has set-user-ID, but belongs to user {status.st_uid}")


def _file_capabilities(path: str) -> int:
    """The permitted ones: the second word of `struct vfs_cap_data`."""
    try:
        return int.from_bytes(os.getxattr(path, "security.capability")[4:8], "little")
    except OSError:
        return 0
