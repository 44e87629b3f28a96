"""The maps of a new user namespace: checked, and written.

The caller writes what the kernel lets it write. For the rest, an unprivileged user has
`newuidmap(1)` and `newgidmap(1)`.
"""

from __future__ import annotations

import os
from errno import EACCES, EPERM, ESRCH, EXDEV
from functools import lru_cache

from .. import _core
from .._caller import Caller
from .._causes import TOOL_CAUSES, userns_error
from .._errors import IdMapError
from .._evidence import step_error
from .._proc import proc_error, read_in, read_state
from .._typing import TYPE_CHECKING
from .idmap import IDENTITY, PRESETS, IdMap, IdMapLike, IdRange, as_id_map
from .permission import (
    kernel_violations,
    needed_setgroups,
    needs_newidmap,
    newidmap_violations,
    no_subids,
    no_user_name,
    not_mapped,
    refuse,
)
from .presets import OF_SUBIDS, own_id_as, rootless, stacked, unchanged
from .side import GID, SIDES, UID, Side

if TYPE_CHECKING:
    from typing import Any

    from .._spawn import Patience

SETGROUPS = ("allow", "deny")


class Maps:
    """What is to be written; `None`: left unwritten. `resolve` has checked that this caller may write it."""

    __slots__ = ("_hash", "for_core", "gid_map", "setgroups", "uid_map", "via_newidmap")

    def __init__(
        self, uid_map: IdMap | None, gid_map: IdMap | None, setgroups: str | None, via_newidmap: tuple[Side, ...] = ()
    ) -> None:
        self.uid_map = uid_map
        self.gid_map = gid_map
        self.setgroups = setgroups
        self.via_newidmap = via_newidmap
        """The sides that `newuidmap` and `newgidmap` have to write."""
        self.for_core = (setgroups, self._text(UID), self._text(GID))
        """The texts that are written directly, as the core takes them."""
        self._hash = hash(self._values())

    def _text(self, side: Side) -> str | None:
        id_map = side.map_of(self)
        return None if id_map is None or side in self.via_newidmap else id_map.to_kernel()

    def _values(self) -> tuple[Any, ...]:
        return self.uid_map, self.gid_map, self.setgroups, self.via_newidmap

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Maps) else NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Maps{self._values()}"

    def replace(self, **others: Any) -> Maps:
        """A copy with other values of some members."""
        names = ("uid_map", "gid_map", "setgroups", "via_newidmap")
        return Maps(**{**dict(zip(names, self._values(), strict=True)), **others})

    @classmethod
    def resolve(
        cls, uid_map: IdMapLike | None, gid_map: IdMapLike | None, setgroups: str | None, caller: Caller
    ) -> Maps:
        """From the parameters of the user. The name of a preset stands for both maps if only one is given.

        Raises:
            IdMapError: a map is malformed.
            IdMapPermissionError: the kernel would refuse it to this caller.
            ValueError: `setgroups` is neither "allow", "deny" nor `None`.
        """
        uid_map, gid_map = with_preset_for_both(uid_map, gid_map)
        return _resolve(uid_map, gid_map, setgroups, caller)

    @classmethod
    def resolve_one(cls, side: Side, id_map: IdMapLike, setgroups: str | None, caller: Caller) -> Maps:
        """As `resolve`, of one map; the other one is left unwritten."""
        uid_map, gid_map = (id_map, None) if side is UID else (None, id_map)
        return _resolve(uid_map, gid_map, setgroups, caller)

    def write(self, proc_dir: int, pidfd: int) -> None:
        """Write the maps of a process, but not `setgroups`."""
        for side, text in zip(SIDES, self.for_core[1:], strict=True):
            if text is not None:
                write_map(proc_dir, side.file, text)
        self.write_via_newidmap(-1, pidfd)

    def write_via_newidmap(self, pid: int, pidfd: int, patience: Patience | None = None) -> None:  # noqa: ARG002, called as `between`
        """Have the tools write the sides that are not written directly.

        Raises:
            MapToolError: a tool failed. The maps of the child are of no use then.
        """
        for side in self.via_newidmap:
            from .newidmap import write_via_newidmap  # slow to load, and rarely needed

            id_map = side.map_of(self)
            assert id_map is not None
            write_via_newidmap(side, id_map, pidfd, patience)


# ---- from what the user gave to maps ----


def with_preset_for_both(
    uid_map: IdMapLike | None, gid_map: IdMapLike | None
) -> tuple[IdMapLike | None, IdMapLike | None]:
    """The name of a preset stands for both maps if only one is given."""
    if gid_map is None and _is_preset(uid_map):
        return uid_map, uid_map
    if uid_map is None and _is_preset(gid_map):
        return gid_map, gid_map
    return uid_map, gid_map


def _is_preset(value: IdMapLike | None) -> bool:
    return isinstance(value, str) and value in PRESETS


def _resolve(uid_map: IdMapLike | None, gid_map: IdMapLike | None, setgroups: str | None, caller: Caller) -> Maps:
    if setgroups is not None and setgroups not in SETGROUPS:
        raise ValueError(f'setgroups must be "allow", "deny" or None, not {setgroups!r}')
    uids, gids = _hashable(UID, uid_map, caller), _hashable(GID, gid_map, caller)
    maps = _direct(uids, gids, setgroups, caller)
    return _permitted(_checked(uids, gids, caller), setgroups, caller) if maps is None else maps


def _hashable(side: Side, value: IdMapLike | None, caller: Caller) -> IdMap | str | None:
    """Something for which the answer may be remembered. Files of subordinate IDs may change."""
    if value is None or (isinstance(value, IdMap) and value) or (isinstance(value, str) and value not in OF_SUBIDS):
        return value
    return _check(side, value, caller)


@lru_cache(maxsize=64)
def _direct(uids: IdMap | str | None, gids: IdMap | str | None, setgroups: str | None, caller: Caller) -> Maps | None:
    """`None`: a tool is needed, which depends on files. All else depends on the arguments alone, and
    programs ask for the same again and again."""
    maps = _checked(uids, gids, caller)
    if any(needs_newidmap(side, id_map, caller) for side, id_map in maps.items()):
        return None
    return _permitted(maps, setgroups, caller)


def _checked(uids: IdMap | str | None, gids: IdMap | str | None, caller: Caller) -> dict[Side, IdMap]:
    """The maps that are given."""
    given = zip(SIDES, (uids, gids), strict=True)
    return {side: _check(side, value, caller) for side, value in given if value is not None}


def _permitted(maps: dict[Side, IdMap], setgroups: str | None, caller: Caller) -> Maps:
    via_newidmap: list[Side] = []
    for side, id_map in maps.items():
        if needs_newidmap(side, id_map, caller):
            refuse(side, not_mapped(id_map, side.map_of(caller)))
            refuse(side, newidmap_violations(side, id_map, caller))
            via_newidmap.append(side)
        else:
            if side is GID:
                setgroups = setgroups or needed_setgroups(caller)
            refuse(side, kernel_violations(side, id_map, caller, setgroups))
    return Maps(maps.get(UID), maps.get(GID), setgroups, tuple(via_newidmap))


def _check(side: Side, value: IdMapLike, caller: Caller) -> IdMap:
    """The map that *value* stands for. An error names its file."""
    try:
        id_map = _preset(side, value, caller) if isinstance(value, str) and value in PRESETS else as_id_map(value)
        return _in_pieces(id_map, side.map_of(caller))
    except IdMapError as error:
        if error.step is not None:
            raise
        named = IdMapError(f"{side.file}: {error}")
        named.step = side.file
        raise named from None


def _preset(side: Side, name: str, caller: Caller) -> IdMap:
    if name == "all":
        return as_id_map(unchanged(side.map_of(caller)))
    if name not in OF_SUBIDS:
        return own_id_as(name, side.id_of(caller))
    from .subids import Owner  # slow to load, and rarely needed

    owner = Owner.of(None)
    found = stacked(owner.ranges(side))
    if not found:
        violation = no_subids(side, owner, own_map=side.map_of(caller))
        if violation.cause == "no-subids" and owner.name is None and not caller.has(side.capability):
            violation = no_user_name(side)  # usermod(8) could not add a line
        raise violation.error(side)
    return found if name == "subids" else rootless(side.id_of(caller), found)


def _in_pieces(id_map: IdMap, own_map: IdMap) -> IdMap:
    """Ranges that cross several ranges of the map of the caller's namespace are split there: the
    kernel refuses them, though it maps each of their IDs. Others stay as they are."""
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
        raise IdMapError(f"split as the map of the caller's namespace is, {error}") from None


# ---- into the files ----


def write_map(proc_dir: int, file: str, text: str) -> None:
    """Write one file of `/proc/PID`, opened as the directory *proc_dir*, with a single `write(2)`."""
    data = text.encode("ascii")
    try:
        with _core.open_in(proc_dir, file, os.O_WRONLY) as fd:
            written = os.write(fd, data)
    except OSError as error:
        if error.errno == EPERM:
            _refuse_second_write(proc_dir, file)
        elif error.errno == EACCES and _has_ended(proc_dir):  # then its files are root's
            note = "The process has exited. Write its maps while it runs."
            raise userns_error("open_proc", ESRCH, cause="process-gone", note=note) from None
        if error.errno == EXDEV:
            raise proc_error(file, error) from None
        raise step_error(file, error.errno or 0) from None
    if written != len(data):
        raise AssertionError(f"the kernel took {written} of {len(data)} bytes of {file}")


def _refuse_second_write(proc_dir: int, file: str) -> None:
    """Raise if the map is written already, or for `setgroups` the group ID map."""
    if file != "setgroups" and _is_written(proc_dir, file):
        raise userns_error(file, EPERM, cause="map-written", note=TOOL_CAUSES["map-written"]) from None
    if file == "setgroups" and _is_written(proc_dir, "gid_map"):
        note = "The group ID map is written already, and setgroups cannot change after that. Write setgroups before it."
        raise userns_error(file, EPERM, cause="setgroups-too-late", note=note) from None


def _has_ended(proc_dir: int) -> bool:
    """Also of a zombie, which is still in `/proc`. `False` if it cannot be determined."""
    try:
        return read_state(proc_dir)[0] in ("Z", "X")
    except OSError as error:
        return isinstance(error, ProcessLookupError)


def _is_written(proc_dir: int, file: str) -> bool:
    """`False` if it cannot be determined."""
    try:
        return bool(read_in(proc_dir, file))
    except OSError:
        return False
