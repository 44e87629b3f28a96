"""Who asks: the calling thread's ids, capabilities and user namespace."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from . import _core
from ._idmap import IDENTITY, IdMap

CAP_DAC_OVERRIDE = 1
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SYS_ADMIN = 21
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
        return _caller(*_core.caller())

    def has(self, capability: int) -> bool:
        return bool(self.capabilities >> capability & 1)


@lru_cache(maxsize=8)
def _caller(uid: int, gid: int, capabilities: int, uid_map: str | None, gid_map: str | None) -> Caller:
    """A program asks for each namespace it makes, and mostly is as it was."""
    return Caller(uid, gid, capabilities, _own_map(uid_map), _own_map(gid_map))


def _own_map(text: str | None) -> IdMap:
    return IDENTITY if text is None else IdMap.from_kernel(text)
