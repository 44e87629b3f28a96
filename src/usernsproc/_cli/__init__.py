"""The command line: one module for each command.

Exit status: the command's own; 128 + n when signal n ended it; 125 for an error
of usernsproc itself, 126 when the command cannot be executed, 127 when it is not
found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any

from .. import __version__
from .._errors import UsernsError
from .._text import printable
from . import create, doctor, enter, ls, map, mount, run, umount
from .output import write_error, write_out

FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127

COMMANDS = (run, enter, create, ls, map, mount, umount, doctor)
"""In the order of the help. Each has `add_to(commands)`, which makes its parser and
sets `run`, called with the parsed options, as a default."""


def main(argv: Sequence[str] | None = None) -> int:
    try:
        options = _parser().parse_args(argv)
        status: int = options.run(options)
    except UsernsError as error:
        _complain(error)
        if error.step == "exec":
            return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        return FAILED
    except (OSError, ValueError, OverflowError) as error:
        _complain(error)
        return FAILED
    return status


class _Parser(argparse.ArgumentParser):
    first: Callable[[list[str], argparse.Namespace], list[str]] | None = None
    """Takes the arguments that argparse cannot, and returns the others."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.first is not None:
            namespace = namespace or argparse.Namespace()
            try:
                args = self.first(args, namespace)
            except ValueError as error:
                self.error(str(error))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(FAILED, f"{self.prog}: {printable(message)}\nTry '{self.prog} --help'.\n")

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:  # type: ignore[override]
        if file is sys.stdout:
            write_out(message)
        else:
            write_error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="usernsproc", description="Run programs in Linux user namespaces.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def _complain(error: Exception) -> None:
    """The error on one line, its notes on another."""
    notes = " ".join(line for note in getattr(error, "__notes__", ()) for line in note.splitlines())
    write_error("".join(f"usernsproc: {printable(line)}\n" for line in (str(error), notes) if line))
