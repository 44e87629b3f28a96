"""A user namespace, by any object that refers to one."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from errno import EBADF

from .._causes import userns_error
from .._maps.idmap import PRESETS, IdMapLike
from .._namespaces.namespace import Namespace
from .._namespaces.new import create_userns
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

    from .._place import Path
    from .._proc import HasFileno

UsernsLike: TypeAlias = "Namespace | HasFileno | int | Path | tuple[IdMapLike, IdMapLike]"
"""A user namespace: a `Namespace`, a process, a descriptor, a path of a namespace
file, or a pair of maps."""


@contextmanager
def borrow_userns(userns: UsernsLike) -> Generator[int]:
    """A descriptor of the user namespace, valid in the block."""
    if isinstance(userns, int):
        _refuse_closed(userns)
        yield userns
    elif isinstance(userns, Namespace):
        yield userns.fileno()
    elif isinstance(userns, (str, bytes, os.PathLike)):
        _refuse_map(userns)
        with Namespace.open(userns) as opened:
            yield opened.fileno()
    elif isinstance(userns, tuple):
        if len(userns) != 2:
            raise TypeError(f"a pair of maps is needed (uid, gid), not {len(userns)}")
        uid_map, gid_map = userns
        with create_userns(uid_map, gid_map) as made:
            yield made.fileno()
    elif not hasattr(userns, "fileno"):
        raise TypeError(f"userns is a Namespace, a process, a descriptor, a path or a pair of maps, not {userns!r}")
    else:
        with Namespace.of(userns) as found:
            yield found.fileno()


def _refuse_map(path: Path) -> None:
    """One map in the place of a path: the error would name a file that the caller did not mean."""
    if isinstance(path, str) and not os.path.lexists(path) and (path in PRESETS or path.count(":") >= 2):
        raise TypeError(f"a pair of maps is needed (uid, gid), not {path!r} alone: ({path!r}, {path!r})")


def _refuse_closed(fd: int) -> None:
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        raise userns_error("mount_setattr", EBADF, note=f"userns={fd} is not an open descriptor.") from None
