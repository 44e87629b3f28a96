"""The eight kinds of namespaces."""

from __future__ import annotations

from enum import StrEnum

from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn


class NamespaceKind(StrEnum):
    """The eight kinds of namespaces (`namespaces(7)`). Plain strings are accepted in their place."""

    USER = "user"
    MNT = "mnt"
    PID = "pid"
    NET = "net"
    IPC = "ipc"
    UTS = "uts"
    CGROUP = "cgroup"
    TIME = "time"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"{value!r} is not a kind of namespace ({', '.join(cls)})")

    @property
    def flag(self) -> int:
        """The `CLONE_NEW…` constant of the kind."""
        return _FLAGS[self]


_FLAGS = {
    NamespaceKind.USER: 0x10000000,
    NamespaceKind.MNT: 0x00020000,
    NamespaceKind.PID: 0x20000000,
    NamespaceKind.NET: 0x40000000,
    NamespaceKind.IPC: 0x08000000,
    NamespaceKind.UTS: 0x04000000,
    NamespaceKind.CGROUP: 0x02000000,
    NamespaceKind.TIME: 0x00000080,
}
KIND_OF_FLAG = {flag: kind for kind, flag in _FLAGS.items()}
