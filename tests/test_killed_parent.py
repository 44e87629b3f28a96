"""A program that is killed at any moment leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator

import alone
import cgroups
import native
import pytest
from programs import killed_parent

KILLS = 200
LONGEST = 0.05
"""Seconds; each kind below takes less."""
ENDED_WITHIN = 10
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def orphans_come_here() -> Iterator[None]:
    native.prctl(PR_SET_CHILD_SUBREAPER, 1)
    yield
    native.prctl(PR_SET_CHILD_SUBREAPER, 0)


def killed_at_a_random_moment(*arguments: str) -> None:
    command = alone.command(killed_parent.repeat, *arguments)
    program = subprocess.Popen(command, stdout=subprocess.PIPE, env=alone.environment())
    assert program.stdout
    with program.stdout:
        assert program.stdout.read(5) == b"ready"
        time.sleep(random.uniform(0, LONGEST))
        program.kill()
        assert program.wait() == -signal.SIGKILL


def assert_all_end() -> None:
    """Check that all exit. Every process that it left is now a child of this one."""
    end = time.monotonic() + ENDED_WITHIN
    while time.monotonic() < end:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.002)
        except ChildProcessError:
            return
    pytest.fail(subprocess.run(["ps", "-ef", "--forest"], capture_output=True, text=True).stdout)


KINDS = ["namespace", "command", "init", "callback", "holder", "holder without maps", "joined"]


@pytest.mark.usefixtures("orphans_come_here")
@pytest.mark.parametrize("kind", KINDS)
def test_no_process_is_left(kind: str) -> None:
    for _ in range(KILLS // len(KINDS) + 1):
        killed_at_a_random_moment(kind)
        assert_all_end()


@pytest.mark.root
@pytest.mark.usefixtures("orphans_come_here")
def test_no_process_is_left_in_a_cgroup() -> None:
    with cgroups.cgroup() as path:
        for _ in range(KILLS // len(KINDS) + 1):
            killed_at_a_random_moment("cgroup", str(path))
            assert_all_end()
        assert (path / "cgroup.procs").read_text() == ""
