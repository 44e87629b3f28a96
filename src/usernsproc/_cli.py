"""The command line: `usernsproc run`.

Exit status: the command's own; 128 + n when signal n ended it; 125 for an error
of usernsproc itself, 126 when the command cannot be executed, 127 when it is not
found.
"""

from __future__ import annotations

import argparse
import grp
import os
import pwd
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from ._errors import UsernsError
from ._process import UsernsProcess

FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127

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


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        return run(options)
    except UsernsError as error:
        _complain(error)
        if error.step == "exec":
            return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        return FAILED
    except (OSError, ValueError, OverflowError) as error:
        _complain(error)
        return FAILED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(FAILED, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="usernsproc", description="Run programs in Linux user namespaces.")
    parser.add_argument("--version", action="version", version=metadata.version("usernsproc"))
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser(
        "run",
        help="run a command in a new user namespace",
        usage="usernsproc run [options] [--] COMMAND [ARGUMENT ...]",
        description="Run a command in a new user namespace. A MAP is inside:outside:count[,...], or "
        "'root' (own id is 0 inside) or 'current' (own id stays the same).",
        epilog="Exit status: the command's; 128+n for signal n; 125 error of usernsproc, 126 not executable, "
        "127 not found. Signals are forwarded.",
    )
    command.add_argument("--map", metavar="MAP", help="both id maps; without any map no id is mapped")
    command.add_argument("--uid-map", metavar="MAP", help="the user id map")
    command.add_argument("--gid-map", metavar="MAP", help="the group id map")
    command.add_argument("--user", metavar="ID", help="user id inside, or a name that is known outside")
    command.add_argument("--group", metavar="ID", help="likewise the group")
    command.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


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


def _complain(error: Exception) -> None:
    notes = getattr(error, "__notes__", ())
    text = f"usernsproc: {_in_words(error)}\n" + "".join(f"usernsproc: {note}\n" for note in notes[:1])
    sys.stderr.write(text)


def _in_words(error: Exception) -> str:
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    if not where and isinstance(error, UsernsError) and not isinstance(error, ValueError):
        where = f"{error.step}: "
    return f"{where}{error.strerror}"


if __name__ == "__main__":
    sys.exit(main())
