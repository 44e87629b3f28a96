"""CPython's own tests of `multiprocessing` pass with a context of `usernsproc.multiprocessing`, with no exception.

`tests/conformance/run_multiprocessing_tests.py` runs all of them, in some minutes. These classes are the fast ones that
concern the processes themselves.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from alone import A_HANG

RUNNER = Path(__file__).parent / "conformance" / "run_multiprocessing_tests.py"


@pytest.mark.parametrize(
    ("method", "classes", "at_least"),
    [
        ("spawn", ["WithProcessesTestProcess", "WithProcessesTestSubclassingProcess"], 20),
        ("forkserver", ["WithProcessesTestSubclassingProcess", "WithProcessesTestQueue"], 8),
    ],
)
def test_cpythons_own_tests_pass(method: str, classes: list[str], at_least: int) -> None:
    command = [sys.executable, str(RUNNER), method, *classes]
    result = subprocess.run(command, capture_output=True, text=True, timeout=A_HANG)
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout.splitlines()[-1])
    assert not outcome["failed"], "\n\n".join(outcome["failed"].values())
    assert len(outcome["passed"]) >= at_least
    assert not outcome["environment altered"]
