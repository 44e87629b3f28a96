"""A cgroup that forbids a child is named: full, threaded, removed, read-only, or not a leaf.

With real cgroups, which the tests create and remove.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from alone import run_alone
from programs import cgroup_causes

MOUNTINFO = Path("/proc/self/mountinfo")


def with_pids() -> Iterator[Path]:
    """A cgroup with the controller pids, of whichever version that is here."""
    for line in MOUNTINFO.read_text().splitlines():
        fields, _, after = line.partition(" - ")
        point = Path(fields.split()[4])
        is_v1 = after.startswith("cgroup ") and "pids" in after.split()[-1].split(",")
        if is_v1 or (after.startswith("cgroup2 ") and "pids" in (point / "cgroup.controllers").read_text().split()):
            with nullcontext() if is_v1 else enabled(point, "pids"):
                cgroup = point / f"usernsproc-pids-{os.getpid()}"
                cgroup.mkdir()
                yield cgroup
                cgroup.rmdir()
            return
    raise AssertionError("no cgroup controller pids")


@contextmanager
def enabled(cgroup: Path, controller: str) -> Iterator[None]:
    """For the children of a cgroup of version 2."""
    control = cgroup / "cgroup.subtree_control"
    if controller in control.read_text().split():
        yield
        return
    control.write_text(f"+{controller}")
    try:
        yield
    finally:
        control.write_text(f"-{controller}")


full_cgroup = pytest.fixture(with_pids)


@pytest.mark.root
@pytest.mark.parametrize("room", [0, 1])
def test_a_full_cgroup_of_the_caller(room: int, full_cgroup: Path) -> None:
    """It is named, also if the failed call needed more than one process and has released them."""
    output = run_alone(cgroup_causes.fill, str(full_cgroup), room)
    assert output.split() in (["clone", "True", "cgroup-pids-max", "True"], ["init", "True", "cgroup-pids-max", "True"])


# ---- cgroups that do not accept a process ----


@pytest.fixture
def cgroup() -> Iterator[Path]:
    (mount_point,) = [line.split()[4] for line in MOUNTINFO.read_text().splitlines() if " - cgroup2 " in line][:1]
    path = Path(mount_point, f"usernsproc-causes-{os.getpid()}")
    path.mkdir()
    yield path
    path.rmdir()


@pytest.mark.root
def test_a_cgroup_with_controllers_below_it(cgroup: Path) -> None:
    """The kernel's EBUSY (cgroups(7), no internal processes)."""
    controller = (cgroup.parent / "cgroup.controllers").read_text().split()[0]
    text = f"cgroup: Device or resource busy: '{cgroup}' [EBUSY, cgroup-not-leaf]"
    with enabled(cgroup.parent, controller), enabled(cgroup, controller):
        run_alone(cgroup_causes.fail_in, str(cgroup), text)


@pytest.mark.root
def test_a_cgroup_below_a_threaded_one(cgroup: Path) -> None:
    below = cgroup / "threaded" / "invalid"
    below.mkdir(parents=True)
    try:
        (cgroup / "threaded" / "cgroup.type").write_text("threaded")
        text = f"cgroup: Operation not supported: '{below}' [EOPNOTSUPP, cgroup-threaded]"
        run_alone(cgroup_causes.fail_in, str(below), text)
    finally:
        below.rmdir()
        below.parent.rmdir()


@pytest.mark.root
def test_a_cgroup_that_was_removed(cgroup: Path) -> None:
    below = cgroup / "removed"
    below.mkdir()
    run_alone(cgroup_causes.fail_in_removed, str(below))


@pytest.mark.root
def test_a_cgroup_file_system_that_is_read_only(cgroup: Path) -> None:
    """Without clone3, which places a child in a cgroup without a write."""
    run_alone(cgroup_causes.fail_in_read_only, str(cgroup))
