"""Chooses who writes `setgroups` and the id maps of a new user namespace, and says
before whether the kernel will take them (`new_idmap_permitted()` in its source).

What the caller may write is written directly. The rest, for an ordinary user, is
what `newuidmap(1)` and `newgidmap(1)` are for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import EACCES, ENOSYS, EPERM, ESRCH, EXDEV
from functools import cache, lru_cache

from .. import _core
from .._caller import CAP_SETFCAP, CAP_SETGID, CAP_SETUID, Caller
from .._causes import TOOL_CAUSES
from .._errors import IdMapError, IdMapPermissionError, Objection, refusal, userns_error
from .._evidence import faked_ids, step_error
from .._proc import proc_error, read_in
from .._typing import TYPE_CHECKING
from .idmap import IDENTITY, PRESETS, IdMap, IdMapLike, IdRange, as_id_map
from .presets import OF_SUBIDS, laid_out, own_id_as, rootless, unchanged

if TYPE_CHECKING:
    from typing import Any

    from .._spawn import Patience

SETGROUPS = ("allow", "deny")
_CAPABILITIES = {"uid_map": CAP_SETUID, "gid_map": CAP_SETGID}


class Maps:
    """What is to be written; `None`: left unwritten. Permitted when it was made, and not changed since."""

    __slots__ = ("_hash", "by_tool", "gid_map", "gid_text", "setgroups", "uid_map", "uid_text")

    def __init__(
        self, uid_map: IdMap | None, gid_map: IdMap | None, setgroups: str | None, by_tool: tuple[str, ...] = ()
    ) -> None:
        self.uid_map = uid_map
        self.gid_map = gid_map
        self.setgroups = setgroups
        self.by_tool = by_tool
        """`uid_map`, `gid_map`, where `newuidmap` and `newgidmap` have to do it."""
        self.uid_text = None if uid_map is None or "uid_map" in by_tool else uid_map.to_kernel()
        """What is to be written directly."""
        self.gid_text = None if gid_map is None or "gid_map" in by_tool else gid_map.to_kernel()
        self._hash = hash(self._values())

    def _values(self) -> tuple[object, ...]:
        return self.uid_map, self.gid_map, self.setgroups, self.by_tool

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Maps) else NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Maps{self._values()}"

    def but(self, **others: Any) -> Maps:
        """A copy with some of the members replaced."""
        own: dict[str, Any] = {
            "uid_map": self.uid_map,
            "gid_map": self.gid_map,
            "setgroups": self.setgroups,
            "by_tool": self.by_tool,
        }
        return Maps(**{**own, **others})

    @classmethod
    def wanted(
        cls,
        uid_map: IdMapLike | None,
        gid_map: IdMapLike | None,
        setgroups: str | None,
        caller: Caller,
    ) -> Maps:
        """From what the user said, checked against what this caller may write.

        Raises:
            IdMapError: a map is malformed.
            IdMapPermissionError: the kernel would refuse it to this caller.
            ValueError: `setgroups` is neither "allow", "deny" nor `None`.
        """
        if gid_map is None and isinstance(uid_map, str) and uid_map in PRESETS:
            gid_map = uid_map
        elif uid_map is None and isinstance(gid_map, str) and gid_map in PRESETS:
            uid_map = gid_map
        return cls.given(uid_map, gid_map, setgroups, caller)

    @classmethod
    def given(
        cls,
        uid_map: IdMapLike | None,
        gid_map: IdMapLike | None,
        setgroups: str | None,
        caller: Caller,
    ) -> Maps:
        """As `wanted`, but `None` stands for no map whatever the other is."""
        if setgroups is not None and setgroups not in SETGROUPS:
            raise ValueError(f'setgroups must be "allow", "deny" or None, not {setgroups!r}')
        uids, gids = _hashable("uid_map", uid_map, caller), _hashable("gid_map", gid_map, caller)
        return _direct(uids, gids, setgroups, caller) or _with_tools(uids, gids, setgroups, caller)

    def write_by_tool(self, pid: int, pidfd: int, patience: Patience | None = None) -> None:  # noqa: ARG002, called as `between`
        """Have written what is not to be written directly.

        Raises:
            MapToolError: a tool failed; the child's maps are of no use then.
        """
        from .newidmap import write_map_by_tool

        for step in self.by_tool:
            id_map = self.uid_map if step == "uid_map" else self.gid_map
            assert id_map is not None
            write_map_by_tool(step, id_map, pidfd, patience)


def _hashable(step: str, value: IdMapLike | None, caller: Caller) -> IdMap | str | None:
    """What the answer may be remembered for. Files of subordinate ids may change."""
    if value is None or (isinstance(value, IdMap) and value) or (isinstance(value, str) and value not in OF_SUBIDS):
        return value
    return checked_map(step, value, caller)


@lru_cache(maxsize=64)
def _direct(
    uid_map: IdMap | str | None, gid_map: IdMap | str | None, setgroups: str | None, caller: Caller
) -> Maps | None:
    """`None`: help is needed. Depends on its arguments alone, and programs ask again and
    again for the same."""
    uids = None if uid_map is None else checked_map("uid_map", uid_map, caller)
    gids = None if gid_map is None else checked_map("gid_map", gid_map, caller)
    if (uids is not None and needs_tool("uid_map", uids, caller)) or (
        gids is not None and needs_tool("gid_map", gids, caller)
    ):
        return None
    if uids is not None:
        _refuse("uid_map", _objections("uid_map", uids, caller))
    if gids is not None:
        setgroups = setgroups or needed_setgroups(caller)
        _refuse("gid_map", _objections("gid_map", gids, caller, setgroups))
    return Maps(uids, gids, setgroups)


def _with_tools(
    uid_map: IdMap | str | None, gid_map: IdMap | str | None, setgroups: str | None, caller: Caller
) -> Maps:
    """One of the two tools has to write its map. Looks at files, and remembers nothing."""
    maps: dict[str, IdMap | None] = {}
    by_tool: list[str] = []
    for step, value in (("uid_map", uid_map), ("gid_map", gid_map)):
        id_map = maps[step] = None if value is None else checked_map(step, value, caller)
        if id_map is None:
            continue
        if needs_tool(step, id_map, caller):
            _refuse(step, _not_mapped(id_map, _own_map(step, caller)))
            _refuse(step, _objections_of_the_tool(step, id_map, caller))
            by_tool.append(step)
        else:
            if step == "gid_map":
                setgroups = setgroups or needed_setgroups(caller)
            _refuse(step, _objections(step, id_map, caller, setgroups))
    return Maps(maps["uid_map"], maps["gid_map"], setgroups, tuple(by_tool))


def _objections_of_the_tool(step: str, id_map: IdMap, caller: Caller) -> Iterator[Objection]:
    """Not loaded before, since few need it; and a process that has changed its namespaces or
    its user may no longer reach the interpreter's files."""
    try:
        from .tool_rules import objections
    except ImportError as error:
        cause = "no-cap-setuid" if step == "uid_map" else "no-cap-setgid"
        capability = cause.removeprefix("no-").upper().replace("-", "_")
        reason = f"without {capability} only the own id can be mapped, alone and with count 1; whether a tool could "
        yield Objection(id_map[0], cause, f"{reason}write more cannot be found out: {error}")
    else:
        yield from objections(step, id_map, caller)


def needed_setgroups(caller: Caller) -> str | None:
    """What has to be written before a group id map is written directly, `None`: nothing.
    What `newgidmap` writes does not need it."""
    return None if caller.has(CAP_SETGID) else "deny"


def checked_map(step: str, value: IdMapLike, caller: Caller) -> IdMap:
    """The map that *value* stands for; an error names the file it was meant for."""
    try:
        id_map = _preset(step, value, caller) if isinstance(value, str) and value in PRESETS else as_id_map(value)
        return _in_pieces(id_map, _own_map(step, caller))
    except IdMapError as error:
        if error.step is not None:
            raise
        named = IdMapError(f"{step}: {error}")
        named.step = step
        raise named from None


def _own_map(step: str, caller: Caller) -> IdMap:
    return caller.uid_map if step == "uid_map" else caller.gid_map


def _preset(step: str, name: str, caller: Caller) -> IdMap:
    own_id = caller.uid if step == "uid_map" else caller.gid
    if name == "all":
        return as_id_map(unchanged(_own_map(step, caller)))
    if name not in OF_SUBIDS:
        return own_id_as(name, own_id)
    from .subids import Owner, ranges_of
    from .tool_rules import no_subids, no_user_name

    owner = Owner.of(None)
    found = laid_out(ranges_of(owner, step))
    if not found:
        objection = no_subids(step, owner, own_map=_own_map(step, caller))
        if objection.cause == "no-subids" and owner.name is None and not caller.has(_CAPABILITIES[step]):
            objection = no_user_name(step)  # usermod(8) could not add a line
        raise _refusal(step, objection)
    return found if name == "subids" else rootless(own_id, found)


def _in_pieces(id_map: IdMap, own_map: IdMap) -> IdMap:
    """A range that crosses several ranges of the own namespace's map is split there: the
    kernel takes none that does, though it maps every id. Others stay as they are."""
    if own_map is IDENTITY:
        return id_map
    own_ids = unchanged(own_map)
    pieces: list[IdRange] = []
    for r in id_map:
        parts = IdMap([r]).compose(own_ids)
        pieces.extend(parts if sum(part.count for part in parts) == r.count else [r])
    if len(pieces) == len(id_map):
        return id_map
    try:
        return IdMap(pieces)
    except IdMapError as error:
        raise IdMapError(f"split as the own namespace's map is, {error}") from None


def _refuse(step: str, objections: Iterator[Objection]) -> None:
    """The first is raised: that which says most."""
    for objection in objections:
        raise _refusal(step, objection)


def _refusal(step: str, objection: Objection) -> IdMapPermissionError:
    """If the ids are faked, no other rule says what is wrong."""
    faked = faked_ids()
    return refusal(step, objection if faked is None else Objection(objection.id_range, "ids-faked", faked))


def needs_tool(step: str, id_map: IdMap, caller: Caller) -> bool:
    """Whether more is asked for than the own id, by who may not have more."""
    own_id = caller.uid if step == "uid_map" else caller.gid
    return not caller.has(_CAPABILITIES[step]) and not _is_own_id(id_map, own_id)


def _is_own_id(id_map: IdMap, own_id: int) -> bool:
    return len(id_map) == 1 and (id_map[0].outside, id_map[0].count) == (own_id, 1)


def _objections(step: str, id_map: IdMap, caller: Caller, setgroups: str | None = None) -> Iterator[Objection]:
    """To writing it directly."""
    if step == "uid_map":
        yield from _outside_root(id_map, caller)
    yield from _not_mapped(id_map, _own_map(step, caller))
    if step == "gid_map" and not caller.has(CAP_SETGID) and setgroups != "deny":
        yield Objection(id_map[0], "setgroups-allowed", 'without CAP_SETGID setgroups must be "deny"')


@cache
def _setfcap_is_needed() -> bool:
    """The rule came with Linux 5.12, as did `mount_setattr(2)`."""
    try:
        _core.mount_setattr(-1, b"", 0, 0, 0, 0, 0)
    except OSError as error:
        return error.errno != ENOSYS
    return True


def _outside_root(id_map: IdMap, caller: Caller) -> Iterator[Objection]:
    for r in id_map:
        if r.outside == 0 and not caller.has(CAP_SETFCAP) and _setfcap_is_needed():
            yield Objection(r, "no-cap-setfcap", "mapping outside id 0 needs CAP_SETFCAP (Linux 5.12)")


def _not_mapped(id_map: IdMap, own_map: IdMap) -> Iterator[Objection]:
    for r in id_map:
        if not any(own.inside <= r.outside and r.outside + r.count <= own.inside + own.count for own in own_map):
            ids = _missing(r, own_map)
            reason = f"{ids} not mapped in this process' own user namespace ({own_map or 'nothing is'})"
            yield Objection(r, "not-mapped-in-parent", reason)


def _missing(r: IdRange, own_map: IdMap) -> str:
    """The outside ids of the range that are not mapped, in words."""
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


def write_map(proc_dir: int, step: str, text: str) -> None:
    """Write one file of `/proc/PID`, opened as the directory *proc_dir*, with a single `write(2)`."""
    data = text.encode("ascii")
    try:
        with _core.open_in(proc_dir, step, os.O_WRONLY) as fd:
            written = os.write(fd, data)
    except OSError as error:
        if error.errno == EPERM:
            _say_if_it_is_too_late(proc_dir, step)
        elif error.errno == EACCES and _has_ended(proc_dir):  # then its files are root's
            note = "The process has exited. Write its maps while it runs."
            raise userns_error("open_proc", ESRCH, cause="process-gone", note=note) from None
        if error.errno == EXDEV:
            raise proc_error(step, error) from None
        raise step_error(step, error.errno or 0) from None
    if written != len(data):
        raise AssertionError(f"the kernel took {written} of {len(data)} bytes of {step}")


def _say_if_it_is_too_late(proc_dir: int, step: str) -> None:
    if step != "setgroups" and _is_written(proc_dir, step):
        raise userns_error(step, EPERM, cause="map-written", note=TOOL_CAUSES["map-written"]) from None
    if step == "setgroups" and _is_written(proc_dir, "gid_map"):
        note = "The group ID map is written already, and setgroups cannot change after that. Write setgroups before it."
        raise userns_error(step, EPERM, cause="setgroups-too-late", note=note) from None


def _has_ended(proc_dir: int) -> bool:
    """Also of a zombie, which is still in `/proc`. `False` if it cannot be found out."""
    try:
        return read_in(proc_dir, "stat").rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError as error:
        return isinstance(error, ProcessLookupError)


def _is_written(proc_dir: int, step: str) -> bool:
    """`False` if it cannot be found out."""
    try:
        return bool(read_in(proc_dir, step))
    except OSError:
        return False
