"""Forked copies of the program: the process is not their child, and they do not change it.

Python's hooks see only the forks that Python makes. Servers written in C, such as uWSGI,
fork without them, and so does any library.
"""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import forks, forks_in_sandbox

each_fork = pytest.mark.parametrize("how", forks.FORKS)


@each_fork
@pytest.mark.parametrize("act", forks.ACTS)
@pytest.mark.parametrize("kind", ["holder", "command"])
def test_the_process_of_the_first_runs_on(kind: str, act: str, how: str) -> None:
    run_alone(forks.act_on_the_process_of_the_first, how, act, kind)


@each_fork
def test_a_copy_has_processes_of_its_own(how: str) -> None:
    run_alone(forks.processes_of_a_copy, how)


@each_fork
def test_a_copy_in_a_pid_namespace_with_the_same_pid(how: str) -> None:
    """The PID of a process does not show whether it is a copy."""
    run_alone(forks.copies_with_the_same_pid, how)


@each_fork
def test_every_copy_has_another_number(how: str) -> None:
    """All threads and interpreters of one process have the same number."""
    run_alone(forks.another_number, how)


def test_an_interpreter_shares_the_number_with_the_others() -> None:
    run_alone(forks.number_of_another_interpreter)


def test_where_the_kernel_cannot_empty_a_page_libc_reports_forks() -> None:
    """A sandbox that implements less of madvise(2), as gVisor does."""
    run_alone(forks_in_sandbox.number_and_process_of_a_copy, "fork(2) by C")


@each_fork
@pytest.mark.parametrize("act", forks.ASYNC_ACTS)
def test_the_loop_of_the_first_is_notified_as_before(act: str, how: str) -> None:
    """asyncio's selector is shared with a copy: what that removes from it is removed for both."""
    run_alone(forks.loop_beside_a_copy, how, act)
