"""A place: a directory that is held by a descriptor, and a name in it.

The kernel looks up a path anew at each call, and any process that may rename one of
its directories decides what the next call meets. A place is looked up once: further
calls are relative to the directory, wherever that is then. Processes that may write
to this very directory can still give the name to another file, so the file is
compared before something is done to it.
"""

from __future__ import annotations

import os

from . import _core
from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, TypeAlias

    from ._core import OwnedFd

    Path: TypeAlias = "str | bytes | os.PathLike[str]"


class Place:
    """The place that *path* leads to now. Leaving a `with` block closes the directory."""

    def __init__(self, path: Path) -> None:
        self.path = os.fspath(path)
        """As it was given, for messages."""
        folder, self.name = os.path.split(os.fsencode(path))
        if self.name in (b"", b".", b".."):  # such as "/": not a name, so it cannot be renamed
            folder, self.name = os.fsencode(path), b"."
        self._directory = _core.open(folder or b".", os.O_PATH | os.O_DIRECTORY)

    @property
    def directory(self) -> int:
        """The descriptor, borrowed."""
        return self._directory.fileno()

    def open(self, flags: int, mode: int = 0) -> OwnedFd:
        """A descriptor of what has the name. A symbolic link is not followed."""
        return _core.open(self.name, flags | os.O_NOFOLLOW, mode, self.directory)

    def status(self) -> os.stat_result:
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)

    def remove(self) -> None:
        os.unlink(self.name, dir_fd=self.directory)

    def close(self) -> None:
        self._directory.close()

    @property
    def closed(self) -> bool:
        return self._directory.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
