"""New namespaces: a user namespace as a descriptor, its owner, and what is created for a command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import index

from .. import _core
from .._caller import CAP_DAC_OVERRIDE, CAP_SETUID, CAP_SYS_ADMIN, Caller
from .._causes import credentials_error
from .._evidence import failed
from .._maps.idmap import IdMapLike
from .._maps.writer import Maps
from .._proc import open_namespace_of
from .._setup.calls import SETUP_OF_HOLDER
from .._spawn import HIDDEN, Namespaces, start
from .._suggest import suggesting
from .._typing import TYPE_CHECKING
from .._uapi import CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, PROPAGATIONS
from .join import NO_JOINS
from .kind import NamespaceKind
from .namespace import Namespace

if TYPE_CHECKING:
    from .join import Joins

_PROPAGATIONS = ("private", "slave", "shared", "unchanged")
"""Of all mounts of a new mount namespace."""

# To change to that ID; then to write the maps of another user's namespace, which are files of a
# process that belong to root.
_CAPABILITIES_FOR_ANOTHER_OWNER = (
    (CAP_SETUID, "CAP_SETUID", "no-cap-setuid"),
    (CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "no-cap-sys-admin"),
    (CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "no-cap-dac-override"),
)


@suggesting
def create_userns(
    uid_map: IdMapLike | None = None,
    gid_map: IdMapLike | None = None,
    *,
    setgroups: str | None = None,
    owner: int | None = None,
) -> Namespace:
    """Create a user namespace with these ID maps and return it as a descriptor.

    A transient child is created with `clone(CLONE_NEWUSER | CLONE_VM | CLONE_FILES |
    CLONE_PIDFD)`. Its maps are written, `/proc/PID/ns/user` is opened, and the child is
    killed and reaped, all in one call that releases the GIL. The cost does not depend on
    the size of the calling process. No process remains. The child sends no SIGCHLD,
    `waitpid(-1)` does not find it, and SIGCHLD may be ignored.

    A map of subordinate IDs that the caller may not write itself is written by
    `newuidmap(1)` or `newgidmap(1)`, which takes a few milliseconds more.

    Args:
        uid_map: the user ID map, see `IdMapLike`.
        gid_map: the group ID map. If only one of the two maps is given, it must be the name of a
            preset, which is then used for both: `create_userns("root")`.
        setgroups: `"allow"`, `"deny"`, or `None` for the value that the map requires:
            `"deny"` only if the kernel demands it, which is for a map of the caller's
            group ID alone without `CAP_SETGID`.
        owner: the ID **in the caller's namespace** that owns the new one and is charged
            for it (`user.max_user_namespaces`). Default: the caller's user ID. Any other
            requires `CAP_SETUID`, and an internal helper program that changes to that ID:
            the calling process keeps its IDs. The parent of the helper is a transient
            child, so it sends no SIGCHLD to the caller either.

    Raises:
        IdMapError: a map is malformed; nothing was created.
        IdMapPermissionError: the caller may not write such a map (`EPERM`), with the
            rule in `cause`; nothing was created.
        CredentialsError: the caller may not change to the ID *owner* (`EPERM`, step
            `owner`); nothing was created.
        MapToolError: `newuidmap` or `newgidmap` failed (step of that name).
        UsernsError: a step failed: `clone` with `ENOSPC` (limit
            `user.max_user_namespaces`, or nested too deep), `EPERM` (chroot,
            seccomp, caller's ID not mapped), `EAGAIN` (process limit), `EMFILE`
            (descriptor limit); `open_proc` with `ENOENT` (no `/proc`) or `EXDEV`
            (a forged one); `uid_map`, `gid_map`, `setgroups`, `open_ns` with `EACCES`
            (the calling process is not dumpable) or `EPERM`.

    Linux 5.4. See `user_namespaces(7)`, `clone(2)`.
    """
    caller = Caller.now()
    maps = Maps.resolve(uid_map, gid_map, setgroups, caller)
    if maps.uid_map is None or maps.gid_map is None:
        raise TypeError(
            "both maps are needed, or the name of a preset: none can be written after the namespace has been created"
        )
    owner = resolve_owner(owner, caller)
    return create_with(maps, -1 if owner is None else owner)


def create_with(maps: Maps, owner: int) -> Namespace:
    """From what is checked already; *owner* -1: the caller."""
    if owner >= 0 or maps.via_newidmap:
        return _of_holder(maps, owner)
    try:
        return Namespace(_core.create_userns(*maps.for_core))
    except _core.Failure as failure:
        raise failed(failure) from None


def _of_holder(maps: Maps, owner: int) -> Namespace:
    """A change of IDs in the memory of the caller would make that non-dumpable, and a child there must not wait for
    others: a helper program creates the namespace, and is held until that is mapped and open."""

    def write(child: _core.Child) -> None:
        maps.write_via_newidmap(child.pid, child.pidfd)

    hook = write if maps.via_newidmap else None
    with start(None, Namespaces(owner=owner), maps.for_core, setup=SETUP_OF_HOLDER, signals=HIDDEN, hook=hook) as child:
        return Namespace(open_namespace_of(child.pidfd, "user"))


def resolve_owner(owner: int | None, caller: Caller) -> int | None:
    """The owner that has to be set; `None`: the caller's ID, which owns the namespace anyway.

    Raises:
        CredentialsError: the ID is not mapped here, or the caller may not change to it.
        ValueError: a negative number.
    """
    if owner is None:
        return None
    if not hasattr(owner, "__index__"):
        raise TypeError(f"owner is a user ID, not {owner!r}")
    owner = index(owner)
    if owner < 0:
        raise ValueError(f"owner={owner} is not an ID")
    if owner not in caller.uid_map:
        raise credentials_error(
            "owner", f"owner={owner} is not mapped in the caller's user namespace ({caller.uid_map})", "id-not-mapped"
        )
    if owner == caller.uid:
        return None
    for capability, name, cause in _CAPABILITIES_FOR_ANOTHER_OWNER:
        if not caller.has(capability) and not (capability == CAP_DAC_OVERRIDE and caller.uid == 0):
            raise credentials_error(
                "owner", f"owner={owner}: without {name} only the caller's ID {caller.uid} can own it", cause
            )
    return owner


class NewNamespaces:
    """The namespaces of a command, from `namespaces=`, `propagation=`, `mount_proc=` and `init=`.

    Raises:
        ValueError: an unknown kind or propagation, or an option that has no meaning with
            the namespaces that are created.
        TypeError: one string in place of several kinds.
    """

    __slots__ = ("flags", "init", "mount_proc", "propagation")

    def __init__(
        self,
        namespaces: Iterable[str],
        joins: Joins,
        *,
        propagation: str | None,
        mount_proc: bool,
        init: bool,
        root: bool = False,
    ) -> None:
        self.flags = _flags(namespaces)
        self.init, self.mount_proc = bool(init), bool(mount_proc)
        self._refuse_what_is_joined(joins)
        if init and not self.flags & CLONE_NEWPID:
            raise ValueError('init= requires namespaces=("pid",): it is PID 1 of a new PID namespace')
        if mount_proc:
            if not (self.flags | joins.kinds) & CLONE_NEWPID:
                raise ValueError('mount_proc= requires namespaces=("pid",): the new /proc shows a new PID namespace')
            self.flags |= CLONE_NEWNS  # like unshare(1): never over the caller's /proc
        if root and not joins.kinds & CLONE_NEWNS:
            self.flags |= CLONE_NEWNS
        self.propagation = self._propagation(propagation)
        if joins.userns is None:
            self.flags |= CLONE_NEWUSER

    def kinds(self, joins: Joins) -> Iterator[str]:
        """Those that are new or joined."""
        return (kind for kind in NamespaceKind if kind.flag & (self.flags | joins.kinds))

    def _refuse_what_is_joined(self, joins: Joins) -> None:
        if joins.userns is not None and self.flags & CLONE_NEWUSER:
            raise ValueError("a user namespace is joined: no new one is made for the command")
        if joins.kinds & self.flags & CLONE_NEWPID:  # EINVAL: the creator must be in it already
            raise ValueError("a pid namespace is joined: no new one is made below it for the command")

    def _propagation(self, propagation: str | None) -> int:
        if propagation is None:
            return PROPAGATIONS["private"] if self.flags & CLONE_NEWNS else 0
        if propagation not in _PROPAGATIONS:
            raise ValueError(f"propagation is one of {', '.join(_PROPAGATIONS)}, not {propagation!r}")
        if not self.flags & CLONE_NEWNS:
            raise ValueError('propagation= requires namespaces=("mnt",): it is that of a new mount namespace')
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


_NONE: tuple[()] = ()  # the default of a parameter, and the same object
_ONLY_USER = NewNamespaces(_NONE, NO_JOINS, propagation=None, mount_proc=False, init=False)


def new_namespaces(
    namespaces: Iterable[str], joins: Joins, *, propagation: str | None, mount_proc: bool, init: bool, root: bool
) -> NewNamespaces:
    """As `NewNamespaces`. Most processes have a new user namespace alone, which is always the same value."""
    if namespaces is _NONE and joins is NO_JOINS and propagation is None and not (mount_proc or init or root):
        return _ONLY_USER
    return NewNamespaces(namespaces, joins, propagation=propagation, mount_proc=mount_proc, init=init, root=root)
