"""Runs a small program of another package as a child, and returns what it printed.

It is started like a command, so the cost does not depend on the size of this process, and
the exit status cannot get lost. It gets no environment, nothing to read, and only those
descriptors that are passed on purpose.

In a mount namespace that belongs to a user namespace below the caller's own, root there
decides what `/etc` and `/usr/bin` are: nothing there is trusted.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from errno import ECANCELED, EPERM, ETIMEDOUT
from posix import read  # eventlet's os.read would wait for data
from typing import NamedTuple

from . import _core, _system_calls
from ._causes import at_step, userns_error
from ._preload import refuse_elsewhere
from ._proc import own_namespace_identity, proc_error
from ._setup.calls import ROOT_DIRECTORY, Setup
from ._spawn import FOREVER, Files, GaveUp, Namespaces, Patience, Program, start
from ._uapi import WALL

_PART = 4096
_USUAL_FOLDERS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")


class Ended(NamedTuple):
    """The result. `returncode`: as of `Popen`, `None` if it got lost."""

    returncode: int | None
    stdout: str
    stderr: str


def refuse_foreign_files(path: str) -> None:
    """For a file that is trusted, or executed, with the caller's rights.

    Raises:
        PermissionError: the calling thread has entered such a mount namespace (`EPERM`, step
            `prepare`, cause `foreign-mount-namespace`).
    """
    try:
        if not _is_mount_namespace_foreign():
            return
    except OSError as error:
        raise proc_error("prepare", error, path) from None
    note = (
        "The mount namespace of the calling thread belongs to a user namespace below its own, whose root controls "
        "this file. Call this before the thread enters the mount namespace, or run a command in it with join=."
    )
    raise userns_error("prepare", EPERM, path, cause="foreign-mount-namespace", note=note)


def _is_mount_namespace_foreign() -> bool:
    try:
        mnt = _core.own_namespace("mnt")
    except FileNotFoundError:
        return False  # there is no /proc: writing the map reports that
    with mnt:
        try:
            owner = _system_calls.open_related(mnt, _core.NS_GET_USERNS)
        except PermissionError:
            return False  # above the caller's own user namespace
    with owner as fd:
        status = os.fstat(fd)
        return (status.st_dev, status.st_ino) != own_namespace_identity("user")


def find_tool(name: str) -> str | None:
    """The absolute path of a program, in `PATH` or where programs usually are.

    Raises:
        UsernsError: the program could be another user's here (`EPERM`, step `prepare`), see
            `refuse_foreign_files` and `refuse_elsewhere`.
    """
    refuse_foreign_files(name)
    refuse_elsewhere(name)
    for folder in (*os.get_exec_path(), *_USUAL_FOLDERS):
        path = os.path.join(folder, name)
        if os.path.isabs(path) and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def run_tool(path: str, *args: str, keep_fds: tuple[int, ...] = (), patience: Patience = FOREVER) -> Ended:
    """Run a program to its end.

    Args:
        path: absolute.
        keep_fds: descriptors that it gets, from 3 on.
        patience: the time limit. The program may hang in a directory service.

    Raises:
        UsernsError: it could not be started.
        GaveUp: the time limit has passed; the program was killed.
    """
    with ExitStack() as opened:
        stdin, out, stdout, err, stderr = _open_standard_files(opened)
        with start(
            Program((os.path.basename(path), *args), (path,), filename=path),
            namespaces=Namespaces(0),
            files=Files(stdin, stdout, stderr, keep_fds),
            setup=Setup((ROOT_DIRECTORY,)),
            patience=patience,
        ) as child:
            printed = _read_until_end(child.pidfd, (out, err), patience)
            return Ended(_returncode(child.pidfd), printed[out], printed[err])


def _open_standard_files(opened: ExitStack) -> list[int]:
    """Standard input, then both ends of two pipes."""
    with at_step("prepare"):
        fds = [opened.enter_context(_core.open("/dev/null", os.O_RDONLY))]
        for _ in range(2):
            fds.extend(opened.enter_context(end) for end in _core.pipe())
    return fds


def _read_until_end(pidfd: int, pipes: tuple[int, ...], patience: Patience) -> dict[int, str]:
    """Until the process ends. A pipe may never end: a fork in another thread of this program
    could have copied its other end."""
    printed: dict[int, bytes] = dict.fromkeys(pipes, b"")
    awaited = (pidfd, *pipes) if patience.cancelled < 0 else (pidfd, *pipes, patience.cancelled)
    for pipe in pipes:
        os.set_blocking(pipe, False)
    ready: list[int] = []
    while pidfd not in ready:
        left = patience.milliseconds()
        ready = _system_calls.poll(awaited, left)
        if patience.cancelled in ready:
            raise GaveUp("exec", ECANCELED, None)
        if not ready and left == 0:
            raise GaveUp("exec", ETIMEDOUT, None)
        for pipe in pipes:
            printed[pipe] += _read_available(pipe)
    return {pipe: text.decode(errors="replace") for pipe, text in printed.items()}


def _read_available(pipe: int) -> bytes:
    parts: list[bytes] = []
    try:
        while part := read(pipe, _PART):
            parts.append(part)
    except BlockingIOError:
        pass
    return b"".join(parts)


def _returncode(pidfd: int) -> int | None:
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | WALL)
    except ChildProcessError:  # another part of the program reaped it; Linux 6.15 keeps the status
        status = _core.exit_status(pidfd)
        return os.waitstatus_to_exitcode(status) if status >= 0 else None
    assert result is not None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
