"""What a command prints: also where that is cut short, or written with few characters."""

from __future__ import annotations

import os
import sys

from .._errors import userns_error

_PLAIN = str.maketrans("…·─│├└", "-.-||`")
"""For what is drawn, where the encoding of standard output lacks it."""


def columns() -> int | None:
    """Of the terminal that standard output is, `None` where it is none."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (AttributeError, OSError, ValueError):  # none at all, no terminal, or not even a file
        return None


def write_out(text: str) -> None:
    """Write to standard output. A reader that exits early (`head`) is not an error.

    Raises:
        UsernsError: step `output`: `ENOSPC` and the like.
    """
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise ValueError("standard output is closed")
    try:
        text.encode(sys.stdout.encoding or "utf-8", sys.stdout.errors or "strict")
    except UnicodeEncodeError:
        text = text.translate(_PLAIN)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Python would fail once more when it exits.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
        if not isinstance(error, BrokenPipeError):
            raise userns_error("output", error.errno or 0) from None
