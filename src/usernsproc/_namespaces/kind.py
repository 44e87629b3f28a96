"""The eight kinds of namespaces."""

from __future__ import annotations

from enum import StrEnum

from .._typing import TYPE_CHECKING
from .._uapi import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)

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
    NamespaceKind.USER: CLONE_NEWUSER,
    NamespaceKind.MNT: CLONE_NEWNS,
    NamespaceKind.PID: CLONE_NEWPID,
    NamespaceKind.NET: CLONE_NEWNET,
    NamespaceKind.IPC: CLONE_NEWIPC,
    NamespaceKind.UTS: CLONE_NEWUTS,
    NamespaceKind.CGROUP: CLONE_NEWCGROUP,
    NamespaceKind.TIME: CLONE_NEWTIME,
}
KIND_OF_FLAG = {flag: kind for kind, flag in _FLAGS.items()}
