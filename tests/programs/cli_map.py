"""The command line in place of the interpreter."""

from __future__ import annotations

import os


def execute(program: str, *arguments: str) -> None:
    os.execv(program, [program, *arguments])
