"""`python -m usernsproc`, and the command of that name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

INTERRUPTED = 128 + 2  # as a shell has it for SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; Ctrl-C ends it without a traceback, also while it is being loaded."""
    try:
        from ._cli import main as command_line

        return command_line(argv)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
