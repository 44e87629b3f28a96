"""Which ids a command takes, inside its new user namespace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache

from .._caller import Caller
from .._errors import credentials_error
from .._maps.idmap import IDENTITY, IdMap
from .._maps.writer import Maps
from .._namespaces.namespace import own_setgroups

_LARGEST_ID = 2**32 - 1


class Credentials:
    """Ids inside; `None`: keep what the calling process has."""

    __slots__ = ("gid", "groups", "uid")

    def __init__(self, uid: int | None, gid: int | None, groups: tuple[int, ...] | None) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups

    @classmethod
    def wanted(
        cls,
        uid: int | None,
        gid: int | None,
        groups: Sequence[int] | None,
        maps: Maps,
        caller: Caller,
        *,
        owner: int | None = None,
    ) -> Credentials:
        """What was asked for, or inside 0 where the caller's own id would be unmapped.

        Without that the command would be the overflow id 65534 inside, with the
        caller's rights to files outside. With no map at all it runs unmapped, as
        asked. When another *owner* has made the namespace, its id is never kept.

        Raises:
            CredentialsError: an id is not mapped, or supplementary groups are asked
                for and cannot be set.
            OverflowError: a number that is no id; ValueError among supplementary
                groups, as `Popen` has it.
            ValueError: nothing was asked for, and no id that would do is mapped.
        """
        if groups is None and maps.setgroups != "deny" and caller.gid_map is IDENTITY:
            return _unasked_groups(uid, gid, maps, caller, owner)
        return _wanted(uid, gid, groups, maps, caller, owner)


@lru_cache(maxsize=64)
def _unasked_groups(uid: int | None, gid: int | None, maps: Maps, caller: Caller, owner: int | None) -> Credentials:
    """Depends on its arguments alone, and programs ask again and again for the same."""
    return _wanted(uid, gid, None, maps, caller, owner)


def _wanted(
    uid: int | None, gid: int | None, groups: Sequence[int] | None, maps: Maps, caller: Caller, owner: int | None
) -> Credentials:
    _refuse_what_is_no_id(uid, gid, groups)
    asked_for_groups = groups is not None
    if gid is None and _is_left_out(caller.gid, maps.gid_map):
        gid = _inside_root(caller.gid, maps.gid_map, "group")
        groups = groups or ()
    if uid is None and _is_left_out(caller.uid, maps.uid_map):
        uid = _inside_root(caller.uid, maps.uid_map, "user")
    if uid is None and owner is not None:
        uid = _own_id_inside(caller.uid, maps.uid_map)
    for value, name, id_map in ((uid, "user", maps.uid_map), (gid, "group", maps.gid_map)):
        if value is not None:
            _refuse_unmapped(value, name, id_map)
    for group in groups or ():
        _refuse_unmapped(group, "extra_groups", maps.gid_map)
    if groups is not None and _setgroups_is_denied(maps, caller):
        if asked_for_groups:
            raise credentials_error(
                "setid",
                'extra_groups cannot be set: setgroups is "deny" in this user namespace',
                "setgroups-denied",
            )
        if os.getgroups():
            raise ValueError(
                'setgroups is "deny" in this user namespace: the command would keep the supplementary '
                f"groups of the calling process, {os.getgroups()}"
            )
        groups = None
    return Credentials(uid, gid, None if groups is None else tuple(groups))


def _setgroups_is_denied(maps: Maps, caller: Caller) -> bool:
    """What the own namespace denies, those in it cannot allow. (The outermost one allows it.)"""
    if maps.setgroups == "deny" or caller.gid_map is IDENTITY:
        return maps.setgroups == "deny"
    try:
        return own_setgroups() == "deny"
    except FileNotFoundError:  # no /proc: that is told when the maps are written
        return False


def _own_id_inside(own_id: int, id_map: IdMap | None) -> int:
    inside = None if id_map is None else id_map.to_inside(own_id)
    if inside is None:
        raise ValueError("with owner= the command needs a mapped id: give uid_map=, or it would keep the owner's")
    return inside


def _is_left_out(own_id: int, id_map: IdMap | None) -> bool:
    return id_map is not None and id_map.to_inside(own_id) is None


def _inside_root(own_id: int, id_map: IdMap | None, name: str) -> int:
    if id_map is not None and 0 in id_map:
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
