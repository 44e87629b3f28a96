"""Who asks: the calling thread's ids, capabilities and user namespace."""

from __future__ import annotations

from functools import lru_cache

from . import _core
from ._maps.idmap import IDENTITY, IdMap

CAP_DAC_OVERRIDE = 1
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SYS_ADMIN = 21
CAP_SETFCAP = 31


class Caller:
    """Effective ids and capabilities, and the maps of the caller's own user namespace."""

    __slots__ = ("capabilities", "gid", "gid_map", "uid", "uid_map")

    def __init__(self, uid: int, gid: int, capabilities: int, uid_map: IdMap, gid_map: IdMap) -> None:
        self.uid = uid
        self.gid = gid
        self.capabilities = capabilities
        self.uid_map = uid_map
        self.gid_map = gid_map

    @classmethod
    def now(cls) -> Caller:
        try:
            return _caller(*_core.caller())
        except OSError as error:
            from ._procdir import proc_error

            raise proc_error("open_proc", error, "/proc/self") from None

    def has(self, capability: int) -> bool:
        return bool(self.capabilities >> capability & 1)


@lru_cache(maxsize=8)
def _caller(uid: int, gid: int, capabilities: int, uid_map: str | None, gid_map: str | None) -> Caller:
    """A program asks for each namespace it makes, and mostly is as it was: then this is the same object."""
    return Caller(uid, gid, capabilities, _own_map(uid_map), _own_map(gid_map))


def _own_map(text: str | None) -> IdMap:
    return IDENTITY if text is None else IdMap.from_kernel(text)
