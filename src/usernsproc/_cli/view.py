"""What a command will find at a path, as far as a list of mounts determines it."""

from __future__ import annotations

import os
from typing import NamedTuple


class _Entry(NamedTuple):
    path: str
    is_mount: bool
    source: str | None = None


class View:
    """The mounts, files and directories of a new root, in their order. The root is empty at first."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def mount(self, target: str, source: str | None = None) -> None:
        """*source*: a path of the caller; `None`: the mount contains nothing of the caller."""
        self._entries.append(_Entry(os.path.normpath(target), True, source and os.path.realpath(source)))

    def make(self, path: str) -> None:
        """A file or a directory."""
        self._entries.append(_Entry(os.path.normpath(path), False))

    def source_of(self, path: str) -> str | None:
        """The path of the caller that is mounted there, whether it exists or not."""
        for entry in reversed(self._entries):
            if entry.is_mount and _is_below(path, entry.path):
                return _source_in(entry, path)
        return None

    def has_directory(self, path: str) -> bool:
        for entry in reversed(self._entries):
            is_in_mount = entry.is_mount and _is_below(path, entry.path)
            source = _source_in(entry, path) if is_in_mount else None
            if source is not None:
                return os.path.isdir(source)
            if _is_below(entry.path, path):
                return True
            if is_in_mount:
                return False
        return path == "/"


def _source_in(entry: _Entry, path: str) -> str | None:
    return entry.source and os.path.normpath(os.path.join(entry.source, os.path.relpath(path, entry.path)))


def _is_below(path: str, directory: str) -> bool:
    return os.path.commonpath((os.path.normpath(path), directory)) == directory
