"""`usernsproc run`: a command in a new user namespace."""

from __future__ import annotations

import argparse
import grp
import pwd
import signal
from collections.abc import Callable, Sequence
from typing import Any

from .._mapwriter import SETGROUPS
from .._process import UsernsProcess

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


def add_to(commands: Any) -> None:
    """The parser of this command."""
    command = commands.add_parser(
        "run",
        help="run a command in a new user namespace",
        usage="usernsproc run [options] [--] COMMAND [ARGUMENT ...]",
        description="Run a command in a new user namespace. A MAP is inside:outside:count[,...], or "
        "'root' (own id is 0 inside), 'current' (own id stays the same), 'rootless' (own id is 0, subordinate ids "
        "from 1 on), 'subids' (subordinate ids from 0 on) or 'all' (each id stays the same). "
        "'usernsproc map MAP' shows what a preset is for you.",
        epilog="Exit status: the command's; 128+n for signal n; 125 error of usernsproc, 126 not executable, "
        "127 not found. Signals are forwarded.",
    )
    command.add_argument("--map", metavar="MAP", help="both id maps; without any map no id is mapped")
    command.add_argument("--uid-map", metavar="MAP", help="the user id map")
    command.add_argument("--gid-map", metavar="MAP", help="the group id map")
    command.add_argument(
        "--setgroups", choices=SETGROUPS, help="whether setgroups(2) may be called; by default what the map needs"
    )
    command.add_argument("--user", metavar="ID", help="user id inside, or a name that is known outside")
    command.add_argument("--group", metavar="ID", help="likewise the group")
    command.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise ValueError("run: which command? Try 'usernsproc run --help'.")
    # What is to be forwarded is blocked from before the command is there: only
    # sigwaitinfo() tells who sent it.
    handled = [s for s in FORWARDED if signal.getsignal(s) != signal.SIG_IGN]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*handled, signal.SIGCHLD])
    process = _Command(
        command,
        uid_map=options.map if options.uid_map is None else options.uid_map,
        gid_map=options.map if options.gid_map is None else options.gid_map,
        setgroups=options.setgroups,
        user=_id(options.user, lambda name: pwd.getpwnam(name).pw_uid),
        group=_id(options.group, lambda name: grp.getgrnam(name).gr_gid),
        signal_mask=sum(1 << signum - 1 for signum in before),
    )
    with process:
        _forward_signals(process, handled)
        status = process.wait()
    return status if status >= 0 else 128 - status


class _Command(UsernsProcess[bytes]):
    """With a signal mask other than that of this program."""

    def __init__(self, *args: Any, signal_mask: int, **options: Any) -> None:
        self._signal_mask = signal_mask
        super().__init__(*args, **options)

    def _start(self, filenames: dict[str, Any]) -> None:
        self._plan.signal_mask = self._signal_mask
        super()._start(filenames)


SI_KERNEL = 0x80


def _forward_signals(process: UsernsProcess[bytes], handled: Sequence[int]) -> None:
    """Until the command has ended. What the terminal sends, it sends to the command as well."""
    while process.poll() is None:
        info = signal.sigwaitinfo([*handled, signal.SIGCHLD])
        if info.si_signo != signal.SIGCHLD and info.si_code != SI_KERNEL:
            process.send_signal(info.si_signo)


def _id(text: str | None, number_of: Callable[[str], int]) -> int | None:
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return number_of(text)
    except KeyError:
        raise ValueError(f"{text}: no such name on this system") from None
