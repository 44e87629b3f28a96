"""Every parser of `/proc`, and `/proc/PID` as a descriptor that is certain to be of the right process.

In a mount namespace that another user controls, `/proc` can be any file system, and any
file in it can lie under another one. So nothing is opened by its path alone:
`_core.open_proc` and `_core.open_in` open what lies in the root of a genuine procfs,
without crossing a mount.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from errno import EBADF, ENOENT, ESRCH, EXDEV

from . import _core
from ._errors import UsernsError, at_step, printable, userns_error
from ._maps.idmap import IdMap
from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Protocol

    from typing_extensions import TypeAlias

    from ._core import OwnedFd

    class HasFileno(Protocol):
        def fileno(self) -> int: ...


ProcessLike: TypeAlias = "HasFileno | int"
"""A process: an object whose `fileno()` is a pidfd, a pidfd, or a pid."""

_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def proc_error(step: str, error: OSError, filename: object = None) -> UsernsError:
    """The exception for a file of `/proc`; a forged one is the fault of `/proc`, not of the step."""
    return userns_error("open_proc" if error.errno == EXDEV else step, error.errno or 0, filename)


# ---- files of /proc ----


def read_in(directory: int, path: str) -> str:
    """The text of a file in an open directory of `/proc`, such as that of a process; -1: in `/proc`."""
    return os.fsdecode(_core.read_file(directory, path))


def read_proc(path: str) -> str:
    """The text of a file of `/proc`, such as `self/status`.

    Raises:
        UsernsError: step `open_proc`.
    """
    with at_step("open_proc", f"/proc/{path}"):
        return read_in(-1, path)


def list_in(directory: int, path: str) -> list[str]:
    """The names in a directory of an open directory of `/proc`."""
    with _core.open_in(directory, path, _READ_DIRECTORY) as fd:
        return os.listdir(fd)


def open_root() -> OwnedFd:
    """The root of `/proc`, to open several files in it.

    Raises:
        OSError: as `open(2)`; `EXDEV`: it is forged.
    """
    return _core.open_proc(".", os.O_PATH)


def read_sysctl(name: str) -> str:
    """The text of a file of `/proc/sys`.

    Container engines mount that directory over itself, read-only. Then only the file system
    is compared. The value of another setting could be read instead, so no decision about
    rights may depend on it.

    Raises:
        UsernsError: step `open_proc`.
    """
    path = f"sys/{name}"
    with at_step("open_proc", f"/proc/{path}"):
        try:
            return read_in(-1, path)
        except OSError as error:
            if error.errno != EXDEV:
                raise
        return _read_on_same_file_system(path)


def _read_on_same_file_system(path: str) -> str:
    with open_root() as root:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with open(path, encoding="utf-8", opener=lambda path, _: os.open(path, flags, dir_fd=root)) as file:
            if os.fstat(file.fileno()).st_dev != os.fstat(root).st_dev:
                raise OSError(EXDEV, os.strerror(EXDEV), f"/proc/{path}")
            return file.read()


def overflow_id(kind: str) -> int:
    """The `uid` or `gid` that the kernel shows for all IDs that are not mapped."""
    try:
        return int(read_sysctl(f"kernel/overflow{kind}"))
    except FileNotFoundError:  # no /proc: another step reports that
        return 65534


def own_namespace_identity(name: str) -> tuple[int, int]:
    """Device and inode of a namespace of the calling thread, by the name of its link.

    Raises:
        UsernsError: step `open_proc`.
    """
    with at_step("open_proc", f"/proc/thread-self/ns/{name}"):
        return _core.own_namespace_identity(name)


def descriptor_path(fd: int) -> str:
    """A path for `umount2(2)`, which accepts no descriptor, to the file that *fd* is open on.

    The path is proven when this returns. Later, another process that may mount in the mount
    namespace of the calling thread could mount over it (before Linux 6.12).

    Raises:
        UsernsError: step `open_proc`.
    """
    path = f"thread-self/fd/{fd}"
    with at_step("open_proc", f"/proc/{path}"):
        _core.read_link(-1, path)
    return f"/proc/{path}"


# ---- processes ----


def read_status(process: str) -> dict[str, str]:
    """The fields of `/proc/PID/status`; *process*: a PID, or `thread-self`.

    Raises:
        UsernsError: step `open_proc`.
    """
    lines = read_proc(f"{process}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def read_stat(directory: int, path: str) -> list[str]:
    """The fields of a `/proc/PID/stat` that follow the name: the first one is the state."""
    return read_in(directory, path).rpartition(")")[2].split()


def name_in(directory: int, path: str) -> str:
    """The name of a process, by its `comm` in an open directory of `/proc`; -1: in `/proc`."""
    return printable(_core.read_file(directory, path).removesuffix(b"\n").decode(errors="backslashreplace"))


def process_name(pid: int) -> str:
    """Up to 15 bytes that the process itself has chosen; "gone" if it has ended."""
    try:
        return name_in(-1, f"{pid}/comm")
    except OSError:
        return "gone"


def pid_of(pidfd: int) -> int:
    """The PID of a pidfd's process, in the pid namespace that `/proc` was mounted for.

    Raises:
        ProcessLookupError: it has been reaped (`ESRCH`), or `/proc` does not show it.
        ValueError: the descriptor is not a pidfd.
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
    path = f"thread-self/fdinfo/{fd}"
    with at_step("open_proc", f"/proc/{path}"):
        try:
            text = read_in(-1, path)
        except FileNotFoundError:
            _core.read_link(-1, "thread-self")  # fails if there is no /proc, or one that does not show this thread
            return None
    return next((int(line[4:]) for line in text.splitlines() if line.startswith("Pid:")), None)


@contextmanager
def open_pidfd(process: ProcessLike) -> Generator[int]:
    """A pidfd of the process: the given one, or one that is open until the end of the block.

    Raises:
        ProcessLookupError: the process does not exist (`ESRCH`).
        ValueError: a number that is not a PID, or is ambiguous.
    """
    if not isinstance(process, int):
        yield process.fileno()
        return
    pid_by_pidfd = _pid_in_fdinfo(process)
    if pid_by_pidfd is not None:
        if pid_by_pidfd != process and _is_program(process):
            raise ValueError(
                f"{process} is both a pid and an open pidfd here, of different processes: "
                "pass the pidfd as an object with fileno(), or the pid as os.pidfd_open(pid)"
            )
        yield process
        return
    if not 0 < process <= _PID_MAX:
        raise ValueError(f"{process} is neither a pid nor a pidfd")
    try:
        owned = _core.pidfd_open(process)
    except ProcessLookupError:
        raise _gone(process) from None
    except OSError as error:
        raise userns_error("open_proc", error.errno or 0, f"/proc/{process}") from None
    with owned as pidfd:
        yield pidfd


_PID_MAX = (1 << 31) - 1  # of pid_t
_PF_KTHREAD = 0x00200000


def _is_program(pid: int) -> bool:
    """Whether there is such a process, other than a kernel thread. The namespaces of a kernel thread
    are never wanted, and these have the low PIDs on a host, which are numbers of descriptors too."""
    with at_step("open_proc", f"/proc/{pid}/stat"):
        try:
            return not int(read_stat(-1, f"{pid}/stat")[6]) & _PF_KTHREAD
        except (FileNotFoundError, ProcessLookupError):
            return False


def open_proc_dir_of(pidfd: int) -> OwnedFd:
    """`/proc/PID`, opened while its process has certainly not been reaped.

    The check follows the open: a process that still accepts signals still has its PID, so the
    directory that was opened before is its own.
    """
    try:
        proc_dir = _core.open_proc_dir(pidfd)
    except OSError as error:
        raise _no_proc_dir(pidfd, error) from None
    with proc_dir:
        try:
            signal.pidfd_send_signal(pidfd, 0)
        except PermissionError:
            pass  # another user's process, but it exists
        except ProcessLookupError:
            raise _gone(None) from None
        except OSError as error:
            raise userns_error("open_proc", error.errno or 0) from None
        return proc_dir.move()


def _no_proc_dir(pidfd: int, error: OSError) -> UsernsError:
    if error.errno in (EBADF, ENOENT, ESRCH):  # the process is reaped or hidden, or there is no `/proc` at all
        return _gone(pid_of(pidfd))
    return proc_error("open_proc", error, "/proc")


@contextmanager
def open_proc_dir(process: ProcessLike) -> Generator[int]:
    """A descriptor of `/proc/PID` that is open until the end of the block; raises as `open_pidfd`."""
    with open_pidfd(process) as pidfd, open_proc_dir_of(pidfd) as proc_dir:
        yield proc_dir


def read_id_map(proc_dir: int, name: str) -> IdMap:
    """`uid_map` or `gid_map`; empty when unwritten.

    Raises:
        UsernsError: it cannot be read; the step is *name*, or `open_proc`.
    """
    try:
        return IdMap.from_kernel(read_in(proc_dir, name))
    except OSError as error:
        raise proc_error(name, error) from None
