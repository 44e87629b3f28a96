"""A program of `test_signals.py`, for a subinterpreter. It imports little: some modules cannot be loaded in one."""

from __future__ import annotations

from usernsproc import UsernsProcess, create_userns


def create_and_run() -> None:
    with create_userns("root", "root") as userns:
        assert str(userns.uid_map).startswith("0:")
    assert UsernsProcess(["true"], uid_map="root").wait() == 0
