"""Existing namespaces for a command to join: which, in what order, and the ID maps there."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager

from .. import _core
from .._causes import userns_error
from .._maps.presets import unchanged
from .._maps.writer import Maps
from .._proc import is_known, open_namespace_of, open_pidfd, own_setgroups
from .._typing import TYPE_CHECKING
from .kind import NamespaceKind
from .namespace import Namespace

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import TypeAlias, TypeIs

    from .._caller import Caller
    from .._proc import HasFileno

JoinLike: TypeAlias = (
    "Namespace | str | bytes | os.PathLike[str] | HasFileno | int | tuple[HasFileno | int, Iterable[str]]"
)
"""A `Namespace`, the path of a namespace file, or a process (an object with a pidfd, a
pidfd, a PID), which stands for each of its namespaces that differs from the caller's; `(process, kinds)`: for
these of its namespaces."""


class Joins:
    """Namespaces to enter, in order, by descriptors that live as long as the block of `open_joins`."""

    def __init__(self, namespaces: Sequence[Namespace], userns: Namespace | None, *, is_own: bool = False) -> None:
        self.userns = userns
        """The existing user namespace of the command; `None`: a new one is created."""
        self.is_own = is_own
        """Whether that is the caller's user namespace, which is not entered."""
        self._namespaces = namespaces

    @property
    def kinds(self) -> int:
        """The `CLONE_NEW…` bits of all."""
        kinds = 0
        for namespace in self._namespaces:
            kinds |= namespace.kind.flag
        return kinds

    @property
    def for_core(self) -> tuple[int, ...]:
        numbers: tuple[int, ...] = ()
        for namespace in self._namespaces:
            numbers += (namespace.fileno(), namespace.kind.flag)
        return numbers

    def maps(self, caller: Caller) -> Maps:
        """The maps of `userns`, with outside IDs as the calling process has them."""
        assert self.userns is not None
        if self.is_own:
            return Maps(unchanged(caller.uid_map), unchanged(caller.gid_map), own_setgroups())
        with Namespace.current() as current:
            return _seen_from(current, self.userns)


NO_JOINS = Joins((), None)


@contextmanager
def open_joins(join: JoinLike | Iterable[JoinLike]) -> Generator[Joins]:
    """Open the namespaces that *join* stands for.

    Raises:
        ValueError: two of one kind, or a process that shares all namespaces with the caller.
        TypeError: an object that does not stand for a namespace.
        UsernsError: step `open_ns` or `open_proc`, like `Namespace.open` and `Namespace.of`.
    """
    targets: Any = join
    if isinstance(join, (Namespace, str, bytes, os.PathLike, int)) or _is_process(join):
        targets = [join]
    elif not hasattr(join, "__iter__"):
        raise _stands_for_no_namespace(join)
    targets = list(targets)
    if not targets:
        yield NO_JOINS
        return
    with ExitStack() as stack:
        found: dict[NamespaceKind, Namespace] = {}
        for target in targets:
            for namespace in _namespaces_of(target):
                stack.enter_context(namespace)
                known = found.setdefault(namespace.kind, namespace)
                if known != namespace:
                    raise ValueError(f"join has two namespaces of the kind {namespace.kind}: {known} and {namespace}")
        userns = found.pop(NamespaceKind.USER, None)
        others = list(found.values())
        if userns is None or _is_current(userns):
            yield Joins(others, userns, is_own=userns is not None)
        else:
            yield Joins(_in_order(others, userns), userns)


def _stands_for_no_namespace(target: object) -> TypeError:
    return TypeError(f"join takes namespaces, paths, pids and processes with a pidfd, not {target!r}")


def _is_process(target: object) -> TypeIs[HasFileno]:
    return hasattr(target, "fileno")


def _namespaces_of(target: JoinLike) -> Generator[Namespace]:
    """Each as a new object, whose descriptor is not 0, 1 or 2 of the child."""
    if isinstance(target, Namespace):
        yield _above_stdio(target)
    elif isinstance(target, (str, bytes, os.PathLike)):
        with Namespace.open(target) as namespace:
            yield _above_stdio(namespace)
    elif isinstance(target, int) or _is_process(target):
        yield from _other_namespaces_of(target)
    elif isinstance(target, tuple) and len(target) == 2:  # pyright: ignore[reportUnnecessaryIsInstance]
        yield from _chosen_namespaces_of(*target)
    else:
        raise _stands_for_no_namespace(target)


def _chosen_namespaces_of(process: HasFileno | int, kinds: Iterable[str]) -> Generator[Namespace]:
    """A kind that the process shares with the caller is refused: the command would be less separated than it looks."""
    if isinstance(kinds, str) or not hasattr(kinds, "__iter__"):
        raise TypeError(f"the kinds of a process in join are several, by name, not {kinds!r}")
    if isinstance(process, Namespace) or not (isinstance(process, int) or _is_process(process)):
        raise TypeError(f"kinds are chosen of a process, not of {process!r}: join=[(process, kinds)]")
    chosen = {NamespaceKind(kind) for kind in kinds}
    if not chosen:
        raise ValueError(f"no kinds of the process {process!r} are chosen: nothing to join")
    with open_pidfd(process) as pidfd:
        for kind in (kind for kind in NamespaceKind if kind in chosen):
            with Namespace(open_namespace_of(pidfd, kind)) as theirs, Namespace.current(kind) as own:
                if theirs == own and kind != NamespaceKind.USER:
                    raise ValueError(f"the process {process!r} shares its {kind} namespace with the calling one")
                yield _above_stdio(theirs)


def _other_namespaces_of(process: HasFileno | int) -> Generator[Namespace]:
    count = 0
    with open_pidfd(process) as pidfd:
        for kind in filter(is_known, NamespaceKind):
            with Namespace(open_namespace_of(pidfd, kind)) as theirs, Namespace.current(kind) as own:
                if theirs != own:
                    count += 1
                    yield _above_stdio(theirs)
    if not count:
        raise ValueError(f"the process {process!r} shares all namespaces with the calling one: nothing to join")


def _above_stdio(namespace: Namespace) -> Namespace:
    try:
        return Namespace(_core.dup(namespace.fileno()))
    except OSError as error:
        raise userns_error("prepare", error.errno or 0) from None


def _is_current(userns: Namespace) -> bool:
    with Namespace.current() as current:
        return userns == current


def _in_order(others: list[Namespace], userns: Namespace) -> list[Namespace]:
    """First those owned outside *userns*, while the process still has capabilities over them; then
    *userns*; then those that it owns, over which joining it gives capabilities."""
    inner = [n for n in others if _is_within(n, userns)]
    return [*(n for n in others if n not in inner), userns, *inner]


def _is_within(namespace: Namespace, userns: Namespace) -> bool:
    """Whether it is owned by *userns* or one below."""
    try:
        owner = namespace.owner()
        while owner != userns:
            with owner:
                owner = owner.parent()
    except PermissionError:  # neither the caller's user namespace nor below it
        return False
    owner.close()
    return True


def _seen_from(current: Namespace, userns: Namespace) -> Maps:
    """The maps of *userns*, composed through all levels up to *current*."""
    uids, gids, setgroups = userns._read_maps()
    parent = userns.parent()
    while parent != current:
        with parent:
            outer_uids, outer_gids, _ = parent._read_maps()
            uids, gids = uids.compose(outer_uids), gids.compose(outer_gids)
            parent = parent.parent()
    parent.close()
    return Maps(uids, gids, setgroups)
