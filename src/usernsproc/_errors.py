"""What goes wrong, and how it is told.

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
CredentialsError              a UsernsPermissionError and a ValueError: ids that a command cannot take
```
"""

from __future__ import annotations

import os
from errno import EACCES, EAGAIN, EEXIST, EINTR, EISDIR, ENOENT, ENOTDIR, EPERM, ESRCH

from ._causes import CAUSES, CREDENTIALS_REMEDIES, REMEDIES

TYPE_CHECKING = False  # typing takes longer to load than this package
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

    from ._maps.idmap import IdRange

__all__ = ["IdMapError", "IdMapPermissionError", "MapToolError", "UsernsError"]


class UsernsError(OSError):
    """A system call failed, at a named step.

    It is an `OSError` with `errno`, `strerror` and `filename`, and for the errnos
    that have one it is the builtin subclass as well, so that `except
    PermissionError` and `except FileNotFoundError` work as ever. Where a likely
    cause is known, `cause` names it and a note (PEP 678) tells the remedy.
    """

    step: str | None
    """The operation that failed: `setns`, `owner`, `clone`, `open_proc`, `setgroups`,
    `uid_map`, `gid_map`, `newuidmap`, `newgidmap`, `open_ns`, `cgroup`, `on_created`,
    `stdio`, `propagation`, `mount_proc`, `chdir`, `setsid`, `setpgid`, `setid`, `init`,
    `keyring`, `capabilities`, `no_new_privs`, `exec`, `read_map`, `open_tree`, `mount_setattr`,
    `move_mount`, `mount_point`, `umount`, `statmount`, `chroot`, `loopback`, or `prepare`
    for what comes before all of them."""

    cause: str | None
    """A stable identifier of the likely cause, or `None`."""

    def __new__(cls, *args: Any, step: str | None = None, cause: str | None = None) -> Self:  # noqa: ARG004
        if cls is UsernsError and args:
            cls = _subclasses.get(args[0], cls)  # type: ignore[assignment]
        return super().__new__(cls, *args)

    def __init__(self, *args: Any, step: str | None = None, cause: str | None = None) -> None:
        super().__init__(*args)
        self.step = step
        self.cause = cause

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__()[:2], self.__dict__)


class IdMapError(ValueError):
    """An id map that the kernel would refuse, or would silently misread.

    Raised before anything is created. The message names the range at fault and
    the rule it breaks.
    """

    step: str | None = None
    """`uid_map` or `gid_map` where it is known which of the two is meant."""


class UsernsPermissionError(UsernsError, PermissionError):
    pass


class UsernsFileNotFoundError(UsernsError, FileNotFoundError):
    pass


class UsernsProcessLookupError(UsernsError, ProcessLookupError):
    pass


class UsernsBlockingIOError(UsernsError, BlockingIOError):
    pass


class UsernsFileExistsError(UsernsError, FileExistsError):
    pass


class UsernsInterruptedError(UsernsError, InterruptedError):
    pass


class UsernsIsADirectoryError(UsernsError, IsADirectoryError):
    pass


class UsernsNotADirectoryError(UsernsError, NotADirectoryError):
    pass


class IdMapPermissionError(UsernsPermissionError, IdMapError):
    """A map that is well-formed, but that this caller may not write.

    Its `errno` is `EPERM`, the kernel's own answer to it.
    """


class MapToolError(UsernsPermissionError):
    """`newuidmap` or `newgidmap` was called and did not write the map (step of the same name).

    A child that was being made for it is gone. `errno` is `EPERM`; a note has what the
    program said, and the likely cause.
    """

    returncode: int | None = None
    """Its exit status, `-N` when signal N ended it, `None` where it got lost."""

    stderr: str = ""
    """What it wrote to standard error."""


class CredentialsError(UsernsPermissionError, ValueError):
    """Ids inside that the command cannot take, as the maps are.

    Its `errno` is `EPERM`, as when `Popen` may not take an id: code that expects a
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


def userns_error(
    step: str,
    errno: int,
    filename: object = None,
    *,
    cause: str | None = None,
    note: str | None = None,
) -> UsernsError:
    """The exception for a failed step; with the likely cause of the table where none is given."""
    if cause is None and note is None:
        cause, note = CAUSES.get((step, errno), (None, None))
    error = UsernsError(errno, os.strerror(errno), filename, step=step, cause=cause)
    if note is not None:
        error.add_note(note)
    elif filename is None:
        error.add_note(f"It failed at the step {step}.")
    return error


class Objection:
    """A range that would not be taken from this caller (`None`: the map as a whole), and why."""

    __slots__ = ("cause", "id_range", "reason", "user")

    def __init__(self, id_range: IdRange | None, cause: str, reason: str, user: str = "USER") -> None:
        self.id_range = id_range
        self.cause = cause
        self.reason = reason
        self.user = user
        """Who is meant, for commands in the remedy."""


def refusal(step: str, objection: Objection) -> IdMapPermissionError:
    """What the kernel's EPERM for a map would mean, before it is asked."""
    where = step if objection.id_range is None else f"{step} range {objection.id_range}"
    error = IdMapPermissionError(
        EPERM, f"{os.strerror(EPERM)}: {where}: {objection.reason}", step=step, cause=objection.cause
    )
    error.add_note(REMEDIES[objection.cause].replace("USER", objection.user))
    return error


def credentials_error(step: str, reason: str, cause: str, *, remedy: str | None = None) -> CredentialsError:
    """Ids that the kernel would refuse with EPERM or EINVAL, before it is asked; step `setid` or `owner`."""
    error = CredentialsError(EPERM, f"{os.strerror(EPERM)}: {reason}", step=step, cause=cause)
    error.add_note(remedy or CREDENTIALS_REMEDIES[step, cause])
    return error


def closed_error(what: str) -> ValueError:
    """For an operation on an object whose descriptor is gone, as files have it."""
    return ValueError(f"operation on a closed {what}")
