"""Who asks: the calling thread's ids, capabilities and user namespace."""

from __future__ import annotations

from functools import lru_cache

from . import _core
from ._errors import userns_error
from ._maps.idmap import IDENTITY, IdMap

CAP_DAC_OVERRIDE = 1
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SYS_ADMIN = 21
CAP_SYS_RESOURCE = 24
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
            answer = _core.caller()
        except OSError as error:  # of a map in /proc
            raise userns_error("open_proc", error.errno or 0, error.filename) from None
        return _caller(*answer)

    @property
    def is_initial(self) -> bool:
        """Whether its user namespace is the initial one."""
        return self.uid_map is IDENTITY

    def has(self, capability: int) -> bool:
        return bool(self.capabilities >> capability & 1)


@lru_cache(maxsize=8)
def _caller(uid: int, gid: int, capabilities: int, uid_map: str | None, gid_map: str | None) -> Caller:
    """A program asks for each namespace it makes, and mostly is as it was: then this is the same object."""
    return Caller(uid, gid, capabilities, _own_map(uid_map), _own_map(gid_map))


def _own_map(text: str | None) -> IdMap:
    return IDENTITY if text is None else IdMap.from_kernel(text)
