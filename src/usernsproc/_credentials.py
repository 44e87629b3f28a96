"""Which ids a command takes, inside its new user namespace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from ._caller import Caller
from ._idmap import IdMap
from ._mapwriter import Maps


class Credentials(NamedTuple):
    """Ids inside; `None`: keep what the calling process has."""

    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None

    @classmethod
    def wanted(
        cls, uid: int | None, gid: int | None, groups: Sequence[int] | None, maps: Maps, caller: Caller
    ) -> Credentials:
        """What was asked for, or inside 0 where the caller's own id would be unmapped.

        Without that the command would run as the overflow id 65534 and could
        create no file. With no map at all it runs unmapped, as asked.

        Raises:
            ValueError: an id is not mapped, or supplementary groups cannot be set.
        """
        asked_for_groups = groups is not None
        if gid is None and _is_left_out(caller.gid, maps.gid_map):
            gid = _inside_root(caller.gid, maps.gid_map, "group")
            groups = groups or ()
        if uid is None and _is_left_out(caller.uid, maps.uid_map):
            uid = _inside_root(caller.uid, maps.uid_map, "user")
        for value, name, id_map in ((uid, "user", maps.uid_map), (gid, "group", maps.gid_map)):
            if value is not None:
                _refuse_unmapped(value, name, id_map)
        for group in groups or ():
            _refuse_unmapped(group, "extra_groups", maps.gid_map)
        if groups is not None and maps.setgroups == "deny":
            if asked_for_groups:
                raise ValueError('extra_groups cannot be set: setgroups is "deny" in this user namespace')
            if os.getgroups():
                raise ValueError(
                    'setgroups is "deny" in this user namespace: the command would keep the supplementary '
                    f"groups of the calling process, {os.getgroups()}"
                )
            groups = None
        return cls(uid, gid, None if groups is None else tuple(groups))


def _is_left_out(own_id: int, id_map: IdMap | None) -> bool:
    return id_map is not None and id_map.to_inside(own_id) is None


def _inside_root(own_id: int, id_map: IdMap | None, name: str) -> int:
    if id_map is not None and 0 in id_map:
        return 0
    raise ValueError(
        f"the calling process' {name} id {own_id} is not mapped by {id_map}, and neither is inside 0: "
        f"say with {name}= which mapped id the command shall have"
    )


def _refuse_unmapped(value: int, name: str, id_map: IdMap | None) -> None:
    if id_map is None:
        raise ValueError(f"{name}={value}: no id is mapped in the new user namespace; give a map")
    if value not in id_map:
        raise ValueError(f"{name}={value} is not mapped by {id_map}")
