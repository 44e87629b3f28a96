"""Who asks: the calling thread's ids, capabilities and user namespace."""

from __future__ import annotations

from typing import NamedTuple

from . import _core
from ._idmap import IDENTITY, IdMap

CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETFCAP = 31


class Caller(NamedTuple):
    """Effective ids and capabilities, and the maps of the caller's own user namespace."""

    uid: int
    gid: int
    capabilities: int
    uid_map: IdMap
    gid_map: IdMap

    @classmethod
    def now(cls) -> Caller:
        uid, gid, capabilities, in_initial_userns = _core.caller()
        if in_initial_userns:
            return cls(uid, gid, capabilities, IDENTITY, IDENTITY)
        return cls(uid, gid, capabilities, _own_map("uid_map"), _own_map("gid_map"))

    def has(self, capability: int) -> bool:
        return bool(self.capabilities >> capability & 1)


def _own_map(name: str) -> IdMap:
    with open(f"/proc/thread-self/{name}", encoding="ascii") as file:
        return IdMap.from_kernel(file.read())
