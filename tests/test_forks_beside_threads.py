"""A forked copy of a program, another thread of which was at work on a process.

The copy does not have that thread: a lock that the thread held is never released.
"""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import forks_beside_threads


@pytest.mark.parametrize("name", forks_beside_threads.WORK)
def test_a_copy_closes_a_process_whatever_another_thread_did_with_it(name: str) -> None:
    run_alone(forks_beside_threads.fork_at_each_point, name)
