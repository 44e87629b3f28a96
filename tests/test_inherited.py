"""A command, a holder and an init inherit from the caller what docs/what-is-inherited.md says, thing by thing."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luggage
import pytest
import remote

from conftest import IS_ROOT
from usernsproc import UsernsProcess, check_output

PAGE = (Path(__file__).parent.parent / "docs" / "what-is-inherited.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
OUTCOMES = {row[0]: row[1:5] for row in ROWS if len(row) == 6 and row[0] != "thing"}
"""By thing: command in a new namespace, command that joins, holder, init."""
HERE = luggage.things_of_here()


def word(cell: str) -> str:
    return re.split(r"[,;:(]| except | for ", cell)[0].strip().strip("`")


def documented(name: str) -> dict[str, set[str]]:
    new, joined, holder, init = OUTCOMES[name]
    if_it_joins = re.search(r"; (\w+) when it joins", holder)
    return {
        "new": {word(new)},
        "joined": {word(joined)},
        "holder": {word(holder)},
        "joined holder": {if_it_joins[1] if if_it_joins else word(holder)},
        "init": {word(init)},
    }


def test_the_page_has_each_thing_and_no_other() -> None:
    assert list(OUTCOMES) == [thing.name for thing in luggage.THINGS]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Return what became of each thing, from a program that has all of them."""
    folder = tmp_path_factory.mktemp("luggage")
    (folder / "file").touch()
    cgroup = cgroup2() / f"usernsproc-luggage-{os.getpid()}"
    if IS_ROOT:
        cgroup.mkdir()
        (folder / "cgroup").symlink_to(cgroup)
    try:
        yield json.loads(run_luggage(folder))
    finally:
        if IS_ROOT:
            cgroup.rmdir()


def cgroup2() -> Path:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return Path(next(line.split()[4] for line in lines if " - cgroup2 " in line))


def run_luggage(folder: Path) -> str:
    environment = {**os.environ, luggage.VARIABLE: str(folder), "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-X", "faulthandler", luggage.__file__]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


if remote.IS_SUPPORTED:

    @pytest.mark.parametrize("name", [thing.name for thing in HERE])
    def test_each_thing_is_as_documented(name: str, found: dict[str, Any]) -> None:
        """For each way to start a process."""
        assert {way: set(words) for way, words in found[name].items()} == documented(name)


def test_a_lock_of_an_open_file_goes_with_the_descriptor(tmp_path: Path) -> None:
    """`flock(2)`: the command holds it when the caller has closed the file."""
    path = tmp_path / "lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = UsernsProcess(luggage.SLEEP, uid_map="root", pass_fds=[file.fileno()])
    with process, path.open("w") as another:
        with pytest.raises(BlockingIOError):
            fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.kill()
        process.wait()
        fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_record_lock_stays_with_the_caller(tmp_path: Path) -> None:
    """`fcntl(2)`: it ends when the caller closes the file, though the command has it open."""
    path = tmp_path / "lock"
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        process = UsernsProcess(luggage.SLEEP, uid_map="root", pass_fds=[file.fileno()])
        assert is_locked(path)
    with process:
        assert not is_locked(path)
        process.kill()


def is_locked(path: Path) -> bool:
    """Return whether it is locked, as another process sees it."""
    program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    done = subprocess.run([sys.executable, "-I", "-c", program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "BlockingIOError" in done.stderr
    return done.returncode != 0


def test_a_command_that_joins_a_user_namespace_alone_stays_in_the_callers_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it joins the mount namespace too, it starts in its root directory."""
    monkeypatch.chdir(tmp_path)
    command = ["readlink", "/proc/self/cwd"]
    with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace() as userns:
        assert check_output(command, join=userns, text=True) == f"{tmp_path}\n"
        assert check_output(command, join=holder, text=True) == "/\n"
