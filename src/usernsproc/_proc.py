"""Every parser of `/proc`, and `/proc/PID` as a descriptor that is certain to be of the right process.

In a mount namespace that another user controls, `/proc` can be any file system, and another
file can be mounted over any file in it. Therefore no file is opened by its path alone:
`_core.open_proc` and `_core.open_in` open files of a genuine procfs, without crossing a mount.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from errno import EBADF, ENOENT, ESRCH, EXDEV
from functools import partial

from . import _core, _system_calls
from ._causes import at_step, userns_error
from ._errors import UsernsError
from ._maps.idmap import IdMap
from ._text import printable
from ._typing import TYPE_CHECKING
from ._uapi import PF_KTHREAD

if TYPE_CHECKING:
    from typing import Protocol

    from typing_extensions import TypeAlias

    from ._core import OwnedFd

    class HasFileno(Protocol):
        def fileno(self) -> int: ...


ProcessLike: TypeAlias = "HasFileno | int"
"""A process: an object whose `fileno()` is a pidfd, a pidfd, or a PID."""

_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def proc_error(step: str, error: OSError, filename: object = None) -> UsernsError:
    """The exception for a file of `/proc`. If it is forged, the step is `open_proc`."""
    return userns_error("open_proc" if error.errno == EXDEV else step, error.errno or 0, filename)


# ---- files of /proc ----


def _open_in(directory: int, path: str, flags: int) -> OwnedFd:
    return _core.open_proc(path, flags) if directory < 0 else _core.open_in(directory, path, flags)


def _bytes_in(directory: int, path: str) -> bytes:
    with _open_in(directory, path, os.O_RDONLY) as fd:
        return b"".join(iter(partial(os.read, fd, _PART), b""))


_PART = 1 << 14  # more than most files of /proc have, which do not show their size


def read_in(directory: int, path: str) -> str:
    """The text of a file in an open directory of `/proc`, such as that of a process; -1: in `/proc`."""
    return os.fsdecode(_bytes_in(directory, path))


def read_link(directory: int, path: str) -> str:
    """The text of a link there."""
    with _open_in(directory, path, os.O_PATH | os.O_NOFOLLOW) as fd:
        return os.readlink("", dir_fd=fd)


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
    with at_step("open_proc", f"/proc/thread-self/ns/{name}"), _core.own_namespace(name) as fd:
        status = os.fstat(fd)
    return status.st_dev, status.st_ino


def nsfs_device() -> int:
    """The device number of all namespaces, by which they differ from other files."""
    return own_namespace_identity("user")[0]


def namespace_identity(fd: int) -> tuple[int, int]:
    """Device and inode of an open namespace.

    Raises:
        UsernsError: step `open_ns`.
    """
    with at_step("open_ns"):
        status = os.fstat(fd)
    return status.st_dev, status.st_ino


def own_setgroups() -> str:
    """`"allow"` or `"deny"`, of the calling thread's user namespace."""
    return read_proc("thread-self/setgroups").strip()


def path_of(fd: int) -> str:
    """The path of what a descriptor is open on.

    Raises:
        UsernsError: step `open_proc`.
    """
    path = f"thread-self/fd/{fd}"
    with at_step("open_proc", f"/proc/{path}"):
        return read_link(-1, path)


def descriptor_path(fd: int, name: bytes = b"") -> bytes:
    """A path that leads through a descriptor, for `umount2(2)`, which accepts only a path.

    The path is proven when this returns. Later, another process that may mount in the mount
    namespace of the calling thread could mount over it (before Linux 6.12).

    Raises:
        UsernsError: step `open_proc`.
    """
    path_of(fd)
    return b"/proc/thread-self/fd/%d%s" % (fd, name and b"/" + name)


# ---- mounts ----

_MOUNTS = "thread-self/mountinfo"


class MountEntry:
    """A mount, by its line in `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`)."""

    __slots__ = ("device", "fs_type", "number", "options", "parent", "point", "propagation", "root", "super_options")

    def __init__(self, line: str) -> None:
        mount, _, super_block = line.partition(" - ")
        # The propagation is `shared:N`, `master:N`, `unbindable`; a private mount has none.
        number, parent, device, root, point, options, *self.propagation = mount.split(" ")
        fs_type, _, super_options = super_block.split(" ", 2)
        self.number, self.parent = int(number), int(parent)
        self.device = os.makedev(*map(int, device.split(":")))
        self.root, self.point, self.fs_type = map(_unescape, (root, point, fs_type))
        self.options, self.super_options = options.split(","), super_options.split(",")

    @property
    def peer_group(self) -> str | None:
        """The same for all mounts that are shared with each other."""
        return next((field for field in self.propagation if field.startswith("shared:")), None)

    @property
    def is_unbindable(self) -> bool:
        return "unbindable" in self.propagation

    @property
    def is_idmapped(self) -> bool:
        return "idmapped" in self.options


def _unescape(field: str) -> str:
    """Blanks and backslashes are octal numbers there."""
    first, *rest = field.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def open_mounts() -> OwnedFd:
    """The mounts of the calling thread's mount namespace, unread: a later read shows the state at its time."""
    try:
        return _core.open_proc(_MOUNTS, os.O_RDONLY)
    except OSError as error:
        raise proc_error("open_proc", error, f"/proc/{_MOUNTS}") from None


def read_mounts(mounts: int | None = None) -> list[MountEntry]:
    """*mounts*: a descriptor of `open_mounts()`, otherwise a new one."""
    if mounts is None:
        with open_mounts() as opened:
            return read_mounts(opened)
    with at_step("open_proc", _MOUNTS), open(mounts, "rb", closefd=False) as file:
        return [MountEntry(line) for line in os.fsdecode(file.read()).split("\n") if line]


# ---- processes ----


def read_status(process: str) -> dict[str, str]:
    """The fields of `/proc/PID/status`; *process*: a PID, or `thread-self`.

    Raises:
        UsernsError: step `open_proc`.
    """
    lines = read_proc(f"{process}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def name_in(directory: int, path: str) -> str:
    """The name of a process, by its `comm` in an open directory of `/proc`; -1: in `/proc`."""
    return printable(_bytes_in(directory, path).removesuffix(b"\n").decode(errors="backslashreplace"))


def process_name(pid: int) -> str:
    """Up to 15 bytes that the process itself has chosen; "gone" if it has ended."""
    try:
        return name_in(-1, f"{pid}/comm")
    except OSError:
        return "gone"


def pid_of(pidfd: int) -> int:
    """The PID of a pidfd's process, in the PID namespace that `/proc` was mounted for.

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
            read_link(-1, "thread-self")  # fails if there is no /proc, or one that does not show this thread
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
        owned = _system_calls.pidfd_open(process)
    except ProcessLookupError:
        raise _gone(process) from None
    except OSError as error:
        raise userns_error("open_proc", error.errno or 0, f"/proc/{process}") from None
    with owned as pidfd:
        yield pidfd


_PID_MAX = (1 << 31) - 1  # of pid_t


def read_state(proc_dir: int, path: str = "stat") -> tuple[str, bool]:
    """From `/proc/PID/stat`: the letter of the state, and whether it is a kernel thread.

    Raises:
        FileNotFoundError, ProcessLookupError: the process has ended.
        OSError: as `open(2)`; `EXDEV`: `/proc` is forged.
    """
    state, *fields = read_in(proc_dir, path).rpartition(")")[2].split()
    return state, bool(int(fields[5]) & PF_KTHREAD)


def _is_program(pid: int) -> bool:
    """Whether there is such a process, other than a kernel thread. The namespaces of a kernel thread
    are never wanted, and these have the low PIDs on a host, which are numbers of descriptors too."""
    with at_step("open_proc", f"/proc/{pid}/stat"):
        try:
            _, is_kernel_thread = read_state(-1, f"{pid}/stat")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return not is_kernel_thread


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


def read_id_map(proc_dir: int, name: str) -> IdMap:
    """`uid_map` or `gid_map`; empty while unwritten.

    Raises:
        UsernsError: it cannot be read; the step is *name*, or `open_proc`.
    """
    try:
        return IdMap.from_kernel(read_in(proc_dir, name))
    except OSError as error:
        raise proc_error(name, error) from None


# ---- namespaces of processes ----


def open_own_namespace(kind: str) -> OwnedFd:
    """Open the namespace of the calling thread.

    Raises:
        UsernsError: step `open_ns`, or `open_proc`; `ENOENT`: this kernel lacks the kind.
    """
    try:
        return _core.own_namespace(kind)
    except OSError as error:
        raise proc_error("open_ns", error, f"/proc/thread-self/ns/{kind}") from None


def open_namespace_of(pidfd: int, kind: str) -> OwnedFd:
    """Open by the pidfd alone (Linux 6.11); if that fails, by the link in `/proc`, whose error is clearer."""
    try:
        return _core.namespace_of(pidfd, kind)
    except OSError:
        pass
    with open_proc_dir_of(pidfd) as proc_dir:
        return _open_namespace_at(proc_dir, kind)


def _open_namespace_at(proc_dir: int, kind: str) -> OwnedFd:
    try:
        return _core.open_namespace_link(proc_dir, f"ns/{kind}")
    except OSError as error:
        if error.errno == ENOENT and is_known(kind):
            note = "The process has exited: a zombie is only in its user and PID namespace. Open it before."
            raise userns_error("open_ns", ESRCH, _path_of(proc_dir, kind), cause="process-gone", note=note) from None
        raise proc_error("open_ns", error, _path_of(proc_dir, kind)) from None


def is_known(kind: str) -> bool:
    """Whether this kernel has that kind of namespace."""
    try:
        open_own_namespace(kind).close()
    except FileNotFoundError:
        return False
    return True


def _path_of(proc_dir: int, kind: str) -> str:
    """For messages."""
    try:
        folder = read_link(-1, f"thread-self/fd/{proc_dir}").removesuffix(" (deleted)")
    except OSError:
        folder = ""
    return os.path.join(folder, "ns", kind)
