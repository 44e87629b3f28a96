"""Names that others chose, as text that can be shown."""

from __future__ import annotations

from . import _core


def printable(text: str) -> str:
    """The text on one line, with escapes for what a terminal would obey and for what is not a character."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def process_name(pid: int) -> str:
    """Up to 15 bytes that the process has chosen itself; "gone" when it has ended."""
    try:
        return name_in(-1, f"{pid}/comm")
    except OSError:
        return "gone"


def name_in(directory: int, path: str) -> str:
    """Of a process, by its file in an open directory of `/proc`; -1: in `/proc`."""
    return printable(_core.read_file(directory, path).removesuffix(b"\n").decode(errors="backslashreplace"))
