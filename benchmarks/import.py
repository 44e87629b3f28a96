"""Measure the import, compared with that of subprocess.

python benchmarks/import.py
"""

from __future__ import annotations

import os
import subprocess
import sys

from _measure import finish, heading, in_turns, row

ROUNDS = 40
# As after an installation, the bytecode of each module is cached.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def start(statement: str) -> float:
    """Run the import in a new interpreter, and return the microseconds."""
    source = f"import time; start = time.perf_counter(); {statement}; print((time.perf_counter() - start) * 1e6)"
    return float(subprocess.check_output([sys.executable, "-c", source], env=ENVIRONMENT))


if __name__ == "__main__":
    start("from usernsproc import UsernsProcess")
    result = in_turns(
        ROUNDS,
        subprocess=lambda: start("import subprocess"),
        usernsproc=lambda: start("import usernsproc"),
        process=lambda: start("from usernsproc import UsernsProcess"),
    )
    heading("import")
    row("import subprocess", result["subprocess"])
    row("import usernsproc", result["usernsproc"], result["subprocess"])
    row("from usernsproc import UsernsProcess", result["process"], result["subprocess"])
    row("import usernsproc, more than subprocess", result["usernsproc"] - result["subprocess"], most=10_000)
    row("UsernsProcess, more than subprocess", result["process"] - result["subprocess"], most=10_000)
    finish()
