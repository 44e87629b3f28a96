"""The session keyring of a command (`session-keyring(7)`): whose keys it possesses."""

from __future__ import annotations

INHERIT = 0
NEW_IF_POSSIBLE = 1
NEW = 2

_BY_NAME = {"inherit": INHERIT, "new": NEW}


def session_keyring_mode(value: str | None, *, joins: bool) -> int:
    """What the core has to do. A command that *joins* a namespace has a new one unless it is
    asked for another: root there could read the caller's keys through it. Where the kernel
    or a filter refuses keyctl(2) the command cannot use a keyring either.

    Raises:
        ValueError: neither `"new"`, `"inherit"` nor `None`.
    """
    if value is None:
        return NEW_IF_POSSIBLE if joins else INHERIT
    if value not in _BY_NAME:
        raise ValueError(f'session_keyring must be "new", "inherit" or None, not {value!r}')
    return _BY_NAME[value]
