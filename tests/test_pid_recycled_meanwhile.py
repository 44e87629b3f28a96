"""A process exits, is reaped, and another gets its PID, while a call uses it.

This happens before each system call of the call, where the program is stopped. The other process is never inspected,
signalled or mapped, and the call fails, or has done all that it had to do with the first process.
"""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import pid_recycled_meanwhile

pytestmark = pytest.mark.root


@pytest.mark.parametrize("name", pid_recycled_meanwhile.CREATIONS)
def test_while_it_is_created(name: str) -> None:
    run_alone(pid_recycled_meanwhile.create, name)


@pytest.mark.parametrize("name", pid_recycled_meanwhile.LOOKS)
def test_while_it_is_looked_at(name: str) -> None:
    run_alone(pid_recycled_meanwhile.look_at, name)
