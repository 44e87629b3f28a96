"""New namespaces: a user namespace as a descriptor, its owner, and what is created for a command."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index

from .. import _core
from .._caller import CAP_DAC_OVERRIDE, CAP_SETUID, CAP_SYS_ADMIN, Caller
from .._errors import credentials_error
from .._evidence import failed
from .._maps.idmap import IdMapLike
from .._maps.writer import Maps
from .._typing import TYPE_CHECKING
from .._uapi import MS_PRIVATE, MS_SHARED, MS_SLAVE
from .kind import NamespaceKind
from .namespace import Namespace

if TYPE_CHECKING:
    from .join import Joins

USER, MNT, PID = (kind.flag for kind in (NamespaceKind.USER, NamespaceKind.MNT, NamespaceKind.PID))

PROPAGATIONS = {"private": MS_PRIVATE, "slave": MS_SLAVE, "shared": MS_SHARED, "unchanged": 0}
"""Of all mounts of a new mount namespace: the `MS_…` flags of `mount(2)`."""

# To become that id; then to write maps of a namespace that is not one's own, of a process whose
# files in /proc are root's.
_TO_GIVE_AWAY = (
    (CAP_SETUID, "CAP_SETUID", "no-cap-setuid"),
    (CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "no-cap-sys-admin"),
    (CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "no-cap-dac-override"),
)


def create_userns(
    uid_map: IdMapLike, gid_map: IdMapLike, *, setgroups: str | None = None, owner: int | None = None
) -> Namespace:
    """Make a user namespace with these id maps and return it as a descriptor.

    A transient child is made with `clone(CLONE_NEWUSER | CLONE_VM | CLONE_FILES |
    CLONE_PIDFD)`; its maps are written, `/proc/PID/ns/user` is opened, and it is
    killed and reaped, all in one call that lets go of the GIL. The cost does not
    depend on the size of the calling process. No process is left. The child sends
    no SIGCHLD, no `waitpid(-1)` finds it, and it does not matter whether SIGCHLD
    is ignored.

    A map of subordinate ids that the calling process may not write itself is
    written by `newuidmap(1)` or `newgidmap(1)`, which takes some milliseconds more.

    Args:
        uid_map: user ids, see `IdMapLike`.
        gid_map: group ids.
        setgroups: `"allow"`, `"deny"`, or `None` for what the map needs: `"deny"`
            exactly where the kernel demands it, that is for a map of the own group
            alone without `CAP_SETGID`.
        owner: the id **outside** that shall own it and is charged for it
            (`user.max_user_namespaces`). Another than the own one takes `CAP_SETUID`,
            and a program of ours that becomes it: this process keeps its ids. Of that
            program nobody hears either: its parent is a transient child.

    Raises:
        IdMapError: a map is malformed; nothing was created.
        IdMapPermissionError: this caller may not have such a map (`EPERM`), with
            the rule in `cause`; nothing was created.
        CredentialsError: this caller may not become *owner* (`EPERM`, step `owner`);
            nothing was created.
        MapToolError: `newuidmap` or `newgidmap` failed (step of that name).
        UsernsError: a step failed: `clone` with `ENOSPC` (limit
            `user.max_user_namespaces`, or nested too deep), `EPERM` (chroot,
            seccomp, own id unmapped), `EAGAIN` (process limit), `EMFILE`
            (descriptor limit); `open_proc` with `ENOENT` (no `/proc`) or `EXDEV`
            (a forged one); `uid_map`,
            `gid_map`, `setgroups`, `open_ns` with `EACCES` (the calling process is
            not dumpable) or `EPERM`.

    Linux 5.4. See `user_namespaces(7)`, `clone(2)`.
    """
    caller = Caller.now()
    maps = Maps.wanted(uid_map, gid_map, setgroups, caller)
    if maps.uid_map is None or maps.gid_map is None:
        raise TypeError("both maps are needed: when the namespace is there, nobody is left to write one to")
    owner = resolve_owner(owner, caller)
    between = maps.write_by_tool if maps.by_tool else None
    owner_uid = -1 if owner is None else owner
    try:
        return Namespace(_core.create_userns(maps.setgroups, maps.uid_text, maps.gid_text, between, owner_uid))
    except _core.Failure as failure:
        raise failed(failure) from None


def resolve_owner(owner: int | None, caller: Caller) -> int | None:
    """`None` where nothing is to be done: it is the caller.

    Raises:
        CredentialsError: there is no such id here, or this caller may not become it.
        ValueError: a negative number.
    """
    if owner is None:
        return None
    if not hasattr(owner, "__index__"):
        raise TypeError(f"owner is a user id, not {owner!r}")
    owner = index(owner)
    if owner < 0:
        raise ValueError(f"owner={owner} is no id")
    if owner not in caller.uid_map:
        raise credentials_error(
            "owner", f"owner={owner} is no id of this process' own user namespace ({caller.uid_map})", "id-not-mapped"
        )
    if owner == caller.uid:
        return None
    for capability, name, cause in _TO_GIVE_AWAY:
        if not caller.has(capability) and not (capability == CAP_DAC_OVERRIDE and caller.uid == 0):
            raise credentials_error(
                "owner", f"owner={owner}: without {name} only the own id {caller.uid} can own it", cause
            )
    return owner


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
