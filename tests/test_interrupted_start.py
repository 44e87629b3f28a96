"""An exception before any line of the package that runs after a child exists, as from a debugger's trace function.

It is raised unchanged. Nothing is left, and no descriptor is closed twice: its number may be that of another file by
then.
"""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import interrupted_start


@pytest.mark.parametrize("name", interrupted_start.STARTS)
def test_a_start_that_is_interrupted(name: str) -> None:
    run_alone(interrupted_start.interrupt_before_each_line, name)
