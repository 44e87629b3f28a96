"""What a command prints: also where that is cut short, or written with few characters."""

from __future__ import annotations

import os
import sys

from .._causes import userns_error
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TextIO

_PLAIN = str.maketrans("…·─│├└", "-.-||`")
"""For drawings, if the encoding of standard output lacks it."""


def columns() -> int | None:
    """Of the terminal that standard output is, `None` if it is not a terminal."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (AttributeError, OSError, ValueError):  # none at all, no terminal, or not even a file
        return None


def write_out(text: str) -> None:
    """Write to standard output. A reader that exits early (`head`) is not an error.

    Raises:
        ValueError: it is closed.
        UsernsError: step `output`: `ENOSPC` and the like.
    """
    stream: TextIO | None = sys.stdout
    if stream is None:
        raise ValueError("standard output is closed")
    try:
        stream.write(_encodable(text, stream))
        stream.flush()
    except BrokenPipeError:
        _give_up(stream)
    except OSError as error:
        _give_up(stream)
        raise userns_error("output", error.errno or 0) from None


def write_json(document: Any) -> None:
    """Write an object as JSON; raises as `write_out`."""
    import json  # only a few commands need it

    write_out(json.dumps(document, indent=2) + "\n")


def has_colours() -> bool:
    """Whether standard output may have them: `NO_COLOR`, `FORCE_COLOR`, `TERM`, or else if it is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") != "dumb" and sys.stdout is not None and sys.stdout.isatty()


def write_error(text: str) -> None:
    """Write to standard error, if there is any; that something else failed matters more than that this does."""
    stream: TextIO | None = sys.stderr
    if stream is None:
        return
    try:
        stream.write(_encodable(text, stream))
        stream.flush()
    except OSError:
        _give_up(stream)


def _encodable(text: str, stream: TextIO) -> str:
    """The text, with escapes for characters that the stream's encoding lacks: an 8-bit locale, say."""
    encoding, errors = stream.encoding or "utf-8", stream.errors or "strict"
    for candidate in (text, text.translate(_PLAIN)):
        try:
            candidate.encode(encoding, errors)
        except UnicodeEncodeError:
            continue
        return candidate
    return text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)


def _give_up(stream: TextIO) -> None:
    """Python would try to write the rest once more when it exits, and fail again."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)
