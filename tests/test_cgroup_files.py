"""The files of a cgroup show that it is full, out of memory or frozen.

On recorded states, which are folders with the files of a cgroup, because a machine has each
controller in one version only; and on real cgroups, where the kernel has the files itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from usernsproc._cgroups import frozen_cause, full_of_processes, out_of_memory, own_cgroup

MOUNTINFO = Path("/proc/self/mountinfo")
Recorded = Callable[[Mapping[str, str]], int]


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    """Yield a descriptor of the folder `outer/inner`, with the files of a recorded state."""
    fds: list[int] = []

    def write(files: Mapping[str, str]) -> int:
        inner = tmp_path / "outer/inner"
        inner.mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / "outer" / name).write_text(text)
        fds.append(os.open(inner, os.O_PATH | os.O_DIRECTORY))
        return fds[0]

    yield write
    for fd in fds:
        os.close(fd)


FULL: dict[str, tuple[dict[str, str], str | None]] = {
    "no controller": ({}, None),
    "no limit": ({"inner/pids.max": "max\n", "inner/pids.current": "500\n"}, None),
    "room": ({"inner/pids.max": "100\n", "inner/pids.current": "50\n", "inner/pids.events": "max 7\n"}, None),
    "full": ({"inner/pids.max": "3\n", "inner/pids.current": "3\n"}, "outer/inner"),
    "forbidden": ({"inner/pids.max": "0\n", "inner/pids.current": "0\n"}, "outer/inner"),
    "was full": ({"inner/pids.max": "1\n", "inner/pids.current": "0\n", "inner/pids.events": "max 1\n"}, "outer/inner"),
    "never full": ({"inner/pids.max": "1\n", "inner/pids.current": "0\n", "inner/pids.events": "max 0\n"}, None),
    "full above": (
        {"inner/pids.max": "max\n", "inner/pids.current": "1\n", "pids.max": "1\n", "pids.current": "1\n"},
        "outer",
    ),
}


@pytest.mark.parametrize("name", FULL)
def test_a_limit_of_processes_is_found_here_or_above(name: str, recorded: Recorded, tmp_path: Path) -> None:
    files, where = FULL[name]
    assert full_of_processes(recorded(files)) == (None if where is None else f"{tmp_path}/{where}")


MEMORY: dict[str, tuple[dict[str, str], bool]] = {
    "no controller": ({}, False),
    "version 2, unharmed": ({"inner/memory.events": "low 0\nhigh 0\nmax 3\noom 0\noom_kill 0\n"}, False),
    "version 2, killed": ({"inner/memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n"}, True),
    "version 1, unharmed": ({"inner/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"}, False),
    "version 1, killed": ({"inner/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"}, True),
}


@pytest.mark.parametrize("name", MEMORY)
def test_a_kill_for_want_of_memory_is_found(name: str, recorded: Recorded, tmp_path: Path) -> None:
    files, found = MEMORY[name]
    assert out_of_memory(recorded(files)) == (f"{tmp_path}/outer/inner" if found else None)


FROZEN: dict[str, tuple[dict[str, str], str | None]] = {
    "no files": ({}, None),
    "running": ({"inner/cgroup.freeze": "0\n", "inner/cgroup.events": "populated 1\nfrozen 0\n"}, None),
    "frozen": ({"inner/cgroup.freeze": "1\n", "inner/cgroup.events": "populated 1\nfrozen 1\n"}, "outer/inner"),
    "about to be": ({"inner/cgroup.freeze": "1\n", "inner/cgroup.events": "frozen 0\n"}, "outer/inner"),
    "above": ({"inner/cgroup.freeze": "0\n", "cgroup.freeze": "1\n"}, "outer"),
    "out of sight": ({"inner/cgroup.freeze": "0\n", "inner/cgroup.events": "frozen 1\n"}, "outer/inner"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_cgroup_is_a_cause_and_a_note(name: str, recorded: Recorded, tmp_path: Path) -> None:
    files, where = FROZEN[name]
    found = frozen_cause(recorded(files))
    if where is None:
        assert found is None
    else:
        assert found is not None
        cause, note = found
        assert cause == "cgroup-frozen"
        assert f"The cgroup {tmp_path}/{where} is frozen" in note


def test_files_that_cannot_be_read_are_not_a_cause(recorded: Recorded) -> None:
    assert frozen_cause(recorded({"inner/cgroup.events": "unlike\n"})) is None
    assert frozen_cause(-1) is None


# ---- real ones ----


@contextmanager
def real_cgroup() -> Iterator[Path]:
    (mount_point,) = [line.split()[4] for line in MOUNTINFO.read_text().splitlines() if " - cgroup2 " in line][:1]
    cgroup = Path(mount_point, f"usernsproc-files-{os.getpid()}")
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        cgroup.rmdir()


@pytest.mark.root
def test_a_real_cgroup_that_is_frozen_and_one_below_it() -> None:
    with real_cgroup() as cgroup:
        below = cgroup / "below"
        below.mkdir()
        fds = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (cgroup, below)]
        try:
            assert [frozen_cause(fd) for fd in fds] == [None, None]
            (cgroup / "cgroup.freeze").write_text("1")
            while "frozen 1" not in (below / "cgroup.events").read_text():
                time.sleep(0.001)
            for fd in fds:
                found = frozen_cause(fd)
                assert found is not None
                assert f"The cgroup {cgroup} is frozen" in found[1]
            (cgroup / "cgroup.freeze").write_text("0")
        finally:
            for fd in fds:
                os.close(fd)
            below.rmdir()


@pytest.mark.parametrize("controller", ["pids", "memory", "nothing"])
def test_the_calling_threads_cgroup_is_found(controller: str) -> None:
    """In version 1 if the controller is there, else in version 2."""
    lines = Path("/proc/thread-self/cgroup").read_text().splitlines()
    paths = {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}
    with own_cgroup(controller) as fd:
        assert fd is not None
        shown = os.readlink(f"/proc/self/fd/{fd}")
    assert shown.endswith(paths.get(controller, paths.get("", "/")).rstrip("/"))
    assert os.path.exists(f"{shown}/cgroup.procs")
