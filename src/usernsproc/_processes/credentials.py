"""The IDs and groups of a command, inside its user namespace.

Whatever the caller has and the maps do not (a real ID, a supplementary group) stays
outside where the kernel lets the command drop it. Otherwise it is an error, except for a
command that remains the same user with the same group.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache

from .._caller import CAP_SETGID, CAP_SYS_PTRACE, Caller
from .._causes import credentials_error
from .._maps.idmap import IDENTITY, IdMap
from .._maps.side import GID
from .._maps.writer import Maps
from .._proc import overflow_id, own_setgroups
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

    from typing_extensions import TypeAlias

    Userns: TypeAlias = Literal["new", "joined", "own"]

_LARGEST_ID = 2**32 - 1

_LEAVE_DENY_OUT = 'Leave setgroups="deny" out: the command then starts without these groups.'
_DROP_THEM_BEFORE = (
    "Drop these groups in the calling process with os.setgroups() before the call: it has CAP_SETGID, and the joined "
    "namespace denies it to the command."
)
_START_WITHOUT_THEM = (
    "The kernel does not let this process drop a group. Leave user= and group= out so that the command keeps the "
    "caller's IDs, map subordinate group IDs (preset 'rootless'), or start this program without these groups."
)


class Credentials:
    """Ids inside; `None`: keep what the calling process has."""

    __slots__ = ("gid", "groups", "uid")

    def __init__(self, uid: int | None, gid: int | None, groups: tuple[int, ...] | None) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups

    @classmethod
    def resolve(
        cls,
        uid: int | None,
        gid: int | None,
        groups: Sequence[int] | None,
        maps: Maps,
        caller: Caller,
        *,
        owner: int | None = None,
        userns: Userns = "new",
    ) -> Credentials:
        """What was asked for, or ID 0 inside if the caller's ID would be unmapped.

        Without that the command would be the overflow id 65534 inside, with the
        caller's rights to files outside. With no map at all it runs unmapped, as
        asked. When another *owner* has made the namespace, its id is never kept.
        Unless groups are asked for, the command has those of the caller that are
        mapped. In the caller's *own* user namespace everything stays as it is.

        Raises:
            CredentialsError: an ID is not mapped; supplementary groups are asked
                for and cannot be set; or a group of the caller is not mapped and
                cannot be dropped.
            OverflowError: a number that is not an ID; ValueError among supplementary
                groups, as `Popen` has it.
            ValueError: nothing was asked for, and no id that would do is mapped.
        """
        if cls.follow_from_arguments(groups, maps, caller):
            return _remembered(uid, gid, None, maps, caller, owner, userns)
        return _resolve(uid, gid, groups, maps, caller, owner, userns)

    @staticmethod
    def follow_from_arguments(groups: Sequence[int] | None, maps: Maps, caller: Caller) -> bool:
        """Whether they depend on nothing else, such as files of `/proc`, and may be remembered."""
        return groups is None and maps.setgroups != "deny" and caller.gid_map is IDENTITY

    @classmethod
    def of_holder(cls, maps: Maps, caller: Caller, userns: Userns) -> Credentials:
        """Those of a command of which nothing is asked, but never an error.

        Inside root can trace the holder of an unprivileged user, and act with its IDs.
        A holder of root cannot be traced (see `image_mode()` in the core). Where a map
        is written later, which takes the IDs of the caller, it keeps these.
        """
        is_out_of_reach = caller.uid == 0 and caller.has(CAP_SYS_PTRACE)
        if is_out_of_reach or userns == "own" or not maps.uid_map or not maps.gid_map:
            return cls(None, None, None)
        uid = _holders_id(caller.uid, caller.real_uid, maps.uid_map)
        gid = _holders_id(caller.gid, caller.real_gid, maps.gid_map)
        return cls(uid, gid, _unasked_groups(maps, caller, userns, keeps_ids=True))


def _holders_id(own_id: int, real_id: int, id_map: IdMap) -> int | None:
    inside = id_map.to_inside(own_id)
    if inside is None:
        return 0 if 0 in id_map else id_map[0].inside
    return None if real_id == own_id else inside


def _resolve(
    uid: int | None,
    gid: int | None,
    groups: Sequence[int] | None,
    maps: Maps,
    caller: Caller,
    owner: int | None,
    userns: Userns,
) -> Credentials:
    _refuse_what_is_no_id(uid, gid, groups)
    if gid is None:
        gid = _unasked_id(caller.gid, caller.real_gid, maps.gid_map, "group", userns)
    if uid is None:
        uid = _unasked_id(caller.uid, caller.real_uid, maps.uid_map, "user", userns)
    if uid is None and owner is not None:
        uid = _own_id_inside(caller.uid, maps.uid_map)
    for value, name, id_map in ((uid, "user", maps.uid_map), (gid, "group", maps.gid_map)):
        if value is not None:
            _refuse_unmapped(value, name, id_map)
    if groups is None:
        keeps_ids = _is_own(uid, caller.uid, maps.uid_map) and _is_own(gid, caller.gid, maps.gid_map)
        return Credentials(uid, gid, _unasked_groups(maps, caller, userns, keeps_ids=keeps_ids))
    for group in groups:
        _refuse_unmapped(group, "extra_groups", maps.gid_map)
    if _setgroups_is_denied(maps, caller):
        raise credentials_error(
            "setid", 'extra_groups cannot be set: setgroups is "deny" in this user namespace', "setgroups-denied"
        )
    return Credentials(uid, gid, tuple(groups))


_remembered = lru_cache(maxsize=64)(_resolve)
"""Without groups, the result depends on the arguments alone, and programs ask for the same again and again."""


def _unasked_id(own_id: int, real_id: int, id_map: IdMap | None, name: str, userns: Userns) -> int | None:
    """`None`: the command keeps what it has. A real ID that differs is not kept: it could send
    signals to the other processes of that user."""
    if id_map is None:
        return None
    inside = id_map.to_inside(own_id)
    if inside is None:
        return _inside_root(own_id, id_map, name)
    return None if real_id == own_id or userns == "own" else inside


def _is_own(value: int | None, own_id: int, id_map: IdMap | None) -> bool:
    return value is None or (id_map is not None and id_map.to_inside(own_id) == value)


def _unasked_groups(maps: Maps, caller: Caller, userns: Userns, *, keeps_ids: bool) -> tuple[int, ...] | None:
    """Those of the caller that are mapped. `None`: all of them are, or none can be dropped."""
    if maps.gid_map is None or userns == "own" or not caller.groups:
        return None
    inside = {group: _group_inside(group, maps.gid_map, caller) for group in caller.groups}
    unmapped = [group for group in caller.groups if inside[group] is None]
    if not unmapped:
        return None
    if not _setgroups_is_denied(maps, caller):
        return tuple(group for group in inside.values() if group is not None)
    if keeps_ids:
        return None
    raise credentials_error(
        "setid",
        f"the command would keep the supplementary groups {unmapped} of the calling process, which {maps.gid_map} "
        'does not map: setgroups is "deny" in this user namespace',
        "setgroups-denied",
        remedy=_remedy_for_kept_groups(maps, caller, userns),
    )


def _group_inside(group: int, gid_map: IdMap, caller: Caller) -> int | None:
    """The kernel shows a group that the caller's own namespace does not map as the overflow ID,
    which may be mapped."""
    if caller.gid_map is not IDENTITY and group == overflow_id("gid"):
        return None
    return gid_map.to_inside(group)


def _remedy_for_kept_groups(maps: Maps, caller: Caller, userns: Userns) -> str:
    may_drop_them = caller.has(CAP_SETGID) and not _denies_setgroups(caller)
    if userns == "new" and (may_drop_them or GID in maps.via_newidmap):
        return _LEAVE_DENY_OUT
    return _DROP_THEM_BEFORE if may_drop_them else _START_WITHOUT_THEM


def _setgroups_is_denied(maps: Maps, caller: Caller) -> bool:
    return maps.setgroups == "deny" or _denies_setgroups(caller)


def _denies_setgroups(caller: Caller) -> bool:
    """A nested namespace cannot allow what the caller's denies. (The initial one allows it.)"""
    if caller.gid_map is IDENTITY:
        return False
    try:
        return own_setgroups() == "deny"
    except FileNotFoundError:  # no /proc: that is reported when the maps are written
        return False


def _own_id_inside(own_id: int, id_map: IdMap | None) -> int:
    inside = None if id_map is None else id_map.to_inside(own_id)
    if inside is None:
        raise ValueError("with owner= the command needs a mapped id: give uid_map=, or it would keep the owner's")
    return inside


def _inside_root(own_id: int, id_map: IdMap, name: str) -> int:
    if 0 in id_map:
        return 0
    if not id_map:
        raise ValueError(f"no {name} id is mapped in this user namespace: the command could have none there")
    raise ValueError(
        f"the calling process' {name} id {own_id} is not mapped by {id_map}, and neither is inside 0: "
        f"say with {name}= which mapped id the command shall have"
    )


def _refuse_unmapped(value: int, name: str, id_map: IdMap | None) -> None:
    if id_map is None:
        raise credentials_error(
            "setid", f"{name}={value}: no id is mapped in the new user namespace; give a map", "id-not-mapped"
        )
    if value not in id_map:
        raise credentials_error("setid", f"{name}={value} is not mapped by {id_map}", "id-not-mapped")


def _refuse_what_is_no_id(uid: int | None, gid: int | None, groups: Sequence[int] | None) -> None:
    for name, value in (("user", uid), ("group", gid)):
        if value is not None and value > _LARGEST_ID:
            raise OverflowError(f"{name}={value}: an id has 32 bits")
    if groups is None:
        return
    if len(groups) > os.sysconf("SC_NGROUPS_MAX"):
        raise ValueError(f"too many extra_groups: {len(groups)}")
    for group in groups:
        if group > _LARGEST_ID:
            raise ValueError(f"extra_groups: {group}: an id has 32 bits")
