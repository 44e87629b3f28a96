"""The command line: one module for each command, which is loaded when it is used.

Exit status: the command's own; 128 + n when signal n ended it; 125 for an error
of usernsproc itself, 126 when the command cannot be executed, 127 when it is not
found.
"""

from __future__ import annotations

import sys
from importlib import import_module

from .._errors import UsernsError
from .._text import printable
from .._typing import TYPE_CHECKING
from .options import UsageError
from .output import write_error, write_out
from .parser import HelpWanted, parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127

COMMANDS = ("run", "enter", "create", "unpin", "ls", "map", "mount", "umount", "doctor")
"""In the order of the help. Each is a module with `COMMAND`, and `run`, which is called with the parsed options."""


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    name = words.pop(0) if words else ""
    try:
        return _run(name, words)
    except UsageError as error:
        program = f"usernsproc {name}" if name in COMMANDS else "usernsproc"
        write_error(f"{program}: {printable(str(error))}\nTry '{program} --help'.\n")
    except UsernsError as error:
        _complain(error)
        if error.step == "exec":
            return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    except (OSError, ValueError, OverflowError) as error:
        _complain(error)
    return FAILED


def _run(name: str, arguments: list[str]) -> int:
    if name in COMMANDS:
        module = module_of(name)
        try:
            options = parse(module.COMMAND, arguments)
        except HelpWanted:
            from .help import help_of

            write_out(help_of(module.COMMAND))
            return 0
        status: int = module.run(options)
        return status
    if name in ("--help", "-h"):
        from .help import overview

        write_out(overview([module_of(name).COMMAND for name in COMMANDS]))
    elif name == "--version":
        from .. import __version__

        write_out(f"{__version__}\n")
    else:
        raise _unknown(name)
    return 0


def module_of(name: str) -> Any:
    return import_module(f".{name}", __name__)


def _unknown(name: str) -> UsageError:
    if not name:
        return UsageError(f"which command? {', '.join(COMMANDS)}")
    from .._suggest import closest

    like = closest(name, (*COMMANDS, "--help", "--version"))
    return UsageError(f"{name}: there is no such command" + (f"; did you mean {like}?" if like else ""))


def _complain(error: Exception) -> None:
    """The error on one line, its notes on another. The parameter that is missing is shown as its option."""
    import re  # only for an error

    notes = " ".join(line for note in getattr(error, "__notes__", ()) for line in note.splitlines())
    text = re.sub(r'namespaces=\("([a-z]+)",\)', r"--namespaces \1", str(error))
    write_error("".join(f"usernsproc: {printable(line)}\n" for line in (text, notes) if line))
