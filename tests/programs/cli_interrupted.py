"""`usernsproc ls`, interrupted by SIGINT. This module does not import the package: that is part of the command."""

from __future__ import annotations

import builtins
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usernsproc._cli.options import Options


def while_loading(module: str) -> None:
    """Send SIGINT when the command line imports *module*."""
    original = builtins.__import__

    def interrupt(name: str, *arguments: Any, **options: Any) -> Any:
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
        return original(name, *arguments, **options)

    builtins.__import__ = interrupt
    from usernsproc.__main__ import main

    sys.exit(main(["ls"]))


def while_running() -> None:
    from usernsproc import __main__
    from usernsproc._cli import ls

    def run(options: Options) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError(f"the signal came late: {options}")

    ls.run = run
    sys.exit(__main__.main(["ls"]))
