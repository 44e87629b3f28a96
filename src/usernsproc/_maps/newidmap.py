"""Runs `newuidmap(1)` and `newgidmap(1)`.

They are set-user-ID programs. They write a map that the kernel would refuse to an
unprivileged user, of IDs that `/etc/subuid` and `/etc/subgid` assign to this user. Their
rules are in `permission.py`.
"""

from __future__ import annotations

import os
import pwd
from errno import ENOENT, EPERM, ESRCH

from .. import _core, _system_calls
from .._causes import TOOL_CAUSES, at_step, userns_error
from .._errors import MapToolError, UsernsError
from .._evidence import child_error, is_proc_read_only
from .._helper import Ended, find_tool, run_tool
from .._proc import open_proc_dir_of, pid_of, read_id_map
from .._spawn import FOREVER, GaveUp, Patience
from .._typing import TYPE_CHECKING
from .idmap import IdMap
from .side import Side

if TYPE_CHECKING:
    from .._core import OwnedFd

_takes_fd: dict[tuple[str, int, int, int, int], bool] = {}
"""By identity of the file: whether that version accepts `fd:N` (shadow 4.14), once known."""


def _identity(side: Side, path: str) -> tuple[str, int, int, int, int]:
    with at_step(side.tool, path):
        status = os.stat(path)
    return path, status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


def write_via_newidmap(side: Side, id_map: IdMap, pidfd: int, patience: Patience | None = None) -> None:
    """Have the tool write one map of the process.

    Raises:
        MapToolError: the tool did not write it.
        ProcessLookupError: the process has ended (`ESRCH`, step `open_proc`).
    """
    path = find_tool(side.tool)
    if path is None:  # it was there just now
        raise userns_error(side.tool, ENOENT, side.tool)
    with open_proc_dir_of(pidfd) as proc_dir:
        if _read_map(proc_dir, side, pidfd):
            raise userns_error(side.file, EPERM, cause="map-written", note=TOOL_CAUSES["map-written"])
        ended = _run(path, side, id_map, pidfd, proc_dir, patience or FOREVER)
        written = _read_map(proc_dir, side, pidfd)
        if ended.returncode or sorted(written) != sorted(id_map):
            raise _failure(side, path, ended, written, pidfd)


def _run(path: str, side: Side, id_map: IdMap, pidfd: int, proc_dir: int, patience: Patience) -> Ended:
    """By `fd:N`, which cannot be another process. A version that does not accept it gets the PID,
    which is the child's until the child is reaped."""
    numbers = [str(number) for r in id_map for number in r]
    identity = _identity(side, path)
    if _takes_fd.get(identity, True):
        with _above_standard_files(side, proc_dir) as kept:
            ended = _run_tool(side, path, f"fd:{kept}", *numbers, keep_fds=(kept,), patience=patience)
        if _read_map(proc_dir, side, pidfd):
            _takes_fd[identity] = True
        if _takes_fd.get(identity):
            return ended
    _refuse_ended(pidfd)
    ended = _run_tool(side, path, str(pid_of(pidfd)), *numbers, patience=patience)
    _refuse_ended(pidfd)
    if _read_map(proc_dir, side, pidfd):
        _takes_fd[identity] = False
    return ended


def _above_standard_files(side: Side, fd: int) -> OwnedFd:
    with at_step(side.tool):
        return _core.dup(fd)


def _run_tool(side: Side, path: str, *args: str, keep_fds: tuple[int, ...] = (), patience: Patience) -> Ended:
    try:
        return run_tool(path, *args, keep_fds=keep_fds, patience=patience)
    except GaveUp as gave_up:
        raise GaveUp(side.tool, *gave_up.args[1:]) from None
    except UsernsError as error:
        if error.step != "exec":
            raise
        raise userns_error(side.tool, error.errno or 0, path) from None


def _refuse_ended(pidfd: int) -> None:
    if _has_ended(pidfd):
        raise child_error("open_proc", ESRCH, pidfd)


def _has_ended(pidfd: int) -> bool:
    return bool(_system_calls.poll((pidfd,), 0))


def _read_map(proc_dir: int, side: Side, pidfd: int) -> IdMap:
    try:
        return read_id_map(proc_dir, side.file)
    except UsernsError:
        _refuse_ended(pidfd)
        raise


# ---- what went wrong ----


def _failure(side: Side, path: str, ended: Ended, written: IdMap, pidfd: int) -> UsernsError:
    if _has_ended(pidfd):
        return child_error("open_proc", ESRCH, pidfd)
    if ended.returncode == 0:
        cause, how = "map-differs", f"the kernel shows {written}" if written else "the map is unwritten"
    else:
        cause = _likely_cause(written)
        how = "its status is not known" if ended.returncode is None else f"it ended with status {ended.returncode}"
    said = ended.stderr.strip().splitlines()
    if said:
        how += f": {said[-1][:200]}"
    error = MapToolError(EPERM, f"{os.strerror(EPERM)}: {path}: {how}", step=side.tool, cause=cause)
    error.returncode, error.stderr = ended.returncode, ended.stderr
    error.add_note("\n".join([TOOL_CAUSES[cause], *said]))
    return error


def _likely_cause(written: IdMap) -> str:
    if written:
        return "map-written"
    if is_proc_read_only():
        return "proc-read-only"
    try:
        primary_group = pwd.getpwuid(os.getuid()).pw_gid
    except KeyError:
        return "tool-failed"
    return "tool-failed" if os.getgid() == primary_group else "tool-other-group"
