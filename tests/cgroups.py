"""Cgroups that a test creates: of version 2, or of version 1 if that has the controller."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REMOVED_WITHIN = 10
PAGE = 4096


def mount_points(fs_type: str) -> Iterator[tuple[Path, str]]:
    """Return the mount points of file systems of a type, with their options."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == fs_type:
            yield Path(before.split()[4]), after.split()[-1]


def unified() -> Path:
    return next(path for path, _ in mount_points("cgroup2"))


def controllers() -> set[str]:
    """Return the available controllers of version 2."""
    return set((unified() / "cgroup.controllers").read_text().split())


@contextmanager
def made(path: Path) -> Iterator[Path]:
    path.mkdir()
    try:
        yield path
    finally:
        remove(path)


def remove(path: Path) -> None:
    """Remove the cgroup. A process that was killed leaves it a moment later."""
    end = time.monotonic() + REMOVED_WITHIN
    while True:
        try:
            path.rmdir()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


@contextmanager
def cgroup(*with_controllers: str) -> Iterator[Path]:
    """A new one of version 2."""
    for controller in with_controllers:
        (unified() / "cgroup.subtree_control").write_text(f"+{controller}")
    with made(unified() / f"usernsproc-test-{os.getpid()}-{time.monotonic_ns()}") as path:
        yield path


@contextmanager
def little_memory() -> Iterator[Path]:
    """A cgroup with too little memory for any process, of the version that has the controller."""
    if "memory" in controllers():
        with cgroup("memory") as path:
            (path / "memory.max").write_text(str(PAGE))
            yield path
        return
    (root,) = [path for path, options in mount_points("cgroup") if "memory" in options.split(",")]
    with made(root / f"usernsproc-test-{os.getpid()}-{time.monotonic_ns()}") as path:
        (path / "memory.limit_in_bytes").write_text(str(PAGE))
        yield path


@contextmanager
def frozen() -> Iterator[Path]:
    with cgroup() as path:
        (path / "cgroup.freeze").write_text("1")
        try:
            yield path
        finally:
            (path / "cgroup.freeze").write_text("0")
