"""Measure a command: against subprocess.Popen, in a large process, and in threads.

python benchmarks/process.py
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from _measure import MICROSECONDS, finish, heading, in_turns, median, row, touched

from usernsproc import UsernsProcess

COUNT, ROUNDS = 200, 9
TRUE = ["/bin/true"]
THREADS = 8


def popen() -> None:
    subprocess.Popen(TRUE).wait()


def userns_root() -> None:
    UsernsProcess(TRUE, uid_map="root").wait()


def userns_shifted() -> None:
    UsernsProcess(TRUE, uid_map="0:100000:65536", gid_map="0:100000:65536").wait()


def holder() -> None:
    UsernsProcess(uid_map="root").close()


def unshare() -> None:
    subprocess.Popen(["unshare", "--map-root-user", *TRUE]).wait()


SHIFTED = "UsernsProcess, 65 536 ids, ids changed"
ROOT = 'UsernsProcess(uid_map="root")'
PROMISED = {ROOT: 1.3, SHIFTED: 1.3}
PROMISED_IN_THREADS = {ROOT: 1 / 0.8}


def against_popen(gib: float, contestants: dict[str, Callable[[], None]]) -> None:
    contestants = {"subprocess.Popen": popen, **contestants}
    with touched(gib):
        result = in_turns(ROUNDS, **{name: lambda f=f: median(f, COUNT) for name, f in contestants.items()})
    heading(f"/bin/true, {gib:g} GiB touched")
    for name, value in result.items():
        row(name, value, result["subprocess.Popen"], most=PROMISED.get(name))


def commands() -> dict[str, Callable[[], None]]:
    contestants = {ROOT: userns_root}
    if os.geteuid() == 0:
        contestants[SHIFTED] = userns_shifted
    return contestants


def throughput(function: Callable[[], None]) -> float:
    """Return the microseconds per command, with eight threads."""
    start = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(function) for _ in range(COUNT * 2)]:
            future.result()
    return (time.perf_counter() - start) / (COUNT * 2) * MICROSECONDS


def in_threads() -> None:
    contestants = {"subprocess.Popen": popen, **commands()}
    result = in_turns(ROUNDS, **{name: lambda f=f: throughput(f) for name, f in contestants.items()})
    heading(f"/bin/true, {THREADS} threads, time a command")
    for name, value in result.items():
        row(name, value, result["subprocess.Popen"], most=PROMISED_IN_THREADS.get(name))


if __name__ == "__main__":
    for gib in (0, 2):
        against_popen(gib, commands())
    # Separately: the cleanup of the kernel after unshare(1) would slow down the next contestant.
    against_popen(0, {"a holder, created and closed": holder, "subprocess.Popen of unshare(1)": unshare})
    in_threads()
    finish()
