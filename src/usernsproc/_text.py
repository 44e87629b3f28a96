"""Text that is shown to a user."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, with escapes for characters that cannot be printed or that control a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
