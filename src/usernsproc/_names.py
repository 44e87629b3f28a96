"""Names that others chose, as text that can be shown."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, with escapes for what a terminal would obey and for what is not a character."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def process_name(pid: int) -> str:
    """Up to 15 bytes that the process has chosen itself; "gone" when it has ended."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return printable(file.read().removesuffix(b"\n").decode(errors="backslashreplace"))
    except OSError:
        return "gone"
