"""Steps that concern the terminal and the descriptors of the command."""

from __future__ import annotations

import fcntl
import os
import signal
import termios
from collections.abc import Iterable, Mapping
from functools import partial

from .. import _core
from .._typing import TYPE_CHECKING
from .calls import ANY_MEMORY, Place
from .step import Phase, Step, descriptor, number, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, ClassVar

    from .._core import OwnedFd
    from .compiler import Emitter, Process


class ControllingTerminal(Step):
    """The controlling terminal of the command: `TIOCSCTTY`. Requires `start_new_session=True`.

    Args:
        fd: a descriptor of the terminal, usually the terminal side of `pty.openpty()`, or an object with `fileno()`.

    The process group of the command becomes the foreground group of the terminal. A terminal that another
    session has is not taken away from it: `EPERM`. See `ioctl_tty(2)`, `credentials(7)`. Linux 5.4 or later.
    """

    __slots__ = ("fd",)
    fd: int
    phase = Phase.TERMINAL
    for_command: ClassVar[bool] = True

    def __init__(self, fd: Any) -> None:
        self._set(fd=descriptor(self, "fd", fd))

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        if not process.options["start_new_session"]:
            raise refuse(self, "only the leader of a session gets a terminal: start_new_session=True")
        if sum(isinstance(step, ControllingTerminal) for step in steps) > 1:
            raise refuse(self, "there is another ControllingTerminal in the list")

    def emit(self, calls: Emitter) -> None:
        calls.add("ioctl", calls.keep(self.fd), termios.TIOCSCTTY, 0, needs=ANY_MEMORY)


class Foreground(Step):
    """The command is in the foreground of its terminal: `tcsetpgrp(3)`.

    Args:
        fd: a descriptor of the controlling terminal, or an object with `fileno()`.

    Requires a process group of its own, in the session of the caller (`process_group=0`), or in a new one
    with `ControllingTerminal`.

    If the terminal is also the controlling terminal of the caller, the process group that was in the foreground
    before is put back when the command has ended and the object knows its return code (`wait`, `poll`, `close`), or
    when the command cannot be started. It is not after `detach_pidfd`. With `init=True`, the command is in the
    foreground, and the init is not. See `tcsetpgrp(3)`. Linux 5.4 or later.
    """

    __slots__ = ("fd",)
    fd: int
    phase = Phase.FOREGROUND
    for_command: ClassVar[bool] = True

    def __init__(self, fd: Any) -> None:
        self._set(fd=descriptor(self, "fd", fd))

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        if process.options["start_new_session"]:
            if not any(isinstance(step, ControllingTerminal) for step in steps):
                raise refuse(self, "a new session has no terminal: add ControllingTerminal")
        elif process.options["process_group"] < 0:
            raise refuse(self, "the command needs a process group of its own: process_group=0")

    def emit(self, calls: Emitter) -> None:
        terminal = calls.keep(self.fd)
        group = calls.add("getpgid", 0, needs=ANY_MEMORY)
        calls.add("ioctl", terminal, termios.TIOCSPGRP, Place(group), needs=ANY_MEMORY)
        try:
            before = os.tcgetpgrp(terminal)
        except OSError:  # it is not the caller's
            return
        calls.setup.at_end.append(partial(_put_back, _core.dup(terminal), before))


def _put_back(terminal: OwnedFd, group: int) -> None:
    """As from the background, where this stops a process that does not block `SIGTTOU`."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
    try:
        os.tcsetpgrp(terminal.fileno(), group)
    except OSError:
        pass  # the group or the terminal does not exist any more
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        terminal.close()


_LEAST_TARGET = 3


class Descriptors(Step):
    """Descriptors of the caller under fixed numbers: `dup3(2)`.

    Args:
        fds: for each number from 3 on, in the command, a descriptor of the caller or an object with `fileno()`.

    All of them are copies of the descriptors as they are when the command is started, so `{3: 4, 4: 3}`
    exchanges two. They are inheritable. 0, 1 and 2 are `stdin`, `stdout` and `stderr` of `Popen`. With
    `pass_fds`, a descriptor has the same number in the command as in the caller. Linux 5.4 or later.
    """

    __slots__ = ("fds",)
    fds: tuple[tuple[int, int], ...]
    phase = Phase.DESCRIPTORS
    for_command: ClassVar[bool] = True

    def __init__(self, fds: Mapping[int, Any] | Iterable[tuple[int, Any]]) -> None:
        pairs: dict[Any, Any] = dict(fds)
        if not pairs:
            raise refuse(type(self), "there is no descriptor")
        for target in pairs:
            if number(self, "a target", target, 0, 2**31 - 2) < _LEAST_TARGET:
                raise refuse(type(self), f"descriptor {target} of the command is stdin=, stdout= or stderr=")
        self._set(fds=tuple(sorted((int(target), descriptor(self, "a source", fd)) for target, fd in pairs.items())))

    @property
    def least_fd(self) -> int:
        return self.fds[-1][0] + 1

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        if sum(isinstance(step, Descriptors) for step in steps) > 1:
            raise refuse(self, "there is another Descriptors in the list")
        for target, _ in self.fds:
            if target in process.options["pass_fds"]:
                raise refuse(self, f"{target} is also in pass_fds")

    def emit(self, calls: Emitter) -> None:
        for target, fd in self.fds:
            source = calls.keep(fd)
            # From the beginning on no other call gets the number, as the descriptor that it returns.
            calls.add("fcntl", source, fcntl.F_DUPFD_CLOEXEC, target, phase=Phase.NAMES, needs=ANY_MEMORY)
            calls.add("dup3", source, target, 0, needs=ANY_MEMORY)
