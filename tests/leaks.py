"""Descriptors, children and other state that a test must not leave. Test programs import this, so it imports little."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

SETTLES_WITHIN = 10


def descriptors() -> dict[str, str]:
    """Return the open descriptors of this process, and what they refer to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # the one that lists
    return found


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
