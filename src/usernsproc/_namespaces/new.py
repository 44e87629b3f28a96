"""Which namespaces are made for a command, and what is set up in them."""

from __future__ import annotations

from collections.abc import Iterable

from .._typing import TYPE_CHECKING
from .namespace import NamespaceKind

if TYPE_CHECKING:
    from .join import Joins

USER, MNT, PID = (kind.flag for kind in (NamespaceKind.USER, NamespaceKind.MNT, NamespaceKind.PID))

PROPAGATIONS = {"private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20, "unchanged": 0}
"""Of all mounts of a new mount namespace: the `MS_…` flags of `mount(2)`."""


class NewNamespaces:
    """What `namespaces=`, `propagation=`, `mount_proc=` and `init=` come to.

    Raises:
        ValueError: no such kind or propagation, or what was asked for has no
            meaning with the namespaces that are made.
        TypeError: one string in place of several kinds.
    """

    __slots__ = ("flags", "init", "mount_proc", "propagation")

    def __init__(
        self, namespaces: Iterable[str], joins: Joins, *, propagation: str | None, mount_proc: bool, init: bool
    ) -> None:
        self.flags = _flags(namespaces)
        self.init, self.mount_proc = bool(init), bool(mount_proc)
        self._refuse_what_is_joined(joins)
        if init and not self.flags & PID:
            raise ValueError('init= is pid 1 of a new pid namespace: namespaces=("pid",) is needed with it')
        if mount_proc:
            if not (self.flags | joins.kinds) & PID:
                raise ValueError('mount_proc= shows another pid namespace: namespaces=("pid",) is needed with it')
            self.flags |= MNT  # as of unshare(1): never over the caller's own /proc
        self.propagation = self._propagation(propagation)
        if joins.userns is None:
            self.flags |= USER

    def _refuse_what_is_joined(self, joins: Joins) -> None:
        if joins.userns is not None and self.flags & USER:
            raise ValueError("a user namespace is joined: no new one is made for the command")
        if joins.kinds & self.flags & PID:  # EINVAL: it takes a process that is in there already
            raise ValueError("a pid namespace is joined: no new one is made below it for the command")

    def _propagation(self, propagation: str | None) -> int:
        if propagation is None:
            return PROPAGATIONS["private"] if self.flags & MNT else 0
        if propagation not in PROPAGATIONS:
            raise ValueError(f"propagation is one of {', '.join(PROPAGATIONS)}, not {propagation!r}")
        if not self.flags & MNT:
            raise ValueError('propagation= is that of a new mount namespace: namespaces=("mnt",) is needed with it')
        return PROPAGATIONS[propagation]


def _flags(namespaces: Iterable[str]) -> int:
    if isinstance(namespaces, str):
        raise TypeError(f"namespaces are several kinds, not one string: {tuple(namespaces.split(','))!r}")
    if not hasattr(namespaces, "__iter__"):
        raise TypeError(f"namespaces are several kinds, by name, not {namespaces!r}")
    flags = 0
    for kind in namespaces:
        flags |= NamespaceKind(kind).flag
    return flags
