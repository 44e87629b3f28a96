"""Set-up is all or nothing: any system call of any step may fail, and what failed is reported."""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import setup_failures
from programs.setup_failures import of_public_classes


@pytest.mark.parametrize("name", sorted(of_public_classes()))
def test_each_call_may_fail(name: str) -> None:
    """The error names the step, its place, its path and the errno; nothing is left, and the command has not run."""
    assert int(run_alone(setup_failures.fail_each_call, name, False)) > 0


@pytest.mark.root
@pytest.mark.parametrize("name", sorted(of_public_classes()))
def test_each_call_may_fail_without_a_new_user_namespace(name: str) -> None:
    assert int(run_alone(setup_failures.fail_each_call, name, True)) > 0
