"""A forked copy of a program looks at a process that has ended, and that the program has not reaped yet.

The copy cannot reap it, and its exit status is not lost.
"""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import forks_beside_the_end


@pytest.mark.kernel("6.15")
def test_its_status_is_not_known_yet() -> None:
    run_alone(forks_beside_the_end.poll_in_a_copy)
