"""A command in the foreground of a program that has something to do until it ends."""

from __future__ import annotations

import signal

from .._processes.process import UsernsProcess
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGWINCH,
)


def run_in_foreground(command: list[str], **options: Any) -> int:
    """The exit status that a shell would give: 128 + *n* for signal *n*."""
    # What is to be forwarded is blocked from before the command is there: only
    # sigwaitinfo() reports the sender.
    handled = [s for s in FORWARDED if signal.getsignal(s) != signal.SIG_IGN]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*handled, signal.SIGCHLD])
    mask = sum(1 << signum - 1 for signum in before)
    with _Command(command, signal_mask=mask, **options) as process:
        _forward_signals(process, handled)
        status = process.wait()
    return status if status >= 0 else 128 - status


class _Command(UsernsProcess[bytes]):
    """With a signal mask other than that of this program."""

    def __init__(self, *args: Any, signal_mask: int, **options: Any) -> None:
        self._signal_mask = signal_mask
        super().__init__(*args, **options)


SI_KERNEL = 0x80


def _forward_signals(process: UsernsProcess[bytes], handled: Sequence[int]) -> None:
    """Until the command has ended. What the terminal sends, it sends to the command as well."""
    while process.poll() is None:
        info = signal.sigwaitinfo([*handled, signal.SIGCHLD])
        if info.si_signo != signal.SIGCHLD and info.si_code != SI_KERNEL:
            process.send_signal(info.si_signo)
