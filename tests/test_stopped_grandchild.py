"""A helper program that is stopped, and is not a child of the caller: its parent continues it."""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import stopped_grandchild


@pytest.mark.root
def test_a_namespace_for_another_owner_is_created_all_the_same() -> None:
    run_alone(stopped_grandchild.stop_the_holder)
