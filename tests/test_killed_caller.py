"""A program that is killed while it creates a namespace, at the worst moments.

The child in its memory, which keeps the namespace alive until it is open, is killed with it.
"""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import killed_caller


@pytest.mark.parametrize("when", ["just cloned", "asleep"])
def test_the_child_that_keeps_the_namespace_ends_with_the_caller(when: str) -> None:
    run_alone(killed_caller.kill_the_caller, when)
