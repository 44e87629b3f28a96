"""A place: a directory that is held by a descriptor, and a name in it.

The kernel looks up a path anew at each call, and any process that may rename one of
its directories decides what the next call meets. A place is looked up once: further
calls are relative to the directory, wherever that is then. Processes that may write
to this very directory can still give the name to another file, so the file is
compared before something is done to it.
"""

from __future__ import annotations

import os
from functools import partial

from . import _core
from ._procdir import descriptor_path

TYPE_CHECKING = False  # typing takes longer to load than this package
if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, TypeAlias

    Path: TypeAlias = "str | bytes | os.PathLike[str]"

UMOUNT_NOFOLLOW = 8

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def through(fd: int, name: bytes = b"") -> bytes:
    """A path that leads through a descriptor, for system calls that take nothing but a path."""
    path = descriptor_path(fd).encode()
    return path + b"/" + name if name else path


class Place:
    """The place that *path* leads to now. Leaving a `with` block closes the directory."""

    _directory = -1

    def __init__(self, path: Path) -> None:
        self.path = os.fspath(path)
        """As it was given, for messages."""
        folder, self.name = os.path.split(os.fsencode(path))
        if self.name in (b"", b".", b".."):  # such as "/": not a name, so it cannot be renamed
            folder, self.name = os.fsencode(path), b"."
        # Unpacked: after a call a signal handler could raise, and the descriptor would be lost.
        [self._directory] = map(os.open, (folder or b".",), (_DIRECTORY,))

    @property
    def directory(self) -> int:
        """The descriptor, borrowed."""
        return self._directory

    def open(self, flags: int, mode: int = 0) -> int:
        """A descriptor of what has the name. A symbolic link is not followed."""
        opening = partial(os.open, mode=mode, dir_fd=self._directory)
        [fd] = map(opening, (self.name,), (flags | os.O_NOFOLLOW | os.O_CLOEXEC,))  # as above
        return fd

    def status(self) -> os.stat_result:
        return os.stat(self.name, dir_fd=self._directory, follow_symlinks=False)

    def remove(self) -> None:
        os.unlink(self.name, dir_fd=self._directory)

    def unmount(self) -> None:
        """Unmount what is mounted on the name, if it is not in use."""
        _core.umount2(through(self._directory, self.name), UMOUNT_NOFOLLOW)

    def close(self) -> None:
        if self._directory >= 0:
            fd, self._directory = self._directory, -1
            os.close(fd)

    @property
    def closed(self) -> bool:
        return self._directory < 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    __del__ = close  # of one that a signal handler's exception has lost
