"""Functions that run in a separate process, because they change namespaces, limits, signals or memory.

They are the functions of the modules in `programs/`; their arguments must be values that JSON can express.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

A_HANG = 600
"""Seconds after which a program is given up, lest it hang for ever. Not how long it may take: two
suites may run at once on a slow machine."""


def command(function: Callable[..., object], *arguments: object) -> list[str]:
    """A command that calls *function*; it needs `environment()`."""
    name = (function.__module__, function.__qualname__)
    return [sys.executable, "-X", "faulthandler", "-m", "programs", *name, json.dumps(arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}


def run_alone(function: Callable[..., object], *arguments: object, timeout: float = A_HANG) -> str:
    """Call *function* in a new interpreter and return what it printed.

    Raises:
        AssertionError: the interpreter ended with anything but 0.
    """
    result = subprocess.run(
        command(function, *arguments), capture_output=True, text=True, timeout=timeout, env=environment()
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout
