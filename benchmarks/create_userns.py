"""Measure `create_userns`: against the same system calls in C, and in a large process.

python benchmarks/create_userns.py
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from _measure import compiled, finish, heading, in_turns, median, of_program, row, touched

from usernsproc import create_userns

COUNT, ROUNDS = 1000, 7
MAP = "0:100000:65536" if os.geteuid() == 0 else "root"


def create() -> None:
    create_userns(MAP, MAP).close()


def fork_and_unshare() -> None:
    """Create a namespace without a library: in a copy of this process that unshares and waits."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        _unshare()
        os.write(ready[1], b".")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    with open(f"/proc/{pid}/setgroups", "w") as file:
        file.write("deny")
    for name, own in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(f"0 {own} 1")
    fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for end in (*ready, *go, fd):
        os.close(end)


def _unshare() -> None:
    import ctypes

    ctypes.CDLL(None).unshare(0x10000000)


def against_c() -> None:
    program = compiled("create_userns.c")
    result = in_turns(ROUNDS, c=lambda: of_program(program, COUNT), ours=lambda: median(create, COUNT))
    heading("create_userns against its system calls in C")
    row("the system calls in C", result["c"])
    row("create_userns", result["ours"], result["c"], most=1.3)


def in_a_big_process(
    function: Callable[[], None], name: str, count: int, sizes: tuple[float, ...], most: float | None = None
) -> None:
    heading(f"{name} and the memory of the process")
    small = 0.0
    for gib in sizes:
        with touched(gib):
            time = in_turns(ROUNDS, it=lambda: median(function, count))["it"]
        small = small or time
        row(f"{gib:g} GiB touched", time, small, most=most)


if __name__ == "__main__":
    against_c()
    in_a_big_process(create, "create_userns", COUNT, (0, 0.25, 1, 2), 1.3)
    in_a_big_process(fork_and_unshare, "for comparison: os.fork and unshare", 5, (0, 0.25, 1))
    finish()
