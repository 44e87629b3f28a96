"""Root in a namespace that is joined gets nothing of the program that joins.

In another process (pursued.py) a program with a secret starts commands in the namespaces of a holder,
while root in the namespace (pursuer.c) attacks every process that enters.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from alone import A_HANG

from conftest import IS_ROOT

HERE = Path(__file__).parent
SHIFTED = "0:100000:65536"
WHO = (
    [("in own mounts", "root"), ("in own mounts", SHIFTED)]
    if IS_ROOT
    else [("in own mounts", "root"), ("as it is", "root")]
)
NOTHING = frozenset({"memory", "address", "environment", "taken", "opened", "ours"})
"""What must not be obtained: the secret from memory, from the environment, from a descriptor, by
`pidfd_getfd(2)` or through `/proc`; and any descriptor that is the library's."""
PATHS = frozenset({"root", "directory"})
"""And a file outside, by the root or the working directory of a process."""
OF_500 = 500
LEAST_SEEN = 100
MORE_TRIES = 19
"""Where the pursuer has not got at enough: it is up to the machine how often each of them runs."""

each_who = pytest.mark.parametrize(("who", "id_map"), WHO, ids=[f"{who}, {id_map}" for who, id_map in WHO])


class Pursuit(NamedTuple):
    outcomes: dict[str, int]
    report: dict[str, int]

    def __or__(self, other: Pursuit) -> Pursuit:
        both = [
            {word: mine.get(word, 0) + its.get(word, 0) for word in {*mine, *its}}
            for mine, its in zip(self, other, strict=True)
        ]
        return Pursuit(*both)

    def least(self, *words: str) -> int:
        return min(self.report[word] for word in words)

    def obtained(self) -> set[str]:
        return {word for word, count in self.report.items() if count and word not in ("seen", "refused", "traced")}


@pytest.fixture(scope="module")
def pursuer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("pursuer") / "pursuer"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(HERE / "pursuer.c"), "-pthread"]
    subprocess.run(command, check=True)
    return program


def pursued(pursuer: Path, mode: str, way: str, who: str, id_map: str, kinds: str, count: int) -> Pursuit:
    done = subprocess.run(
        [sys.executable, HERE / "pursued.py", pursuer, mode, way, who, id_map, kinds, str(count)],
        env={**os.environ, "PURSUED_SECRET": secrets.token_hex(16)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=A_HANG,
        check=True,
    )
    return Pursuit(**json.loads(done.stdout))


def pursued_until(enough: Callable[[Pursuit], bool], pursuer: Path, *arguments: Any) -> Pursuit:
    """Return all pursuits together. They are repeated until there are enough."""
    found = pursued(pursuer, *arguments)
    for _ in range(MORE_TRIES):
        if enough(found):
            break
        found |= pursued(pursuer, *arguments)
    assert enough(found), found
    return found


def all_is_tried(pursuit: Pursuit) -> bool:
    return pursuit.least("seen", "refused", "traced") > LEAST_SEEN


@each_who
def test_a_joined_container_gets_nothing_of_the_joining_program(who: str, id_map: str, pursuer: Path) -> None:
    """All its namespaces are joined. Its root is refused access to a joining process until that runs the command, and
    then the process has nothing."""
    found = pursued_until(all_is_tried, pursuer, "look", "usernsproc", who, id_map, "all", 2 * OF_500)
    assert found.outcomes.keys() == {"0"}
    assert found.obtained() & (NOTHING | PATHS if who == "in own mounts" else NOTHING) == set()


@each_who
def test_where_the_mount_namespace_is_not_joined(who: str, id_map: str, pursuer: Path) -> None:
    """Only the user and PID namespace are joined. Then the command itself, which their root can trace, is in the
    caller's mount namespace. Only through it, root reaches the caller's files, as far as their permissions allow."""
    found = pursued_until(all_is_tried, pursuer, "look", "usernsproc", who, id_map, "some", OF_500)
    assert found.outcomes.keys() == {"0"}
    assert found.obtained() & NOTHING == set()


@each_who
@pytest.mark.parametrize("kinds", ["all", "some"])
def test_a_process_that_is_stopped_on_the_way_goes_on_and_gives_nothing_away(
    who: str, id_map: str, kinds: str, pursuer: Path
) -> None:
    """To have more time. The call does not wait forever: it goes on, or reports that the child is lost."""

    def enough(pursuit: Pursuit) -> bool:
        return pursuit.least("seen", "refused") > LEAST_SEEN

    found = pursued_until(enough, pursuer, "stop", "usernsproc", who, id_map, kinds, 200)
    assert found.outcomes.keys() <= {"0", "child-killed"}
    assert found.obtained() & NOTHING == set()


@each_who
@pytest.mark.parametrize("kinds", ["all", "some"])
def test_a_process_that_is_killed_on_the_way_leaves_nothing_behind(
    who: str, id_map: str, kinds: str, pursuer: Path
) -> None:
    """No process, zombie, descriptor, thread: pursued.py compares."""

    def enough(pursuit: Pursuit) -> bool:
        return pursuit.outcomes.get("child-killed", 0) > 10

    found = pursued_until(enough, pursuer, "kill", "usernsproc", who, id_map, kinds, 300)
    assert found.outcomes.keys() <= {"0", "-9", "child-killed"}


@each_who
@pytest.mark.parametrize("kinds", ["all", "some"])
def test_the_pursuer_is_strong_enough_for_a_copy_of_the_program(
    who: str, id_map: str, kinds: str, pursuer: Path
) -> None:
    """The control experiment: if a forked copy entered the namespaces, the tests above would fail."""
    wanted = {"address", "taken", "ours"} | ({"memory", "environment", "opened"} if id_map == "root" else set())
    pursued_until(lambda pursuit: pursuit.obtained() >= wanted, pursuer, "look", "fork", who, id_map, kinds, 20)
