"""Measure how long commands of the command line take, compared with an interpreter that loads two modules.

python benchmarks/command_line.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from _measure import MICROSECONDS, finish, heading, in_turns, row

ROUNDS = 40
USERNSPROC = str(Path(sys.executable).parent / "usernsproc")
# As after an installation, the bytecode of each module is cached.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def duration(*command: str) -> float:
    """Run the command, and return the microseconds."""
    start = time.perf_counter()
    subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * MICROSECONDS


if __name__ == "__main__":
    duration(USERNSPROC, "run", "--", "true")
    result = in_turns(
        ROUNDS,
        modules=lambda: duration(sys.executable, "-c", "import subprocess, argparse"),
        run=lambda: duration(USERNSPROC, "run", "--", "true"),
        root=lambda: duration(USERNSPROC, "run", "--map", "root", "--", "true"),
        help=lambda: duration(USERNSPROC, "run", "--help"),
        map=lambda: duration(USERNSPROC, "map", "0:1000:1"),
        unshare=lambda: duration("unshare", "--user", "true"),
    )
    heading("command line")
    row("python -c 'import subprocess, argparse'", result["modules"])
    row("usernsproc run -- true", result["run"], result["modules"], most=1.25)
    row("usernsproc run --map root -- true", result["root"], result["modules"])
    row("usernsproc run --help", result["help"], result["modules"])
    row("usernsproc map 0:1000:1", result["map"], result["modules"])
    row("unshare --user true", result["unshare"], result["modules"])
    finish()
