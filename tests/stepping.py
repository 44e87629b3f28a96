"""A program that makes one call of the library and is stopped at each of its system calls, with `ptrace(2)`."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import native
from typing_extensions import Self

PTRACE_DETACH, PTRACE_SYSCALL, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 24, 0x4206, 0x4207
PTRACE_O_TRACESYSGOOD, PTRACE_O_TRACEEXEC, PTRACE_O_EXITKILL = 1, 1 << 4, 1 << 20
SYSCALL_STOP = signal.SIGTRAP | 0x80
WALL = 0x40000000
"""Also children with exit signal 0."""

_ptrace = native.libc.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.0005)


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


class Stepped:
    """A forked copy of this program that calls *call*, and is killed at the end of the block.

    *prepare* runs in it first, and its result is passed to *call*. With *reaps*, a thread of it reaps
    every child as soon as it exits, without the GIL: also while the main thread is stopped.
    """

    def __init__(self, prepare: Callable[[], object], call: Callable[[object], object], *, reaps: bool = False) -> None:
        started, go = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                prepared = prepare()
                if reaps:
                    _reap_children()
                os.write(started[1], b"x")
                os.read(go[0], 1)
                call(prepared)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        self.status: int | None = None
        self.is_stepped = True
        try:
            os.close(started[1])
            assert os.read(started[0], 1) == b"x", "it could not be prepared"
            self.first_children = children_of(self.pid)
            native.must(_ptrace(PTRACE_SEIZE, self.pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL))
            native.must(_ptrace(PTRACE_INTERRUPT, self.pid, 0, 0))
            assert self._next_stop(), "it ended before it was called"
            os.write(go[1], b"x")
        finally:
            for fd in (started[0], *go):
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, WALL)

    def step(self) -> bool:
        """Go past the next system call. Return whether the process has not exited."""
        for _ in ("to its beginning", "to its end"):
            native.must(_ptrace(PTRACE_SYSCALL, self.pid, 0, 0))
            if not self._next_stop():
                return False
        return True

    def _next_stop(self) -> bool:
        while True:
            _, status = os.waitpid(self.pid, WALL)
            if not os.WIFSTOPPED(status):
                self.status = os.waitstatus_to_exitcode(status)
                return False
            if os.WSTOPSIG(status) == SYSCALL_STOP or status >> 16:
                return True
            native.must(_ptrace(PTRACE_SYSCALL, self.pid, 0, os.WSTOPSIG(status)))

    def step_until_it_has_a_child(self) -> int:
        while not (found := [pid for pid in children_of(self.pid) if pid not in self.first_children]):
            assert self.step(), f"it made no child: {self.status}"
        return found[0]

    def interrupt_exec_of(self, child: int, seconds: float) -> None:
        """Let both continue, and stop the child for a time when it has just executed another program."""
        native.must(_ptrace(PTRACE_SEIZE, child, 0, PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL))
        self.run_on()
        os.waitpid(child, WALL)
        time.sleep(seconds)
        native.must(_ptrace(PTRACE_DETACH, child, 0, 0))

    def run_on(self) -> None:
        self.is_stepped = False
        native.must(_ptrace(PTRACE_DETACH, self.pid, 0, 0))

    def ends_with(self, seconds: float = 20) -> int:
        """Let it continue, and return its exit status."""
        if self.status is None:
            if self.is_stepped:
                self.run_on()
            found = (0, 0)

            def has_ended() -> bool:
                nonlocal found
                found = os.waitpid(self.pid, os.WNOHANG)
                return found[0] != 0

            wait_until(has_ended, seconds)
            self.status = os.waitstatus_to_exitcode(found[1])
        return self.status


def _reap_children() -> None:
    """Reap children. A first child, which exits with this process, keeps the thread in `waitpid(2)` meanwhile."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)

    def reap() -> None:
        while True:
            os.waitpid(-1, WALL)

    threading.Thread(target=reap, daemon=True).start()
