"""From what `Popen` takes to what `execve(2)` takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from .._causes import userns_error
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

SHELL = "/bin/sh"
_LARGEST_INT = 2**31 - 1


class Command:
    """A command as the user gave it, with the shell put in front where asked for."""

    __slots__ = ("args", "executable")

    def __init__(self, args: Sequence[Any], executable: Any) -> None:
        self.args = args
        self.executable = executable

    @classmethod
    def of(cls, args: Any, executable: Any, shell: bool) -> Command:
        if shell and isinstance(args, os.PathLike):
            raise TypeError("path-like args is not allowed when shell is true")
        is_list = isinstance(args, list)  # determined faster than that it is not a path
        words: list[Any] = [args] if not is_list and isinstance(args, (str, bytes, os.PathLike)) else [*args]
        if shell:
            words = [executable or SHELL, "-c", *words]
        return cls(words, words[0] if executable is None else executable)

    def candidates(self, env: Mapping[Any, Any] | None) -> tuple[bytes, ...]:
        """The files to try, in the order of `PATH`: that of *env*, as in `os.execvpe`."""
        executable = os.fsencode(self.executable)
        if b"/" in executable:
            return (executable,)
        return tuple(os.path.join(os.fsencode(d), executable) for d in os.get_exec_path(env))


def environment(env: Mapping[Any, Any] | None) -> tuple[bytes, ...] | None:
    """`NAME=value` for each variable; `None`: the current environment."""
    if env is None:
        return None
    pairs: list[bytes] = []
    for name, value in env.items():
        key = os.fsencode(name)
        if b"=" in key:
            raise ValueError("illegal environment variable name")
        pairs.append(key + b"=" + os.fsencode(value))
    return tuple(pairs)


def descriptors_to_keep(pass_fds: Iterable[int] | None) -> tuple[int, ...]:
    """Ascending, each once. (`None`: none, as in `Popen` of Python 3.13.)

    Raises:
        ValueError: a number that cannot be a descriptor.
        OSError: a descriptor that is not open (`EBADF`).
    """
    if not pass_fds:
        return ()
    fds = tuple(sorted({int(fd) for fd in pass_fds}))
    for fd in fds:
        if not 0 <= fd <= _LARGEST_INT:
            raise ValueError(f"bad value(s) in pass_fds: {fd} is not a descriptor")
        try:
            os.get_inheritable(fd)
        except OSError as error:
            raise userns_error("stdio", error.errno or 0, note=f"pass_fds: {fd} is not an open descriptor.") from None
    return fds
