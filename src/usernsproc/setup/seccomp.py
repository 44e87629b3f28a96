"""Seccomp programs for the step `Seccomp`, made by libseccomp.

It requires the extra `seccomp` (`pip install usernsproc[seccomp]`), which is the package `pyseccomp`, and the library
libseccomp (Debian: `libseccomp2`).
"""

from __future__ import annotations

import errno as errnos
import importlib
import platform
import tempfile
from collections.abc import Iterable
from typing import Any

__all__ = ["deny"]

_FURTHER = {"x86_64": ("X86", "X32"), "aarch64": ("ARM",), "s390x": ("S390",)}
"""Architectures whose system calls a process can make as well, by the names that libseccomp gives them."""
_UNKNOWN = -1  # other negative numbers are calls of other architectures alone


def deny(names: Iterable[str], *, errno: int = errnos.EPERM) -> bytes:
    """A program that refuses these system calls, and allows all others.

    Args:
        names: as in `syscalls(2)`. **Exactly these**: a list that has `mount` needs `move_mount` as well, and one that
            has `clone` also `clone3`.
        errno: what a refused call fails with.

    The program is for all architectures of this machine: on x86-64 also for the system calls of i386 and x32.

    Raises:
        ValueError: libseccomp does not know the name.
        ModuleNotFoundError: the package `pyseccomp` is missing.
        RuntimeError: the library libseccomp is missing.
    """
    if isinstance(names, str):
        raise TypeError(f"deny takes several names, not one string: [{names!r}]")
    try:
        pyseccomp: Any = importlib.import_module("pyseccomp")  # it has no types
    except ModuleNotFoundError as error:
        error.add_note("Install the extra: pip install 'usernsproc[seccomp]'.")
        raise
    program = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _FURTHER.get(platform.machine(), ()):
        program.add_arch(getattr(pyseccomp.Arch, name))
    for name in names:
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        if number == _UNKNOWN:
            raise ValueError(f"deny: libseccomp does not know the system call {name!r}")
        program.add_rule(pyseccomp.ERRNO(errno), number)
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()
