"""Commands that several files of tests run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from usernsproc import PIPE, CompletedProcess, UsernsProcess, run

SLEEP = ("/bin/sleep", "1000")
USERNSPROC = str(Path(sys.executable).parent / "usernsproc")
"""The command line."""


@contextmanager
def sleeping(**options: Any) -> Iterator[UsernsProcess[bytes]]:
    """A command that runs in the block and is killed at its end, also after an exception."""
    process = UsernsProcess(SLEEP, **options)
    try:
        yield process
    finally:
        process.close()


def output(args: Any, **options: Any) -> str:
    done: CompletedProcess[str] = run(args, stdout=PIPE, text=True, timeout=60, **options)
    assert done.returncode == 0
    return done.stdout
