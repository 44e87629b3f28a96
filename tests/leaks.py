"""Descriptors, children and other state that a test must not leave. Test programs import this, so it imports little."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

SETTLES_WITHIN = 10


KEPT = "/proc", "anon_inode:[pidfd]", "user:[4026531837]"
"""What the core opens once and keeps: the root of procfs, a pidfd of this process, the initial user namespace."""


def descriptors() -> dict[str, str]:
    """Return the open descriptors of this process, and what they refer to.

    One of each kind in `KEPT` is not listed, so that a second one is.
    """
    return _other_and_kept()[0]


def close_kept() -> None:
    """Close the descriptors that the core keeps, as a program may: it opens new ones."""
    for number in _other_and_kept()[1].values():
        os.close(int(number))


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
    """Return whether it is not the pidfd of another process. A fork inherits that of its parent."""
    if target != "anon_inode:[pidfd]":
        return True
    pids = re.findall(r"^Pid:\s*(\d+)", Path(f"/proc/self/fdinfo/{name}").read_text(), re.MULTILINE)
    return bool({*map(int, pids)} & {os.getpid(), os.getppid()})


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
