"""Writes `setgroups` and the id maps of a new user namespace, and says before
whether the kernel will take them (`new_idmap_permitted()` in its source)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import ENOSYS, EPERM
from functools import cache, lru_cache
from typing import NamedTuple

from . import _core
from ._caller import CAP_SETFCAP, CAP_SETGID, CAP_SETUID, Caller
from ._errors import IdMapError, IdMapPermissionError, userns_error
from ._idmap import PRESETS, IdMap, IdMapLike, IdRange, as_id_map

SETGROUPS = ("allow", "deny")


class Maps(NamedTuple):
    """What is to be written; `None`: left unwritten. Permitted when it was made."""

    uid_map: IdMap | None
    gid_map: IdMap | None
    setgroups: str | None

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
        if setgroups is not None and setgroups not in SETGROUPS:
            raise ValueError(f'setgroups must be "allow", "deny" or None, not {setgroups!r}')
        if gid_map is None and isinstance(uid_map, str) and uid_map in PRESETS:
            gid_map = uid_map
        elif uid_map is None and isinstance(gid_map, str) and gid_map in PRESETS:
            uid_map = gid_map
        if not (uid_map is None or isinstance(uid_map, str)):
            uid_map = checked_map("uid_map", uid_map, caller.uid)
        if not (gid_map is None or isinstance(gid_map, str)):
            gid_map = checked_map("gid_map", gid_map, caller.gid)
        return _permitted(uid_map, gid_map, setgroups, caller)

    @property
    def uid_text(self) -> str | None:
        return self.uid_map.to_kernel() if self.uid_map is not None else None

    @property
    def gid_text(self) -> str | None:
        return self.gid_map.to_kernel() if self.gid_map is not None else None


@lru_cache(maxsize=64)
def _permitted(uid_map: IdMap | str | None, gid_map: IdMap | str | None, setgroups: str | None, caller: Caller) -> Maps:
    """Depends on its arguments alone, and programs ask again and again for the same."""
    uids = None if uid_map is None else checked_map("uid_map", uid_map, caller.uid)
    gids = None if gid_map is None else checked_map("gid_map", gid_map, caller.gid)
    if uids is not None:
        refuse_unless_permitted("uid_map", uids, caller)
    if gids is not None:
        setgroups = setgroups or needed_setgroups(caller)
        refuse_unless_permitted("gid_map", gids, caller, setgroups)
    return Maps(uids, gids, setgroups)


def needed_setgroups(caller: Caller) -> str | None:
    """What has to be written before a group id map, `None`: nothing."""
    return None if caller.has(CAP_SETGID) else "deny"


def checked_map(step: str, value: IdMapLike, own_id: int) -> IdMap:
    """The map that *value* stands for; an error names the file it was meant for."""
    try:
        return as_id_map(value, own_id)
    except IdMapError as error:
        named = IdMapError(f"{step}: {error}")
        named.step = step
        raise named from None


class Objection(NamedTuple):
    """A range that the kernel would not take from this caller, and why."""

    id_range: IdRange
    cause: str
    reason: str


def refuse_unless_permitted(step: str, id_map: IdMap, caller: Caller, setgroups: str | None = None) -> None:
    """Raise what the kernel's EPERM for this map would mean, if it is to be expected."""
    for objection in _objections(step, id_map, caller, setgroups):
        raise IdMapPermissionError(
            EPERM,
            f"{os.strerror(EPERM)}: {step} range {objection.id_range}: {objection.reason}",
            step=step,
            cause=objection.cause,
        )


def _objections(step: str, id_map: IdMap, caller: Caller, setgroups: str | None) -> Iterator[Objection]:
    """The first is raised: that which says most."""
    if step == "uid_map":
        if not caller.has(CAP_SETUID):
            yield from _not_the_own_id(id_map, caller.uid, "UID")
        yield from _outside_root(id_map, caller)
        yield from _not_mapped(id_map, caller.uid_map)
        return
    if not caller.has(CAP_SETGID):
        yield from _not_the_own_id(id_map, caller.gid, "GID")
    yield from _not_mapped(id_map, caller.gid_map)
    if not caller.has(CAP_SETGID) and setgroups != "deny":
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
            reason = f"its outside ids are not mapped, or not in one piece, in this process' own namespace ({own_map})"
            yield Objection(r, "not-mapped-in-parent", reason)


def _not_the_own_id(id_map: IdMap, own_id: int, name: str) -> Iterator[Objection]:
    for r in id_map:
        if len(id_map) > 1 or r.count > 1 or r.outside != own_id:
            reason = f"without CAP_SET{name} only the own id {own_id} can be mapped, alone and with count 1"
            yield Objection(r, f"no-cap-set{name.lower()}", reason)


def write_map(proc_dir: int, step: str, text: str) -> None:
    """Write one file of `/proc/PID`, opened as the directory *proc_dir*, with a single `write(2)`."""
    data = text.encode("ascii")
    try:
        fd = os.open(step, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc_dir)
        try:
            written = os.write(fd, data)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno == EPERM and step != "setgroups" and _is_written(proc_dir, step):
            raise userns_error(step, EPERM, cause="map-written", note="A map can be written once.") from None
        raise userns_error(step, error.errno or 0) from None
    if written != len(data):
        raise AssertionError(f"the kernel took {written} of {len(data)} bytes of {step}")


def _is_written(proc_dir: int, step: str) -> bool:
    fd = os.open(step, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_dir)
    try:
        return bool(os.read(fd, 1))
    finally:
        os.close(fd)
