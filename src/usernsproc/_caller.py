"""The calling thread: its IDs, groups, capabilities and user namespace."""

from __future__ import annotations

from functools import lru_cache

from . import _core
from ._maps.idmap import IDENTITY, IdMap
from ._proc import proc_error, read_in

CAP_DAC_OVERRIDE = 1
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAP_SYS_RESOURCE = 24
CAP_SETFCAP = 31


class Caller:
    """Effective IDs and capabilities, and the maps of the caller's user namespace."""

    __slots__ = ("capabilities", "gid", "gid_map", "groups", "real_gid", "real_uid", "uid", "uid_map")

    def __init__(
        self,
        uid: int,
        gid: int,
        capabilities: int,
        uid_map: IdMap,
        gid_map: IdMap,
        groups: tuple[int, ...] = (),
        real_uid: int | None = None,
        real_gid: int | None = None,
    ) -> None:
        self.uid = uid
        self.gid = gid
        self.capabilities = capabilities
        self.uid_map = uid_map
        self.gid_map = gid_map
        self.groups = groups
        """The supplementary groups."""
        self.real_uid = uid if real_uid is None else real_uid
        self.real_gid = gid if real_gid is None else real_gid

    @classmethod
    def now(cls) -> Caller:
        try:
            answer = _core.caller()
            maps = (None, None) if answer[3] else (_own_map("self/uid_map"), _own_map("self/gid_map"))
        except OSError as error:
            raise proc_error("open_proc", error, "/proc/self") from None
        return _caller(answer, maps)

    @property
    def is_initial(self) -> bool:
        """Whether its user namespace is the initial one."""
        return self.uid_map is IDENTITY

    def has(self, capability: int) -> bool:
        return bool(self.capabilities >> capability & 1)


@lru_cache(maxsize=8)
def _caller(
    answer: tuple[int, int, int, int, tuple[int, ...], int, int], maps: tuple[str | None, str | None]
) -> Caller:
    """Remembered: a program asks for each namespace that it creates, and rarely changes in between."""
    uid, gid, capabilities, _, groups, real_uid, real_gid = answer
    uid_map, gid_map = (IDENTITY if text is None else IdMap.from_kernel(text) for text in maps)
    return Caller(uid, gid, capabilities, uid_map, gid_map, groups, real_uid, real_gid)


def _own_map(path: str) -> str | None:
    """Without a `/proc` it is not known: what needs it fails at its own step."""
    try:
        return read_in(-1, path)
    except FileNotFoundError:
        return None
