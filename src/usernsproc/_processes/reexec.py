"""A program that runs itself again in a user namespace."""

from __future__ import annotations

import os
import sys

from .._proc import own_namespace_identity
from .._typing import TYPE_CHECKING
from .become import ExecutedCommand

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._maps.idmap import IdMapLike
    from .options import ReexecOptions

_MARK = "USERNSPROC_REEXEC"
"""In the environment of the program when it runs again: device and inode of its user namespace, and its PID."""


def reexec(uid_map: IdMapLike | None = "rootless", **options: Unpack[ReexecOptions]) -> None:
    """Run this program again in a new user namespace, where it is root. When it runs there, return.

    The interpreter is executed once more, as by `execvp`, with the flags and arguments of the first time
    (`sys.orig_argv`). Call this at the beginning of the program, before it has changed the working directory or
    written anything; `-m`, `-c`, zip applications and entry points work as well. The PID, the environment, the
    standard streams and the terminal stay, and the exit status is that of the program.

    The environment variable `USERNSPROC_REEXEC` names the user namespace, and this function returns only in that one.
    So programs that are started there stay there too, and a value that names another namespace has no effect. A program
    that runs again and is not in the namespace gets an exception: there is no loop.

    Args:
        uid_map: as in `UsernsProcess`.
        options: those of `execvp` that do not concern the command: all except `executable`, `shell`, `user`, `group`,
            `extra_groups` and `join`.

    Raises:
        RuntimeError: the program was read from standard input, or the interpreter is embedded in another program, so
            that it cannot be run again; or it runs again, but in another user namespace.
        UsernsError, ValueError, TypeError: as `execvp`. The program is unchanged.

    Linux 5.4. See `execve(2)`, `user_namespaces(7)`.
    """
    namespace, _, pid = os.environ.get(_MARK, "").rpartition(":")
    if namespace and namespace == "{}:{}".format(*own_namespace_identity("user")):
        return
    if pid == str(os.getpid()):
        raise RuntimeError(f"reexec: the program runs again, but not in the user namespace of {_MARK}")
    _Again(_own_command(), False, {"pdeathsig": None, "executable": sys.executable, "uid_map": uid_map, **options})


class _Again(ExecutedCommand):
    def _variables(self, userns: tuple[int, int]) -> tuple[str, ...]:
        return (f"{_MARK}={userns[0]}:{userns[1]}:{os.getpid()}",)


def _own_command() -> list[str]:
    if not sys.executable or not sys.orig_argv:
        raise RuntimeError("reexec: the interpreter is embedded in a program that is not known. Use execvp()")
    if sys.argv[:1] in ([""], ["-"]):
        raise RuntimeError("reexec: the program was read from standard input, and cannot be read again")
    return sys.orig_argv
