"""Which namespaces there are."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from errno import ELOOP, ENOENT, ENOTDIR, ESRCH, ESTALE
from typing import NamedTuple

from .. import _core
from .._errors import at_step, userns_error
from .._maps.idmap import IdMap
from .._proc import namespace_identity, nsfs_device
from .._typing import TYPE_CHECKING
from .kind import KIND_OF_FLAG, NamespaceKind
from .namespace import Namespace, owner_uid_of
from .survey import SHORTAGE, Found, Route, Survey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._core import OwnedFd

__all__ = ["NamespaceInfo", "NamespaceList"]


_GONE = frozenset({ENOENT, ENOTDIR, ESRCH, ESTALE, ELOOP})
"""The answers of the kernel if a route leads nowhere."""


class NamespaceInfo(NamedTuple):
    """A namespace as it was found by `Namespace.list()`. It holds nothing open.

    `None` stands for what cannot be seen from here, or does not apply.
    """

    kind: NamespaceKind
    inode: int
    """The number in `user:[…]`; with `device` it identifies the namespace while that exists."""
    device: int
    owner: int | None
    """The inode of the user namespace that owns it; of a user namespace, its parent."""
    owner_uid: int | None
    """Of a user namespace: who made it, as an id of the caller's user namespace."""
    parent: int | None
    """The inode of the parent of a user or pid namespace."""
    pids: tuple[int, ...]
    """The processes with a thread in it, in order."""
    pins: tuple[str, ...]
    """Paths where it is mounted. Those in another mount namespace begin with `/proc/PID/root`."""
    uid_map: str | None
    """Of a user namespace: `inside:outside:count,…` with outside ids as the caller's own user
    namespace has them; `""` when unwritten. For that namespace itself, those of its parent."""
    gid_map: str | None
    """As `uid_map`."""
    routes: tuple[Route, ...]
    """Where it was found, which is what `open()` tries."""

    def open(self) -> Namespace:
        """The namespace, if it is still there; a new object that the caller closes.

        Raises:
            FileNotFoundError: it is not where it was found (`ENOENT`, step `open_ns`,
                cause `namespace-gone`).
            PermissionError: what was found may not be opened (`EACCES`, `EPERM`).
            UsernsError: it could not be opened for another reason, such as `EMFILE`.
        """
        denied: OSError | None = None
        for route in self.routes:
            try:
                owned = follow(route)
            except OSError as error:
                denied = denied or (None if error.errno in _GONE else error)
                continue
            with owned as fd:
                if namespace_identity(fd) == (self.device, self.inode):
                    return Namespace(owned.move())
        name = f"{self.kind}:[{self.inode}]"
        if denied is not None:
            raise userns_error("open_ns", denied.errno or 0, name) from None
        note = "The namespace no longer exists, or not where it was found. List the namespaces again."
        raise userns_error("open_ns", ENOENT, name, cause="namespace-gone", note=note)


class NamespaceList(list[NamespaceInfo]):
    """What `Namespace.list()` found, by kind and inode; a list that also says what it lacks."""

    unseen_processes: int = 0
    """How many processes could not be looked into (the ptrace access check of `proc(5)`):
    somebody else's. What only these hold is missing. Kernel threads are not counted."""

    unseen_namespaces: int = 0
    """How many namespaces the kernel lists (Linux 6.19) that could not be opened."""


def follow(route: Route) -> OwnedFd:
    """A descriptor of the namespace at the end of a route.

    The path may lead through another mount namespace, whose users can change it: so
    what is there is looked at before it is opened, as opening a device could do harm.
    """
    start, *relations = route
    owned = _core.open_ns(start, 0, 0) if isinstance(start, int) else _open_namespace(str(start))
    for request in relations:
        with owned as fd:
            owned = _core.open_related(fd, int(request))
    return owned


def _open_namespace(path: str) -> OwnedFd:
    with _core.open(path, os.O_PATH) as looked_at:
        if os.fstat(looked_at).st_dev != nsfs_device():
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), path)
        return _core.reopen(looked_at, os.O_RDONLY)


def list_namespaces(kind: NamespaceKind | None) -> NamespaceList:
    """`Namespace.list`."""
    with at_step("open_ns"):
        survey = Survey()
        with at_step("open_proc"):
            survey.look_at_processes()
        unseen = _add_listed_by_kernel(survey)
        _add_relatives(survey)
        if kind in (None, NamespaceKind.USER):
            _add_missing_maps(survey)
    order = list(NamespaceKind)
    infos = NamespaceList(
        _info(key, found, survey.device)
        for key, found in sorted(survey.found.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
        if kind in (None, key[0])
    )
    infos.unseen_processes = len(survey.unseen)
    infos.unseen_namespaces = unseen
    return infos


def _info(key: tuple[NamespaceKind, int], found: Found, device: int) -> NamespaceInfo:
    return NamespaceInfo(
        kind=key[0],
        inode=key[1],
        device=device,
        owner=found.owner,
        owner_uid=found.owner_uid,
        parent=found.parent,
        pids=tuple(sorted(found.pids)),
        pins=tuple(found.pins),
        uid_map=found.uid_map,
        gid_map=found.gid_map,
        routes=tuple(found.routes),
    )


def _kernel_list() -> Iterable[int]:
    """All numbers of `listns(2)`; none where the kernel has no such call."""
    last = 0
    while True:
        try:
            numbers = _core.listns(last)
        except OSError as error:  # ENOSYS; ENOENT after the last
            if error.errno in SHORTAGE:
                raise
            return
        if not numbers:
            return
        yield from numbers
        last = numbers[-1]


def _add_listed_by_kernel(survey: Survey) -> int:
    unseen = 0
    for number in _kernel_list():
        try:
            owned = follow((number,))
        except OSError as error:
            if error.errno in SHORTAGE:
                raise
            unseen += 1
            continue
        with owned as fd:
            kind = KIND_OF_FLAG.get(fcntl.ioctl(fd, _core.NS_GET_NSTYPE))
            if kind is not None:  # else it is of a kind that came later
                survey.at(kind, namespace_identity(fd)[1]).detours.append((number,))
    return unseen


def _add_relatives(survey: Survey) -> None:
    """The owner and the parent of each one, and of these in turn."""
    todo = list(survey.found)
    while todo:
        key = todo.pop()
        found = survey.found[key]
        owned = _open_any(survey, key[1], found)
        if owned is not None:
            with owned as fd:
                todo += _relate(survey, key[0], found, fd)


def _relate(survey: Survey, kind: NamespaceKind, found: Found, fd: int) -> list[tuple[NamespaceKind, int]]:
    new: list[tuple[NamespaceKind, int]] = []

    def relative(request: int, of_kind: NamespaceKind) -> int | None:
        try:
            related = _core.open_related(fd, request)
        except OSError as error:
            if error.errno in SHORTAGE:
                raise
            return None  # out of sight
        with related as related_fd:
            inode = namespace_identity(related_fd)[1]
        if (of_kind, inode) not in survey.found:
            survey.at(of_kind, inode).detours += [(*route, request) for route in found.routes]
            new.append((of_kind, inode))
        return inode

    found.owner = relative(_core.NS_GET_USERNS, NamespaceKind.USER)
    if kind in (NamespaceKind.USER, NamespaceKind.PID):
        found.parent = relative(_core.NS_GET_PARENT, kind)
    if kind is NamespaceKind.USER:
        with suppress(OSError):
            found.owner_uid = owner_uid_of(fd)
    return new


def _open_any(survey: Survey, inode: int, found: Found) -> OwnedFd | None:
    """That namespace and no other, whatever the paths lead to by now; `None`: none of them does."""
    for route in found.routes:
        try:
            owned = follow(route)
        except OSError as error:
            if error.errno in SHORTAGE:
                raise
            continue  # it has gone meanwhile, or may not be opened
        with owned as fd:
            if namespace_identity(fd) == (survey.device, inode):
                return owned.move()
    return None


def _add_missing_maps(survey: Survey) -> None:
    """Those of user namespaces without a process: read inside, where the outside ids are the
    parent's, and put through the parent's map."""
    with Namespace.current() as current:
        own = current.inode
    for (kind, inode), found in list(survey.found.items()):
        if kind is NamespaceKind.USER:
            _need_maps(survey, inode, found, own)


def _need_maps(survey: Survey, inode: int, found: Found, own: int) -> None:
    if found.uid_map is not None or inode == own:
        return
    owned = _open_any(survey, inode, found)
    if owned is None:
        return
    try:
        with Namespace(owned) as namespace:
            uids, gids, _ = namespace._read_maps()
    except OSError as error:
        if error.errno in SHORTAGE:
            raise
        return  # no right to enter it
    if found.parent != own:
        outer = survey.found.get((NamespaceKind.USER, found.parent or 0), Found())
        _need_maps(survey, found.parent or 0, outer, own)
        if not (outer.uid_map and outer.gid_map):
            return  # those of its parent are not to be seen
        uids, gids = uids.compose(IdMap.parse(outer.uid_map)), gids.compose(IdMap.parse(outer.gid_map))
    found.uid_map, found.gid_map = str(uids), str(gids)
