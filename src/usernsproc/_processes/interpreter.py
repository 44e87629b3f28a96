"""The options of a process that runs this interpreter: for functions and tests in a namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from .options import CommandOptions

_DECIDED = frozenset({"executable", "close_fds", "preexec_fn", "startupinfo", "creationflags", "pipesize"})
_REFUSED = _DECIDED | {
    "args",
    "bufsize",
    "encoding",
    "errors",
    "shell",
    "stderr",
    "stdin",
    "stdout",
    "text",
    "universal_newlines",
}
_ACCEPTED = CommandOptions.__annotations__.keys() - _DECIDED


def interpreter_options(options: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Check the names, and return the options for any number of processes.

    A new PID namespace has an init by default: without one the interpreter would be PID 1, which ignores SIGTERM.

    Args:
        options: what the caller has given.
        owner: the function to name in an error.

    Raises:
        ValueError: an option of `UsernsProcess` that *owner* decides itself.
        TypeError: there is no such option.
    """
    for name in options:
        if name in _REFUSED:
            raise ValueError(f"{owner}: {name}= cannot be given, because the command is this Python interpreter")
        if name not in _ACCEPTED:
            similar = get_close_matches(name, _ACCEPTED, 1)
            hint = f". Did you mean {similar[0]!r}?" if similar else ""
            raise TypeError(f"{owner}() got an unexpected keyword argument {name!r}{hint}")
    checked = {name: _kept(value) for name, value in options.items()}
    namespaces = checked.get("namespaces", ())
    if not isinstance(namespaces, str) and "pid" in namespaces:
        checked.setdefault("init", True)
    return checked


def _kept(value: Any) -> Any:
    """An iterator can be used once, a tuple for each process."""
    is_used_up = isinstance(value, (Iterator, list))
    found: Any = value
    return tuple(found) if is_used_up else found
