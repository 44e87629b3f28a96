"""`python -m usernsproc`, and the command of that name."""

from __future__ import annotations

import atexit
import gc
import os

TYPE_CHECKING = False  # `typing` takes long to load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

INTERRUPTED = 128 + 2  # as a shell has it for SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; Ctrl-C ends it without a traceback, also while it is being loaded."""
    try:
        from ._cli import main as command_line

        return command_line(argv)
    except KeyboardInterrupt:
        return INTERRUPTED


def leave() -> NoReturn:
    """Be the whole program, which ends soon: no search for unreachable objects, and at the end none for all others."""
    gc.disable()
    status = main()
    atexit._run_exitfuncs()  # all output has been written; this is for coverage and the like
    os._exit(status)


if __name__ == "__main__":
    leave()
