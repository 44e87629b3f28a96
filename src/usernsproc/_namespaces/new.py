"""Which namespaces are made for a command, and what is set up in them."""

from __future__ import annotations

from collections.abc import Iterable

from .._typing import TYPE_CHECKING
from .._uapi import CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, PROPAGATIONS
from .namespace import NamespaceKind

if TYPE_CHECKING:
    from .join import Joins

_PROPAGATIONS = ("private", "slave", "shared", "unchanged")
"""Of all mounts of a new mount namespace."""


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
        if init and not self.flags & CLONE_NEWPID:
            raise ValueError('init= is pid 1 of a new pid namespace: namespaces=("pid",) is needed with it')
        if mount_proc:
            if not (self.flags | joins.kinds) & CLONE_NEWPID:
                raise ValueError('mount_proc= shows another pid namespace: namespaces=("pid",) is needed with it')
            self.flags |= CLONE_NEWNS  # as of unshare(1): never over the caller's own /proc
        self.propagation = self._propagation(propagation)
        if joins.userns is None:
            self.flags |= CLONE_NEWUSER

    def _refuse_what_is_joined(self, joins: Joins) -> None:
        if joins.userns is not None and self.flags & CLONE_NEWUSER:
            raise ValueError("a user namespace is joined: no new one is made for the command")
        if joins.kinds & self.flags & CLONE_NEWPID:  # EINVAL: it takes a process that is in there already
            raise ValueError("a pid namespace is joined: no new one is made below it for the command")

    def _propagation(self, propagation: str | None) -> int:
        if propagation is None:
            return PROPAGATIONS["private"] if self.flags & CLONE_NEWNS else 0
        if propagation not in _PROPAGATIONS:
            raise ValueError(f"propagation is one of {', '.join(_PROPAGATIONS)}, not {propagation!r}")
        if not self.flags & CLONE_NEWNS:
            raise ValueError('propagation= is that of a new mount namespace: namespaces=("mnt",) is needed with it')
        return PROPAGATIONS.get(propagation, 0)


def _flags(namespaces: Iterable[str]) -> int:
    if isinstance(namespaces, str):
        raise TypeError(f"namespaces are several kinds, not one string: {tuple(namespaces.split(','))!r}")
    if not hasattr(namespaces, "__iter__"):
        raise TypeError(f"namespaces are several kinds, by name, not {namespaces!r}")
    flags = 0
    for kind in namespaces:
        flags |= NamespaceKind(kind).flag
    return flags
