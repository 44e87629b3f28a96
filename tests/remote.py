"""System calls made by another process of this user, for what the kernel shows only to that process.

The process is stopped with `ptrace(2)` in a system call, makes another one, and continues as if it had
not been stopped. x86-64.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from types import TracebackType
from typing import TypeAlias

from native import libc, must
from typing_extensions import Self

IS_SUPPORTED = os.uname().machine == "x86_64"

PTRACE_PEEKDATA, PTRACE_POKEDATA, PTRACE_CONT, PTRACE_SINGLESTEP, PTRACE_GETREGS, PTRACE_SETREGS = 2, 5, 7, 9, 12, 13
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000
SYSCALL = 0x050F  # the instruction, as it lies in memory
RED_ZONE = 4096

Argument: TypeAlias = int | bytes | None
"""`None` stands for the address of memory that the call fills."""

libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


class Registers(ctypes.Structure):
    """`struct user_regs_struct`."""

    _fields_ = [
        (name, ctypes.c_ulong)
        for name in (  # noqa: SIM905, one string reads better than 27
            "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base "
            "ds es fs gs"
        ).split()
    ]
    r15: int
    rax: int
    orig_rax: int
    rip: int
    rsp: int


IN_ORDER = ("rdi", "rsi", "rdx", "r10", "r8", "r9")


class Here:
    """The calling process, with the same methods."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def call(self, number: int, *arguments: Argument) -> tuple[int, int]:
        """Return the result, negative for an errno, and the first word that was filled."""
        memory = (ctypes.c_int * 32)()
        given = [ctypes.byref(memory) if argument is None else argument for argument in arguments]
        result = libc.syscall(number, *given)
        return (result if result >= 0 else -ctypes.get_errno()), memory[0]


class There:
    """A child of the calling process. In the block it is stopped between two calls."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __enter__(self) -> Self:
        self._trace(PTRACE_SEIZE)
        self._trace(PTRACE_INTERRUPT)
        self._wait()
        self._before = self._registers()
        while self._peek(self._before.rip - 2) & 0xFFFF != SYSCALL:  # it computes
            self._trace(PTRACE_CONT)
            time.sleep(0.01)
            self._trace(PTRACE_INTERRUPT)
            self._wait()
            self._before = self._registers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._trace(PTRACE_SETREGS, 0, ctypes.addressof(self._before))
        self._trace(PTRACE_DETACH)

    def call(self, number: int, *arguments: Argument) -> tuple[int, int]:
        registers = Registers.from_buffer_copy(self._before)
        registers.rip -= 2
        registers.rax = number
        registers.orig_rax = 2**64 - 1
        word = free = self._before.rsp - RED_ZONE
        self._poke(word, b"")
        for register, argument in zip(IN_ORDER, arguments, strict=False):
            if isinstance(argument, bytes):
                free -= RED_ZONE
                self._poke(free, argument)
                setattr(registers, register, free)
            else:
                setattr(registers, register, word if argument is None else argument % 2**64)
        self._trace(PTRACE_SETREGS, 0, ctypes.addressof(registers))
        self._trace(PTRACE_SINGLESTEP)
        self._wait()
        return ctypes.c_long(self._registers().rax).value, ctypes.c_int(self._peek(word)).value

    def _trace(self, request: int, address: int = 0, data: int = 0) -> int:
        ctypes.set_errno(0)
        return must(libc.ptrace(request, self.pid, address, data))

    def _wait(self) -> None:
        _, status = os.waitpid(self.pid, WALL)
        assert os.WIFSTOPPED(status), status
        assert os.WSTOPSIG(status) == signal.SIGTRAP, status

    def _registers(self) -> Registers:
        registers = Registers()
        self._trace(PTRACE_GETREGS, 0, ctypes.addressof(registers))
        return registers

    def _peek(self, address: int) -> int:
        ctypes.set_errno(0)
        value = int(libc.ptrace(PTRACE_PEEKDATA, self.pid, address, 0))
        if value == -1 and ctypes.get_errno():
            raise OSError(ctypes.get_errno(), "PTRACE_PEEKDATA")
        return value

    def _poke(self, address: int, data: bytes) -> None:
        data += bytes(9)  # a NUL at least
        for at in range(0, len(data) - 8, 8):
            self._trace(PTRACE_POKEDATA, address + at, int.from_bytes(data[at : at + 8], "little"))
