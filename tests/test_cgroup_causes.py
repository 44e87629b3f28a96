"""A cgroup that forbids a child is named: full, threaded, removed, read-only, or not a leaf.

With real cgroups, which the tests create and remove.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from test_causes_found import PRELUDE

Script = Callable[..., str]
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
def test_a_full_cgroup_of_the_caller(room: int, full_cgroup: Path, script: Script) -> None:
    """It is named, also if the failed call needed more than one process and has freed them again."""
    output = script(
        PRELUDE
        + """
warm_up()
cgroup, room = Path(sys.argv[1]), int(sys.argv[2])
(cgroup / "cgroup.procs").write_text("0")
(cgroup / "pids.max").write_text(str(1 + room))
try:
    UsernsProcess(["/bin/true"], uid_map="root", namespaces=["pid"], init=True).wait()
except UsernsError as error:
    print(error.step, error.errno == errno.EAGAIN, error.cause, f"cgroup {cgroup} is reached" in error.__notes__[0])
""",
        str(full_cgroup),
        str(room),
    )
    assert output.split() in (["clone", "True", "cgroup-pids-max", "True"], ["init", "True", "cgroup-pids-max", "True"])


# ---- cgroups that take no process ----


@pytest.fixture
def cgroup() -> Iterator[Path]:
    (mount_point,) = [line.split()[4] for line in MOUNTINFO.read_text().splitlines() if " - cgroup2 " in line][:1]
    path = Path(mount_point, f"usernsproc-causes-{os.getpid()}")
    path.mkdir()
    yield path
    path.rmdir()


FAILS_IN_CGROUP = (
    PRELUDE
    + """
cgroup, text = sys.argv[1:]
for make in (lambda: UsernsProcess(["/bin/true"], uid_map="root", cgroup=cgroup),
             lambda: UsernsProcess(["/bin/true"], uid_map="0:100000:65536", cgroup=cgroup),
             lambda: UsernsProcess(uid_map="root", cgroup=cgroup)):
    error = error_of(make)
    assert str(error) == text, error
    assert error.__notes__
"""
)


@pytest.mark.root
def test_a_cgroup_with_controllers_below_it(cgroup: Path, script: Script) -> None:
    """The kernel's EBUSY (cgroups(7), no internal processes)."""
    controller = (cgroup.parent / "cgroup.controllers").read_text().split()[0]
    with enabled(cgroup.parent, controller), enabled(cgroup, controller):
        script(FAILS_IN_CGROUP, str(cgroup), f"cgroup: Device or resource busy: '{cgroup}' [EBUSY, cgroup-not-leaf]")


@pytest.mark.root
def test_a_cgroup_below_a_threaded_one(cgroup: Path, script: Script) -> None:
    below = cgroup / "threaded" / "invalid"
    below.mkdir(parents=True)
    try:
        (cgroup / "threaded" / "cgroup.type").write_text("threaded")
        text = f"cgroup: Operation not supported: '{below}' [EOPNOTSUPP, cgroup-threaded]"
        script(FAILS_IN_CGROUP, str(below), text)
    finally:
        below.rmdir()
        below.parent.rmdir()


@pytest.mark.root
def test_a_cgroup_that_was_removed(cgroup: Path, script: Script) -> None:
    below = cgroup / "removed"
    below.mkdir()
    script(
        PRELUDE
        + """
fd = os.open(sys.argv[1], os.O_PATH | os.O_DIRECTORY)
os.rmdir(sys.argv[1])
error = error_of(UsernsProcess, ["/bin/true"], uid_map="root", cgroup=fd)
assert str(error) == "cgroup: No such device [ENODEV, cgroup-removed]", error
""",
        str(below),
    )


@pytest.mark.root
def test_a_cgroup_file_system_that_is_read_only(cgroup: Path, script: Script) -> None:
    """Without clone3, which places a child without writing."""
    script(
        PRELUDE
        + """
native.unshare(native.CLONE_NEWNS)
native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
path = sys.argv[1]
MS_BIND = 4096
native.must(native.libc.mount(path.encode(), path.encode(), None, MS_BIND, None))
native.must(native.libc.mount(None, path.encode(), None, MS_BIND | native.MS_REMOUNT | native.MS_RDONLY, None))
native.refuse_system_call(435, errno.ENOSYS)
error = error_of(UsernsProcess, ["/bin/true"], uid_map="root", cgroup=path)
assert str(error) == f"cgroup: Read-only file system: '{path}' [EROFS, cgroup-read-only]", error
native.must(native.libc.umount2(path.encode(), 2))
""",
        str(cgroup),
    )
