"""`cgroup=` accepts only the directory of a cgroup of version 2. Whatever another user puts at
the path, no file is written, nothing blocks, and no process is created."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alone import run_alone
from leaks import state
from programs import cgroup

from usernsproc import UsernsError, UsernsProcess, run


def cgroup_mounts(kind: str) -> list[Path]:
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(line[4]) for line in lines if line[line.index("-") + 1] == kind]


def refusal(path: Any) -> UsernsError:
    """Return the refusal of a command and of a holder. There is no process, descriptor or thread yet."""
    before = state()
    with pytest.raises(UsernsError) as caught:
        run(["true"], uid_map="root", cgroup=path)
    with pytest.raises(UsernsError, match=re.escape(str(caught.value))):
        UsernsProcess(cgroup=path)
    assert caught.value.step == "cgroup"
    assert state() == before
    return caught.value


@pytest.fixture
def look_alike(tmp_path: Path) -> Path:
    """A directory that has the same file as a cgroup."""
    (tmp_path / "cgroup.procs").write_text("important=1\n")
    return tmp_path


def test_an_ordinary_directory_with_a_file_cgroup_procs_is_refused(look_alike: Path) -> None:
    error = refusal(look_alike)
    assert (error.errno, error.cause, error.filename) == (22, "not-cgroup2", str(look_alike))
    assert "not in a cgroup2 file system" in error.__notes__[0]
    assert (look_alike / "cgroup.procs").read_text() == "important=1\n"


def test_a_directory_by_its_descriptor_is_refused(look_alike: Path) -> None:
    descriptor = os.open(look_alike, os.O_RDONLY | os.O_DIRECTORY)
    try:
        error = refusal(descriptor)
    finally:
        os.close(descriptor)
    assert (error.errno, error.cause, error.filename) == (22, "not-cgroup2", None)
    assert (look_alike / "cgroup.procs").read_text() == "important=1\n"


def test_a_link_in_place_of_cgroup_procs_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("important=1\n")
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup" / "cgroup.procs").symlink_to(victim)
    assert refusal(tmp_path / "cgroup").cause == "not-cgroup2"
    assert victim.read_text() == "important=1\n"


@pytest.mark.parametrize("where", ["cgroup.procs", "cgroup"])
def test_a_fifo_does_not_block(where: str, tmp_path: Path) -> None:
    """In place of the file and of the directory. Without a reader, opening it for writing would block."""
    run_alone(cgroup.a_fifo, str(tmp_path), where, timeout=60)


def test_a_file_is_refused(look_alike: Path) -> None:
    error = refusal(look_alike / "cgroup.procs")
    assert (error.errno, error.cause) == (20, "not-cgroup2")
    assert isinstance(error, NotADirectoryError)


def test_a_symbolic_link_to_a_cgroup_is_not_followed(tmp_path: Path) -> None:
    """It may be the link of another user."""
    (tmp_path / "link").symlink_to(cgroup_mounts("cgroup2")[0])
    error = refusal(tmp_path / "link")
    assert (error.errno, error.cause) == (20, "not-cgroup2")
    assert "symbolic link is not followed" in error.__notes__[0]


def test_a_file_of_a_cgroup_is_refused() -> None:
    descriptor = os.open(cgroup_mounts("cgroup2")[0] / "cgroup.procs", os.O_RDONLY)
    try:
        error = refusal(descriptor)
    finally:
        os.close(descriptor)
    assert (error.errno, error.cause) == (20, "not-cgroup2")


@pytest.mark.root
def test_a_cgroup_of_version_1_is_refused() -> None:
    """A hierarchy without controllers: it can be mounted beside those of the system, and ends with the last
    mount of it."""
    run_alone(cgroup.a_cgroup_of_version_1)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    error = refusal(tmp_path / "missing")
    assert isinstance(error, FileNotFoundError)
    assert (error.cause, error.filename) == ("no-cgroup", str(tmp_path / "missing"))


@pytest.mark.parametrize("descriptor", [-1, 1 << 20])
def test_a_number_that_is_not_an_open_descriptor(descriptor: int) -> None:
    """It is not ignored either: -1 would start the command outside of its limits."""
    assert refusal(descriptor).errno == 9


@pytest.fixture
def removed() -> Iterator[int]:
    """A descriptor of a cgroup that has been removed."""
    path = cgroup_mounts("cgroup2")[0] / f"usernsproc-removed-{os.getpid()}"
    path.mkdir()
    descriptor = os.open(path, os.O_PATH)
    path.rmdir()
    yield descriptor
    os.close(descriptor)


@pytest.mark.root
def test_a_cgroup_that_has_been_removed(removed: int) -> None:
    assert (refusal(removed).errno, refusal(removed).cause) == (19, "cgroup-removed")
