"""The list of namespaces: what `/proc` shows, what the kernel lists, and their relatives."""

from __future__ import annotations

import fcntl
import os
from errno import ELOOP, ENOENT, ENOTDIR, ESRCH, ESTALE
from typing import NamedTuple

from .. import _core, _system_calls
from .._causes import at_step, userns_error
from .._maps.idmap import IdMap
from .._proc import namespace_identity, nsfs_device
from .._typing import TYPE_CHECKING
from .kind import KIND_OF_FLAG, NamespaceKind
from .namespace import Namespace, owner_uid_of
from .survey import SHORTAGE, Found, Route, Survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from .._core import OwnedFd

    T = TypeVar("T")

__all__ = ["NamespaceInfo", "NamespaceList"]


_GONE = frozenset({ENOENT, ENOTDIR, ESRCH, ESTALE, ELOOP})
"""The errors of a route that no longer leads to a namespace."""


class NamespaceInfo(NamedTuple):
    """A namespace as it was found by `Namespace.list()`. It holds no descriptor.

    `None` means that the caller cannot see the value, or that it does not apply.
    """

    kind: NamespaceKind
    inode: int
    """The number in `user:[…]`; with `device` it identifies the namespace while that exists."""
    device: int
    owner: int | None
    """The inode of the user namespace that owns it; for a user namespace, its parent."""
    owner_uid: int | None
    """For a user namespace, the user ID that owns it, as an ID of the caller's user namespace."""
    parent: int | None
    """The inode of the parent of a user or pid namespace."""
    pids: tuple[int, ...]
    """The processes with a thread in it, in order."""
    pins: tuple[str, ...]
    """The paths where it is mounted. Those in another mount namespace begin with `/proc/PID/root`."""
    uid_map: str | None
    """For a user namespace, `inside:outside:count,…`, with outside IDs of the caller's user
    namespace; for that namespace itself, of its parent. `""` if the map is unwritten."""
    gid_map: str | None
    """The group ID map, like `uid_map`."""
    routes: tuple[Route, ...]
    """The ways by which it was found, which `open()` tries."""

    def open(self) -> Namespace:
        """Open the namespace, if it still exists; the caller must close the object.

        Raises:
            FileNotFoundError: it no longer exists, or not where it was found (`ENOENT`, step
                `open_ns`, cause `namespace-gone`).
            PermissionError: the caller may not open it (`EACCES`, `EPERM`).
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
    """The result of `Namespace.list()`, in the order of kind and inode, with counts of what is missing."""

    unseen_processes: int = 0
    """The number of processes that the caller may not inspect (the ptrace access check of
    `proc(5)`), such as those of other users. Namespaces that only these keep alive are missing.
    Kernel threads are not counted."""

    unseen_namespaces: int = 0
    """The number of namespaces that the kernel lists (Linux 6.19) but the caller cannot open."""


def follow(route: Route) -> OwnedFd:
    """Open the namespace at the end of a route.

    The path may lead through another mount namespace, whose users can change it. It is opened
    with `O_PATH` and checked first, since opening a device can have side effects.
    """
    start, *relations = route
    owned = _system_calls.open_ns(start, 0, 0) if isinstance(start, int) else _open_namespace(str(start))
    for request in relations:
        with owned as fd:
            owned = _system_calls.open_related(fd, int(request))
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


def _try(call: Callable[..., T], *args: object) -> T | None:
    """The result; `None` if the namespace no longer exists, or the caller may not see it."""
    try:
        return call(*args)
    except OSError as error:
        if error.errno in SHORTAGE:
            raise
        return None


def _kernel_list() -> Iterable[int]:
    """All numbers of `listns(2)`; none if the kernel lacks the call."""
    last = 0
    while True:
        numbers = _try(_system_calls.listns, last)
        if not numbers:
            return
        yield from numbers
        last = numbers[-1]


def _add_listed_by_kernel(survey: Survey) -> int:
    unseen = 0
    for number in _kernel_list():
        owned = _try(follow, (number,))
        if owned is None:
            unseen += 1
            continue
        with owned as fd:
            kind = KIND_OF_FLAG.get(fcntl.ioctl(fd, _core.NS_GET_NSTYPE))
            if kind is not None:  # otherwise a kind that was added later
                survey.at(kind, namespace_identity(fd)[1]).detours.append((number,))
    return unseen


def _add_relatives(survey: Survey) -> None:
    """The owner and the parent of each, and the owners and parents of those."""
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
        related = _try(_system_calls.open_related, fd, request)
        if related is None:
            return None  # outside of the caller's user or PID namespace
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
        found.owner_uid = _try(owner_uid_of, fd)
    return new


def _open_any(survey: Survey, inode: int, found: Found) -> OwnedFd | None:
    """That namespace by the first route that still leads to it; `None` if no route does."""
    for route in found.routes:
        owned = _try(follow, route)
        if owned is None:
            continue
        with owned as fd:
            if namespace_identity(fd) == (survey.device, inode):
                return owned.move()
    return None


def _add_missing_maps(survey: Survey) -> None:
    """Of user namespaces without a process. They are read inside the namespace, where the outside
    IDs are those of the parent, and are composed with the parent's map."""
    with Namespace.current() as current:
        own = current.inode
    for (kind, inode), found in list(survey.found.items()):
        if kind is NamespaceKind.USER:
            _add_maps(survey, inode, found, own)


def _add_maps(survey: Survey, inode: int, found: Found, own: int) -> None:
    if found.uid_map is not None or inode == own:
        return
    owned = _open_any(survey, inode, found)
    if owned is None:
        return
    with Namespace(owned) as namespace:
        maps = _try(namespace._read_maps)
    if maps is None:
        return  # the caller may not enter it
    uids, gids, _ = maps
    if found.parent != own:
        outer = survey.found.get((NamespaceKind.USER, found.parent or 0), Found())
        _add_maps(survey, found.parent or 0, outer, own)
        if not (outer.uid_map and outer.gid_map):
            return  # the maps of its parent are not known
        uids, gids = uids.compose(IdMap.parse(outer.uid_map)), gids.compose(IdMap.parse(outer.gid_map))
    found.uid_map, found.gid_map = str(uids), str(gids)
