"""Bind mounts of what is mounted in a mount namespace of its own."""

from __future__ import annotations

from errno import errorcode
from pathlib import Path

from usernsproc import UsernsError, lowlevel
from usernsproc._uapi import AT_FDCWD, OPEN_TREE_CLOEXEC, OPEN_TREE_CLONE
from usernsproc.setup import Bind, Dir, File, Tmpfs

from .setup_files import enter_mounts, look


def open_copy(path: Path) -> int:
    """A detached mount of what is at a path."""
    return lowlevel.open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)


def with_a_mount_below(folder: str, recursive: bool) -> None:
    """In a new user namespace, the kernel refuses to show what a mount covers; not without one."""
    enter_mounts([Tmpfs(folder), Dir(f"{folder}/a"), Tmpfs(f"{folder}/a"), File(f"{folder}/a/below", "x")])
    try:
        print(look("ls -A /there/a", Bind(folder, "/there", recursive=recursive)), end="")
    except UsernsError as error:
        print("refused", errorcode[error.errno or 0])
    if not recursive:
        options = {"join": "/proc/self/ns/user", "uid_map": None, "gid_map": None}
        step = Bind(folder, "/there", recursive=False)
        print(look('test -z "$(ls -A /there/a)" && echo empty', step, **options), end="")
