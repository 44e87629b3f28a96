"""Existing namespaces to be entered: which, in what order, and who one is in there."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager

from .. import _core
from .._errors import userns_error
from .._maps.presets import unchanged
from .._maps.writer import Maps
from .._proc import open_pidfd
from .._typing import TYPE_CHECKING
from .namespace import Namespace, NamespaceKind, is_known, open_namespace_of

if TYPE_CHECKING:
    from typing_extensions import TypeAlias, TypeIs

    from .._caller import Caller
    from .._proc import HasFileno

JoinLike: TypeAlias = "Namespace | str | bytes | os.PathLike[str] | HasFileno | int"
"""A `Namespace`, the path of a namespace file, or a process (an object with a pidfd, a
pidfd, a pid), which stands for each of its namespaces that differs from the caller's."""


class Joins:
    """Namespaces to enter, in order, by descriptors that live as long as the block of `opened`."""

    def __init__(self, namespaces: Sequence[Namespace], userns: Namespace | None, *, is_own: bool = False) -> None:
        self.userns = userns
        """The user namespace of the command, an existing one; `None`: a new one is made."""
        self.is_own = is_own
        """Whether that is the caller's, and is not entered."""
        self._namespaces = namespaces

    @property
    def kinds(self) -> int:
        """A `CLONE_NEW…` bit for each."""
        kinds = 0
        for namespace in self._namespaces:
            kinds |= namespace.kind.flag
        return kinds

    @property
    def for_core(self) -> tuple[int, ...]:
        return tuple(number for n in self._namespaces for number in (n.fileno(), n.kind.flag))

    def maps(self, caller: Caller) -> Maps:
        """What inside and outside mean in `userns`, seen from the calling process."""
        assert self.userns is not None
        if self.is_own:
            here = self.userns._read_maps()
            return Maps(unchanged(caller.uid_map), unchanged(caller.gid_map), here.setgroups)
        with Namespace.current() as current:
            return _seen_from(current, self.userns)


NO_JOINS = Joins((), None)


@contextmanager
def opened(join: JoinLike | Iterable[JoinLike]) -> Generator[Joins]:
    """The namespaces that *join* stands for.

    Raises:
        ValueError: two of one kind; a process that is in no other namespace than the caller.
        TypeError: something that stands for no namespace.
        UsernsError: step `open_ns` or `open_proc`, as of `Namespace.open` and `Namespace.of`.
    """
    if isinstance(join, (Namespace, str, bytes, os.PathLike, int)) or _is_process(join):
        targets: list[JoinLike] = [join]
    elif not hasattr(join, "__iter__"):
        raise _stands_for_no_namespace(join)
    else:
        targets = list(join)
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
    """Each by a descriptor of its own, out of the way of a child's 0, 1 and 2."""
    if isinstance(target, Namespace):
        yield _above_stdio(target)
    elif isinstance(target, (str, bytes, os.PathLike)):
        with Namespace.open(target) as namespace:
            yield _above_stdio(namespace)
    elif isinstance(target, int) or _is_process(target):
        yield from _other_namespaces_of(target)
    else:
        raise _stands_for_no_namespace(target)


def _other_namespaces_of(process: HasFileno | int) -> Generator[Namespace]:
    count = 0
    with open_pidfd(process) as pidfd:
        for kind in filter(is_known, NamespaceKind):
            with Namespace(open_namespace_of(pidfd, kind)) as theirs, Namespace.current(kind) as own:
                if theirs != own:
                    count += 1
                    yield _above_stdio(theirs)
    if not count:
        raise ValueError(f"the process {process!r} is in no other namespace than the calling one: nothing to join")


def _above_stdio(namespace: Namespace) -> Namespace:
    try:
        return Namespace(_core.dup(namespace.fileno()))
    except OSError as error:
        raise userns_error("prepare", error.errno or 0) from None


def _is_current(userns: Namespace) -> bool:
    with Namespace.current() as current:
        return userns == current


def _in_order(others: list[Namespace], userns: Namespace) -> list[Namespace]:
    """Those owned outside first, while there still are rights over them; then the user
    namespace; then those that it gives rights over."""
    inner = [n for n in others if _is_within(n, userns)]
    return [*(n for n in others if n not in inner), userns, *inner]


def _is_within(namespace: Namespace, userns: Namespace) -> bool:
    """Whether it is owned by *userns* or one below."""
    try:
        owner = namespace.owner()
        while owner != userns:
            with owner:
                owner = owner.parent()
    except PermissionError:  # not among ours and those below
        return False
    owner.close()
    return True


def _seen_from(current: Namespace, userns: Namespace) -> Maps:
    """The maps of *userns*, from inside to ids of *current*, through all levels between."""
    here = userns._read_maps()
    uids, gids = here.uid_map, here.gid_map
    parent = userns.parent()
    while parent != current:
        with parent:
            between = parent._read_maps()
            uids, gids = uids.compose(between.uid_map), gids.compose(between.gid_map)
            parent = parent.parent()
    parent.close()
    return Maps(uids, gids, here.setgroups)
