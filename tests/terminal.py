"""A terminal with a program on it: what is typed, what it shows, and what happens when it is closed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from types import TracebackType
from typing import Self

A_HANG = 60


class Terminal:
    """The program is the leader of a session, as below `sshd` or a terminal emulator."""

    def __init__(self, *command: str, env: dict[str, str] | None = None) -> None:
        self.shown = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            try:
                os.execvpe(command[0], command, os.environ if env is None else env)
            finally:
                os._exit(99)
        self.status: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.hang_up()
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def hang_up(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait_for(self, pattern: str) -> str:
        """Until it is shown; what was shown up to there is forgotten. Returns the match."""
        deadline = time.monotonic() + A_HANG
        while (found := re.search(pattern, self.shown)) is None:
            assert select.select([self._fd], [], [], max(0, deadline - time.monotonic()))[0], self.shown
            try:
                self.shown += os.read(self._fd, 4096).decode(errors="replace")
            except OSError:  # EIO: no process has it open
                raise AssertionError(f"it ended, and showed {self.shown!r}") from None
        self.shown = self.shown[found.end() :]
        return found[0]

    def wait(self) -> int:
        """The exit status, -N for signal N."""
        deadline = time.monotonic() + A_HANG
        while self.status is None:
            if self._fd >= 0 and select.select([self._fd], [], [], 0.01)[0]:
                try:
                    self.shown += os.read(self._fd, 4096).decode(errors="replace")
                except OSError:
                    pass  # EIO: it ends
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, self.shown
        return self.status


def foreground_of(pid: int) -> int:
    """The process group in the foreground of the terminal of a process."""
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[5])
