"""What was written for `subprocess.Popen` runs unchanged: CPython's own tests of it pass."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from conformance.left_out import LEFT_OUT

TESTS = Path(__file__).parent
RUNNER = TESTS / "conformance" / "run_cpython_tests.py"
DOCUMENT = TESTS.parent / "docs" / "coming-from-subprocess.md"
AT_LEAST = 250  # tests; 3.12 has 300


def run_cpython_tests(*arguments: str) -> dict[str, Any]:
    result = subprocess.run([sys.executable, RUNNER, *arguments], capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    outcome: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return outcome


def is_left_out(name: str) -> bool:
    return name.partition(".")[2] in LEFT_OUT


def test_cpythons_own_tests_pass_but_for_those_left_out() -> None:
    """And a test that is left out does fail, so that the list cannot grow old."""
    ours = run_cpython_tests()
    unexpected = {name: text for name, text in ours["failed"].items() if not is_left_out(name)}
    assert not unexpected, "\n\n".join(unexpected.values())
    assert len(ours["passed"]) + len(ours["skipped"]) >= AT_LEAST
    assert [name for name in ours["passed"] if is_left_out(name)] == []
    assert {name.partition(".")[2] for name in ours["failed"]} == set(LEFT_OUT)
    assert not ours["environment altered"]
    assert ours["expected to fail"] == []

    # What is skipped is skipped with `Popen` itself too, and what is left out does not fail with it.
    plain = run_cpython_tests("--plain", *ours["skipped"], *ours["failed"])
    assert plain["failed"] == {}
    assert {name: why for name, why in plain["skipped"].items() if not is_left_out(name)} == ours["skipped"]
    assert all(map(is_left_out, plain["passed"]))


def test_what_is_left_out_is_documented_with_its_reason() -> None:
    rows = re.findall(r"^\| `(test_\w+)` \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert dict(rows) == LEFT_OUT
    assert len(rows) == len(LEFT_OUT)
