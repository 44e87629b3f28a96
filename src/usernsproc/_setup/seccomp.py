"""The step that installs a seccomp filter."""

from __future__ import annotations

import os
import struct

from .._typing import TYPE_CHECKING
from .._uapi import PR_SET_SECCOMP, SECCOMP_MODE_FILTER
from .calls import STORE_ADDRESS, Place
from .step import Phase, Step, descriptor, refuse, refuse_for_holder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import ClassVar

    from .._proc import HasFileno
    from .compiler import Emitter, Process

_INSTRUCTION = 8  # bytes of a struct sock_filter
_MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_READ_AT_ONCE = 1 << 16


class Seccomp(Step):
    """A filter for the system calls of the command: a BPF program, with `PR_SET_SECCOMP` of `prctl(2)`.

    Args:
        program: `bytes`, an array of `struct sock_filter` as `export_bpf` of libseccomp writes it; or a descriptor (a
            number or an object with `fileno()`), which is **read to the end when the step is made**.

    `usernsproc.setup.seccomp.deny` makes a program that refuses the system calls of a list.

    Several filters are installed in the order of the list, as the last thing before exec; the kernel obeys the
    strictest. Each must therefore allow what comes after it: `execve(2)`, if another filter follows `prctl(2)`, and
    to report a failing exec `write(2)`. If a filter refuses `execve(2)` with an errno, the error has the step `exec`;
    if it kills the process, the `returncode` is `-SIGSYS`.

    It sets `no_new_privs`: set-user-ID programs and file capabilities have no effect. Linux 5.4 or later.
    """

    __slots__ = ("program",)
    program: bytes
    phase: ClassVar[Phase] = Phase.SECCOMP

    def __init__(self, program: bytes | bytearray | memoryview | HasFileno | int) -> None:
        found = bytes(program) if isinstance(program, (bytes, bytearray, memoryview)) else self._read(program)
        if not found or len(found) % _INSTRUCTION:
            raise refuse(type(self), f"a program is instructions of {_INSTRUCTION} bytes each, not {len(found)} bytes")
        if len(found) > _MOST_INSTRUCTIONS * _INSTRUCTION:
            raise refuse(
                type(self),
                f"a program has at most {_MOST_INSTRUCTIONS} instructions, not {len(found) // _INSTRUCTION}",
            )
        self._set(program=found)

    def _read(self, program: HasFileno | int) -> bytes:
        fd = descriptor(self, "program", program)
        return b"".join(iter(lambda: os.read(fd, _READ_AT_ONCE), b""))

    def is_constant(self) -> bool:
        return True

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        refuse_for_holder(self, process)

    def emit(self, calls: Emitter) -> None:
        calls.setup.no_new_privs = True
        program = bytearray(struct.pack("@HP", len(self.program) // _INSTRUCTION, 0))  # struct sock_fprog
        calls.add(STORE_ADDRESS, Place(program, struct.calcsize("@HP") - struct.calcsize("P")), self.program)
        calls.add("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, Place(program))
