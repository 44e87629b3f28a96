"""For test programs in which no process can be created: each kind of call has to report the cause."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from errors import error_of

from usernsproc import UsernsProcess, create_userns

MAKERS: dict[str, Callable[[], Any]] = {
    "namespace": lambda: create_userns("root", "root"),
    "command": lambda: UsernsProcess(["/bin/true"], uid_map="root"),
    "holder": lambda: UsernsProcess(uid_map="root"),
}


def assert_all_fail(text: str, *words: str) -> None:
    """Check that each error has that text, and a note with all the words."""
    for name, make in MAKERS.items():
        error = error_of(make)
        assert str(error) == text, f"{name}: {error}"
        for word in words:
            assert word in error.__notes__[0], f"{name}: {error.__notes__}"


def warm_up() -> None:
    """Import all modules that the calls and their errors need."""
    for make in MAKERS.values():
        make().close()
    with suppress(FileNotFoundError):
        UsernsProcess(["/none"], uid_map="root")
