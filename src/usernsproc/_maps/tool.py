"""Runs a small program of the system, and gives what it printed.

By the machinery for commands: the cost does not depend on the size of this process,
and the exit status cannot get lost. It gets no environment, no
descriptor but one that it is meant to have, and nothing to read.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from errno import ECANCELED, ETIMEDOUT
from posix import read  # eventlet's os.read would wait for what is not there yet
from typing import NamedTuple

from .. import _core
from .._errors import userns_error
from .._loading import refuse_elsewhere
from .._spawn import FOREVER, ROOT_DIRECTORY, Files, GaveUp, Namespaces, Patience, Program, Setup, start
from .._uapi import WALL
from .foreign_files import refuse_foreign_files

_PART = 4096
_USUAL_FOLDERS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")


class Ended(NamedTuple):
    """What came of it. `returncode`: as of `Popen`, `None` where it got lost."""

    returncode: int | None
    stdout: str
    stderr: str


def find_tool(name: str) -> str | None:
    """The absolute path of a program, in `PATH` or where programs usually are.

    Raises:
        UsernsError: such a program could be another user's here (`EPERM`, step `prepare`), see
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
        patience: how long it may take. It may hang, in a directory service.

    Raises:
        UsernsError: it could not be started.
        GaveUp: the patience has ended; the program was killed.
    """
    with ExitStack() as opened:
        stdin, out, stdout, err, stderr = _open_standard_files(opened)
        with start(
            Program((os.path.basename(path), *args), (path,), filename=path),
            namespaces=Namespaces(0),
            files=Files(stdin, stdout, stderr, keep_fds),
            setup=Setup((ROOT_DIRECTORY,), 1),
            patience=patience,
        ) as child:
            printed = _read_until_end(child.pidfd, (out, err), patience)
            return Ended(_returncode(child.pidfd), printed[out], printed[err])


def _open_standard_files(opened: ExitStack) -> list[int]:
    """Standard input, then both ends of two pipes."""
    try:
        fds = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)]
        opened.callback(os.close, fds[0])
        for _ in range(2):
            for fd in os.pipe():
                opened.callback(os.close, fd)
                fds.append(fd)
    except OSError as error:
        raise userns_error("prepare", error.errno or 0, error.filename) from None
    return fds


def _read_until_end(pidfd: int, pipes: tuple[int, ...], patience: Patience) -> dict[int, str]:
    """Until the end of the process. That of a pipe may never come: a fork in another
    thread of this program could have copied its other end."""
    printed: dict[int, bytes] = dict.fromkeys(pipes, b"")
    awaited = (pidfd, *pipes) if patience.cancelled < 0 else (pidfd, *pipes, patience.cancelled)
    for pipe in pipes:
        os.set_blocking(pipe, False)
    ready: list[int] = []
    while pidfd not in ready:
        left = patience.milliseconds()
        ready = _core.poll(awaited, left)
        if patience.cancelled in ready:
            raise GaveUp("exec", ECANCELED, None)
        if not ready and left == 0:
            raise GaveUp("exec", ETIMEDOUT, None)
        for pipe in pipes:
            printed[pipe] += _read_what_is_there(pipe)
    return {pipe: text.decode(errors="replace") for pipe, text in printed.items()}


def _read_what_is_there(pipe: int) -> bytes:
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
    except ChildProcessError:  # somebody else reaped it; Linux 6.15 keeps the status
        status = _core.exit_status(pidfd)
        return os.waitstatus_to_exitcode(status) if status >= 0 else None
    assert result is not None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
