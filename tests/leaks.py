"""Descriptors, children and other state that a test must not leave. Test programs import this, so it imports little."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import time
from pathlib import Path

SETTLES_WITHIN = 10


PIDFD_THREAD = os.O_EXCL
PROC, PIDFD, INITIAL_USERNS = "/proc", "anon_inode:[pidfd]", "user:[4026531837]"
KEPT = PROC, PIDFD, INITIAL_USERNS
"""What the core opens once and keeps: the root of procfs, a pidfd of this process, the initial user namespace."""


def descriptors() -> dict[str, str]:
    """Return the open descriptors of this process, and what they refer to.

    One of each kind in `KEPT` is not listed, so that a second one is.
    """
    return _other_and_kept()[0]


def kept_descriptors() -> dict[str, int]:
    """Return the numbers of the descriptors that the core keeps, by what they refer to."""
    return {target: int(number) for target, number in _other_and_kept()[1].items()}


def close_kept() -> None:
    """Close the descriptors that the core keeps, as a program may: it opens new ones."""
    for fd in kept_descriptors().values():
        os.close(fd)


def _other_and_kept() -> tuple[dict[str, str], dict[str, str]]:
    others: dict[str, str] = {}
    kept: dict[str, str] = {}
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that lists
        if target in KEPT and target not in kept and is_own_if_pidfd(name, target):
            kept[target] = name
        else:
            others[name] = target
    return others, kept


def is_own_if_pidfd(name: str, target: str) -> bool:
    """Return whether it is not the pidfd of another process or of a thread. A fork inherits that of its parent."""
    if target != PIDFD:
        return True
    is_of_thread = fcntl.fcntl(int(name), fcntl.F_GETFL) & PIDFD_THREAD
    return not is_of_thread and bool(pids_of(int(name)) & {os.getpid(), os.getppid()})


def pids_of(pidfd: int) -> set[int]:
    """Return the PIDs of its process, in the PID namespace of procfs and in those below it."""
    text = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    return {int(pid) for pid in re.findall(r"^Pid:\s*(-?\d+)", text, re.MULTILINE)}


def children() -> set[str]:
    """Return the PIDs of the children of all threads, including zombies."""
    found: set[str] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            found.update(Path(f"/proc/self/task/{task}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            pass  # a thread that has just ended
    return found


def state() -> dict[str, object]:
    return {
        "descriptors": descriptors(),
        "children": children(),
        "threads": set(os.listdir("/proc/self/task")),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "signal mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "dumpable": os.stat("/proc/self/environ").st_uid == os.geteuid(),
    }


def state_again(before: dict[str, object]) -> dict[str, object]:
    """Read the state until it is as before: a keeper thread exits shortly after its child."""
    end = time.monotonic() + SETTLES_WITHIN
    while (after := state()) != before and time.monotonic() < end:
        time.sleep(0.005)
    return after


def assert_unchanged(before: dict[str, object]) -> None:
    after = state_again(before)
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not changed, f"left behind (before, after): {changed}"
