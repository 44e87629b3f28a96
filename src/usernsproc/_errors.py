"""The exceptions: the step that failed, its files, and the likely cause.

```
OSError
 └─ UsernsError               a system call failed: errno, strerror, filename, and the step
     ├─ UsernsPermissionError        also a PermissionError
     ├─ UsernsFileNotFoundError      also a FileNotFoundError
     ├─ UsernsProcessLookupError     also a ProcessLookupError
     └─ …                            one for each builtin subclass of OSError that occurs
ValueError
 └─ IdMapError                an id map is at fault, and which range of it
IdMapPermissionError          both: the kernel would answer EPERM to this map from this caller
MapToolError                  a UsernsPermissionError: newuidmap or newgidmap did not write a map
CredentialsError              a UsernsPermissionError and a ValueError: IDs that a command cannot have
```

The text of a `UsernsError` is one line, `STEP: STRERROR[: FILENAME[ -> FILENAME2]] [ERRNO, CAUSE]`.
"""

from __future__ import annotations

from errno import EACCES, EAGAIN, EDEADLK, EEXIST, EINTR, EISDIR, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM, ESRCH, errorcode

from ._text import printable
from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

__all__ = ["IdMapError", "IdMapPermissionError", "MapToolError", "UsernsError"]


class UsernsError(OSError):
    """A system call failed, at a named step.

    It is an `OSError` with `errno`, `strerror` and `filename`. For the errnos that have
    a builtin subclass it is an instance of that as well, so that `except PermissionError`
    and `except FileNotFoundError` work as usual. If a likely cause is known, `cause`
    names it and a note (PEP 678) gives the remedy.

    `str(error)` is one line with the step, the kernel's message, the file, the errno and
    the cause: `clone: No space left on device [ENOSPC, max-user-namespaces]`,
    `exec: No such file or directory: 'prog' [ENOENT]`. Characters that cannot be printed,
    such as a newline in a file name, are shown as escapes.
    """

    step: str | None
    """The operation that failed: `prepare` (everything that comes before the other steps),
    `memfd_create`, `pidfd_open`, `execveat`, `keyring`, `setns`, `owner`, `clone`,
    `open_proc`, `setgroups`, `uid_map`, `gid_map`, `newuidmap`, `newgidmap`, `open_ns`,
    `cgroup`, `on_created`, `stdio`, `propagation`, `mount_proc`, `chdir`, `setsid`,
    `setpgid`, `setid`, `init`, `capabilities`, `no_new_privs`, `exec`, `read_map`,
    `open_tree`, `mount_setattr`, `move_mount`, `mount_point`, `umount`, `statmount`,
    `chroot` or `output`."""

    cause: str | None
    """A stable identifier of the likely cause, or `None`."""

    setup_index: int | None = None
    """Of a set-up step: its place in the list that was given as `setup`. `step` is then the name of its
    class, such as `"Bind"`, and `filename` its path."""

    setup_step: str | None = None
    """Of a set-up step: its `repr()`."""

    call: str | None = None
    """Of a set-up step: the system call that failed."""

    def __new__(cls, *args: Any, step: str | None = None, cause: str | None = None) -> Self:  # noqa: ARG004
        if cls is UsernsError and args:
            cls = _subclasses.get(args[0], cls)  # type: ignore[assignment]
        return super().__new__(cls, *args)

    def __init__(self, *args: Any, step: str | None = None, cause: str | None = None) -> None:
        super().__init__(*args)
        self.step = step
        self.cause = cause

    def __str__(self) -> str:
        if self.step is None or self.errno is None:
            return super().__str__()
        files = [repr(name) for name in (self.filename, self.filename2) if name is not None]
        where = f": {' -> '.join(files)}" if files else ""
        code = NAMES.get(self.errno, str(self.errno))
        why = code if self.cause is None else f"{code}, {self.cause}"
        step = self.step if self.setup_index is None else f"setup[{self.setup_index}] {self.step}: {self.call}"
        return f"{step}: {printable(self.strerror or '')}{where} [{why}]"

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        if notes := state.get("__notes__"):
            state["__notes__"] = list(notes)  # a note that is added to the copy is not added to the original
        return (*super().__reduce__()[:2], state)


NAMES = {**errorcode, EOPNOTSUPP: "EOPNOTSUPP", EDEADLK: "EDEADLK"}
"""As in the manual pages, where an errno has two names."""


class IdMapError(ValueError):
    """An id map that the kernel would refuse, or would silently misread.

    Raised before anything is created. The message names the range at fault and
    the rule it breaks.
    """

    step: str | None = None
    """`uid_map` or `gid_map`, if it is known for which of the two the map was."""


class UsernsPermissionError(UsernsError, PermissionError): ...


class UsernsFileNotFoundError(UsernsError, FileNotFoundError): ...


class UsernsProcessLookupError(UsernsError, ProcessLookupError): ...


class UsernsBlockingIOError(UsernsError, BlockingIOError): ...


class UsernsFileExistsError(UsernsError, FileExistsError): ...


class UsernsInterruptedError(UsernsError, InterruptedError): ...


class UsernsIsADirectoryError(UsernsError, IsADirectoryError): ...


class UsernsNotADirectoryError(UsernsError, NotADirectoryError): ...


class IdMapPermissionError(UsernsPermissionError, IdMapError):
    """A map that is well-formed, but that this caller may not write.

    Its `errno` is `EPERM`, the kernel's own answer to it.
    """


class MapToolError(UsernsPermissionError):
    """`newuidmap` or `newgidmap` was called and did not write the map (step of the same name).

    The child that the map was for has been killed. `errno` is `EPERM`; a note has the likely
    cause and what the program printed.
    """

    returncode: int | None = None
    """Its exit status, `-N` when signal N ended it, `None` if it got lost."""

    stderr: str = ""
    """What it wrote to standard error."""


class CredentialsError(UsernsPermissionError, ValueError):
    """IDs in the namespace that the command cannot have with these maps.

    Its `errno` is `EPERM`, as when `Popen` may not set an ID: code that expects a
    `PermissionError` there need not know of maps.
    """


_subclasses: dict[int, type[UsernsError]] = {
    EPERM: UsernsPermissionError,
    EACCES: UsernsPermissionError,
    ENOENT: UsernsFileNotFoundError,
    ESRCH: UsernsProcessLookupError,
    EAGAIN: UsernsBlockingIOError,
    EEXIST: UsernsFileExistsError,
    EINTR: UsernsInterruptedError,
    EISDIR: UsernsIsADirectoryError,
    ENOTDIR: UsernsNotADirectoryError,
}
