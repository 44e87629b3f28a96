"""`/proc/PID` as a descriptor that is known to be the right process'."""

from __future__ import annotations

import os
import signal
from errno import ENOENT, ESRCH
from functools import partial

from ._errors import UsernsError, at_step, userns_error
from ._maps.idmap import IdMap

TYPE_CHECKING = False  # typing takes longer to load than this package
if TYPE_CHECKING:
    from typing import Protocol, TextIO

    from typing_extensions import TypeAlias

    class HasFileno(Protocol):
        def fileno(self) -> int: ...


ProcessLike: TypeAlias = "HasFileno | int"
"""A process: an object whose `fileno()` is a pidfd, a pidfd, or a pid."""


def pid_of(pidfd: int) -> int:
    """The PID of a pidfd's process, in the pid namespace that `/proc` was mounted for.

    Raises:
        ProcessLookupError: it has been reaped (`ESRCH`), or is not to be seen in `/proc`.
        ValueError: the descriptor is no pidfd.
    """
    pid = _pid_in_fdinfo(pidfd)
    if pid is None:
        raise ValueError(f"descriptor {pidfd} is not a pidfd")
    if pid <= 0:
        raise _gone(None)
    return pid


_GONE = "The process does not exist or has exited. Check the PID, or keep a pidfd of the process."


def _gone(pid: int | None) -> UsernsError:
    filename = None if pid is None else f"/proc/{pid}"
    return userns_error("open_proc", ESRCH, filename, cause="process-gone", note=_GONE)


def _pid_in_fdinfo(fd: int) -> int | None:
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as file:
            for line in file:
                if line.startswith("Pid:"):
                    return int(line[4:])
    except FileNotFoundError:
        if not os.path.exists("/proc/self"):
            raise userns_error("open_proc", ENOENT, f"/proc/self/fdinfo/{fd}") from None
    except OSError as error:
        raise userns_error("open_proc", error.errno or 0, f"/proc/self/fdinfo/{fd}") from None
    return None


def open_proc_dir(process: ProcessLike) -> int:
    """A descriptor of `/proc/PID`, the caller's to close.

    Raises:
        ProcessLookupError: the process is gone (`ESRCH`).
        ValueError: a number that is no pid, or ambiguous.
    """
    if not isinstance(process, int):
        pidfd = process.fileno()
        return open_proc_dir_of(pidfd)
    pid_by_pidfd = _pid_in_fdinfo(process)
    if pid_by_pidfd is None:
        return _open_by_pid(process)
    if pid_by_pidfd != process and _is_program(process):
        raise ValueError(
            f"{process} is both a pid and an open pidfd here, of different processes: "
            "pass the pidfd as an object with fileno(), or the pid as os.pidfd_open(pid)"
        )
    return open_proc_dir_of(process)


_PID_MAX = (1 << 31) - 1  # of pid_t
_PF_KTHREAD = 0x00200000


def _is_program(pid: int) -> bool:
    """Whether there is such a process, other than a kernel thread: nobody asks for the
    namespaces of these, and on a host they have the low pids, which descriptors have too."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            flags = int(file.read().rpartition(")")[2].split()[6])
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError as error:
        raise userns_error("open_proc", error.errno or 0, f"/proc/{pid}/stat") from None
    return not flags & _PF_KTHREAD


def _open_by_pid(pid: int) -> int:
    if not 0 < pid <= _PID_MAX:
        raise ValueError(f"{pid} is neither a pid nor a pidfd")
    try:
        [pidfd] = map(os.pidfd_open, (pid,))  # as below
    except ProcessLookupError:
        raise _gone(pid) from None
    except OSError as error:
        raise userns_error("open_proc", error.errno or 0, f"/proc/{pid}") from None
    proc_dir = -1
    try:
        try:
            proc_dir = open_proc_dir_of(pidfd)
        finally:
            os.close(pidfd)
    except BaseException:
        if proc_dir >= 0:
            os.close(proc_dir)
        raise
    return proc_dir


def open_proc_dir_of(pidfd: int) -> int:
    """`/proc/PID`, opened while its process has certainly not been reaped.

    The check comes after the open: a process that still answers has not lost its
    pid, so the directory that was opened before is its own.
    """
    pid = pid_of(pidfd)
    try:
        # Unpacked: after a call a signal handler could raise, and the descriptor would be lost.
        [proc_dir] = map(os.open, (f"/proc/{pid}",), (os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC,))
    except FileNotFoundError:
        # gone, or hidden, or no /proc at all
        if os.path.exists("/proc/self"):
            raise _gone(pid) from None
        raise userns_error("open_proc", ENOENT, f"/proc/{pid}") from None
    except OSError as error:
        raise userns_error("open_proc", error.errno or 0, f"/proc/{pid}") from None
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except PermissionError:
        pass  # somebody else's, but there
    except ProcessLookupError:
        os.close(proc_dir)
        raise _gone(pid) from None
    except OSError as error:
        os.close(proc_dir)
        raise userns_error("open_proc", error.errno or 0, f"/proc/{pid}") from None
    except BaseException:
        os.close(proc_dir)
        raise
    return proc_dir


def read_id_map(proc_dir: int, name: str) -> IdMap:
    """`uid_map` or `gid_map`; empty when unwritten.

    Raises:
        UsernsError: it cannot be read; the step is *name*.
    """
    with at_step(name), open_at(proc_dir, name) as file:
        return IdMap.from_kernel(file.read())


def open_at(proc_dir: int, name: str) -> TextIO:
    """A file of `/proc/PID`, to be read."""
    return open(name, encoding="utf-8", errors="replace", opener=partial(os.open, dir_fd=proc_dir))
