"""Compare functions: run them in turns, and print medians and ratios."""

from __future__ import annotations

import mmap
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
MICROSECONDS = 1e6


def median(function: Callable[[], object], count: int) -> float:
    """Return the median duration of *count* calls, in microseconds."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * MICROSECONDS


def in_turns(rounds: int, **contestants: Callable[[], float]) -> dict[str, float]:
    """Run the contestants one after the other, in several rounds, and return the median of each.

    Each contestant returns microseconds. With `--once` there is one round, to check that the program runs.
    """
    results: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(1 if "--once" in sys.argv else rounds):
        for name, measure in contestants.items():
            results[name].append(measure())
    return {name: statistics.median(values) for name, values in results.items()}


def compiled(source: str) -> str:
    """Compile a C program of this directory, and return its path."""
    target = Path(tempfile.mkdtemp()) / Path(source).stem
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", target, HERE / source], check=True)
    return str(target)


def of_program(path: str, count: int) -> float:
    """Run a C program of this directory, and return the microseconds that it prints."""
    return float(subprocess.check_output([path, str(count)]))


@contextmanager
def touched(gib: float) -> Iterator[None]:
    """Hold *gib* GiB of memory, in 4-KiB pages that have all been written to."""
    size = int(gib * (1 << 30))
    if not size:
        yield
        return
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1
    try:
        yield
    finally:
        memory.close()


_exceeded: list[str] = []


def row(
    name: str, value: float, unit: float | None = None, *, most: float | None = None, goal: float | None = None
) -> None:
    """Print *value* and its ratio to *unit*. *most* is the limit of the ratio, or of the value without *unit*;
    *goal* is one that is not reached yet."""
    ratio = "" if unit is None else f"{value / unit:10.2f}"
    limit = ""
    if most is not None:
        exceeded = (value if unit is None else value / unit) > most
        limit = f"   at most {most:g}{': EXCEEDED' if exceeded else ''}"
        if exceeded:
            _exceeded.append(name)
    if goal is not None:
        limit = f"   goal {goal:g}"
    print(f"{name:58}{value:10.0f}{ratio}{limit}", flush=True)


def finish() -> None:
    """Fail if a limit was exceeded, but only with `--check`, because noise can be the reason."""
    if _exceeded and "--check" in sys.argv:
        sys.exit(f"limit exceeded: {', '.join(_exceeded)}")


def heading(title: str) -> None:
    print(f"\n{title} (Linux {platform.release()}, CPython {platform.python_version()})")
    print(f"{'':58}{'us':>10}{'ratio':>10}")
