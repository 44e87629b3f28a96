"""Set-up is all or nothing: any system call of any step may fail, and what failed is reported."""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import setup_failures
from programs.setup_failures import EXAMPLES

from conftest import IS_ROOT


def test_each_step_has_an_example() -> None:
    assert set(EXAMPLES) == setup_failures.of_public_classes()


@pytest.mark.parametrize("joins_own", [False, True] if IS_ROOT else [False], ids=["new", "own"][: 1 + IS_ROOT])
@pytest.mark.parametrize("name", EXAMPLES)
def test_each_call_may_fail(name: str, joins_own: bool) -> None:
    """The error names the step, its place, its path and the errno; nothing is left, and the command has not run."""
    assert int(run_alone(setup_failures.fail_each_call, name, joins_own)) > 0
