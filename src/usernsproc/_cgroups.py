"""The limits of a cgroup, read from its files by a descriptor of its directory.

The kernel returns `EAGAIN` for a full cgroup and for several other limits, and nothing at
all while a cgroup is frozen. The files show which it is. Each function returns the path
of the cgroup at fault, or `None`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress

from . import _core
from ._proc import read_in, read_mounts

MAX_TASKS = 4
"""The number of processes and threads that one call needs at the same time. They have ended when a limit is read."""


def full_of_processes(cgroup: int) -> str | None:
    """The cgroup whose `pids.max` is reached: this one or one above it."""
    for level in _levels(cgroup):
        most = _read(cgroup, f"{level}/pids.max") or "max"
        if most != "max":
            room = int(most) - int(_read(cgroup, f"{level}/pids.current") or 0)
            if room <= 0 or (room < MAX_TASKS and _counters(cgroup, f"{level}/pids.events").get("max", 0)):
                return _name(cgroup, level)
    return None


def out_of_memory(cgroup: int) -> str | None:
    """This cgroup, if one of its processes was killed because a memory limit was reached.

    The counters of cgroup version 2 are in `memory.events`, that of version 1 in
    `memory.oom_control`.
    """
    counters = _counters(cgroup, "memory.events") | _counters(cgroup, "memory.oom_control")
    return _name(cgroup, ".") if counters.get("oom_kill") or counters.get("oom") else None


class OomKills:
    """Whether a process of a cgroup, or of one below it, has been killed by the out-of-memory killer since this
    object was made.

    Args:
        cgroup: a descriptor of its directory.
    """

    __slots__ = ("_before", "_cgroup")

    def __init__(self, cgroup: int) -> None:
        self._cgroup = _core.dup(cgroup)
        self._before = self._count()

    def _count(self) -> int:
        with suppress(OSError, ValueError):  # it was removed, or no descriptor is left
            return _counters(self._cgroup.fileno(), "memory.events").get("oom_kill", 0)
        return 0

    def have_happened(self) -> bool:
        return self._count() > self._before

    def close(self) -> None:
        self._cgroup.close()


def frozen(cgroup: int) -> str | None:
    """The cgroup that is frozen: this one or one above it."""
    for level in _levels(cgroup):
        if _read(cgroup, f"{level}/cgroup.freeze") == "1":
            return _name(cgroup, level)
    return _name(cgroup, ".") if _counters(cgroup, "cgroup.events").get("frozen") else None


def frozen_cause(cgroup: int) -> tuple[str, str] | None:
    """The cause and the note for a child that does not go on, or `None` if its cgroup is not frozen."""
    try:
        where = frozen(cgroup)
    except (OSError, ValueError):
        return None
    if where is None:
        return None
    return "cgroup-frozen", (
        f"The cgroup {where} is frozen: no process in it or below it runs. Write 0 to its cgroup.freeze, or choose "
        "another cgroup."
    )


@contextmanager
def own_cgroup(controller: str) -> Generator[int | None]:
    """The calling thread's cgroup for a controller; `None`: it cannot be reached.

    Version 1 has a hierarchy for each controller; a controller without one is in version 2, and so is `""`.
    """
    place = _own_place(controller)
    if place is None:
        yield None
        return
    device, path = place
    with _core.open(path, os.O_PATH | os.O_DIRECTORY) as fd:
        yield fd if os.fstat(fd).st_dev == device else None


def _own_place(controller: str) -> tuple[int, str] | None:
    """The device and the path of the directory."""
    paths: dict[str, str] = {}
    for line in read_in(-1, "thread-self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), place))
    fs_type = "cgroup" if controller and controller in paths else "cgroup2"
    path = paths.get(controller) or paths.get("")
    if path is None:
        return None
    for mount in read_mounts():
        if mount.fs_type != fs_type or not (fs_type == "cgroup2" or controller in mount.super_options):
            continue
        below = os.path.relpath(path, mount.root)
        if not below.startswith(".."):
            return mount.device, os.path.join(mount.point, below)
    return None


def _levels(cgroup: int) -> Iterator[str]:
    """This cgroup and those above it, as paths relative to it, up to the root of the mount."""
    below, level = None, "."
    while True:
        status = os.stat(level, dir_fd=cgroup)
        here = status.st_dev, status.st_ino
        if below is not None and (here == below or here[0] != below[0]):
            return
        yield level
        below, level = here, f"{level}/.."


def _name(cgroup: int, level: str) -> str:
    return os.path.normpath(os.path.join(os.readlink(f"/proc/self/fd/{cgroup}"), level))


def _counters(cgroup: int, path: str) -> dict[str, int]:
    """Lines of a name and a number; none if there is no such file."""
    lines = (line.split() for line in (_read(cgroup, path) or "").splitlines())
    return {name: int(number) for name, number in lines}


def _read(cgroup: int, path: str) -> str | None:
    """`None`: there is no such file, because the controller is not enabled or this is the root."""
    try:
        owned = _core.open(path, os.O_RDONLY | os.O_NONBLOCK, 0, cgroup)
    except FileNotFoundError:
        return None
    with owned as fd, open(fd, encoding="utf-8", errors="replace", closefd=False) as file:
        return file.read().strip()
