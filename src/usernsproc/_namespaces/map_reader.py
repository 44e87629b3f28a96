"""The maps of a user namespace, from its descriptor alone: a helper program enters it and reads its own."""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from errno import ENOSYS, EPERM

from .. import _core
from .._causes import at_step
from .._proc import open_root
from .._setup.calls import IS_EQUAL, NEW_SESSION, OWN_MEMORY, ROOT_DIRECTORY, Place, Result, Setup, SystemCall
from .._spawn import HIDDEN, Namespaces, start
from .._system_calls import NR, openat2
from .._uapi import CLONE_NEWUSER, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV

_SIZE, _PARTS = 4096, 4
"""A map of 340 lines has up to 11 KiB, and the kernel gives whole lines of almost a page at a time."""
_BENEATH = struct.pack("=QQQ", os.O_RDONLY, 0, RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS)
_FILES = ("uid_map", "gid_map", "setgroups")


def read_maps(userns: _core.OwnedFd | int) -> list[str]:
    """`uid_map`, `gid_map` and `setgroups`.

    Root in the namespace cannot look at the helper program: that is not dumpable before it enters.
    """
    with ExitStack() as opened:
        with at_step("open_proc", "/proc"):
            root = opened.enter_context(open_root())
        with at_step("prepare"):
            answer, end = map(opened.enter_context, _core.pipe())
            os.set_blocking(end, False)  # a full pipe is an error
            proc, to, entered = (opened.enter_context(_core.dup(fd)) for fd in (root, end, userns))  # above 2
        calls = _reading(proc, to, has_openat2=_has_openat2(proc))
        setup = Setup((ROOT_DIRECTORY, NEW_SESSION, *calls), fds=(proc, to))
        with start(None, Namespaces(0, (entered, CLONE_NEWUSER)), setup=setup, signals=HIDDEN):
            return os.read(answer, len(_FILES) * _PARTS * _SIZE).decode().split("\0")[:-1]


def _has_openat2(proc: int) -> bool:
    """Linux 5.6, and no filter refuses it."""
    try:
        openat2(proc, b".", os.O_PATH | os.O_CLOEXEC, 0).close()
    except OSError as error:
        return error.errno not in (ENOSYS, EPERM)
    return True


_SIZE_OF_STATFS, _SIZE_OF_TYPE = 256, 4


def _status_of(proc: int) -> bytearray:
    """A `struct statfs`, which begins with the type of the file system."""
    status = bytearray(_SIZE_OF_STATFS)
    _core.call(NR["fstatfs"], proc, status)
    return status


def _reading(proc: int, to: int, *, has_openat2: bool) -> list[SystemCall]:
    """Copy the files, with a NUL behind each."""
    calls: list[SystemCall] = []
    space = bytearray(_SIZE)

    def add(name: str, *arguments: int | bytes | Result | Place, result: Result | None = None) -> None:
        calls.append(SystemCall("read_map", name, *arguments, needs=OWN_MEMORY, result=result))

    def open_file(path: bytes, opened: Result) -> None:
        if has_openat2:
            add("openat2", proc, path, _BENEATH, len(_BENEATH), result=opened)
            return
        add("openat", proc, path, os.O_RDONLY, result=opened)
        add("fstatfs", opened, Place(space))
        add(IS_EQUAL, Place(space), Place(_status_of(proc)), _SIZE_OF_TYPE)

    for file in _FILES:
        opened = Result()
        open_file(f"self/{file}".encode(), opened)
        for _ in range(_PARTS):
            length = Result()
            add("read", opened, Place(space), _SIZE, result=length)
            add("write", to, Place(space), length)
        add("write", to, b"\0", 1)
        add("close", opened)
    return calls
