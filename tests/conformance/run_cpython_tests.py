"""CPython's own tests of `subprocess`, with `Popen` replaced by `UsernsProcess`.

    python tests/conformance/run_cpython_tests.py [--plain] [-v] [CLASS[.TEST] ...]

The tests are those that came with the running interpreter. They are imported
after the replacement, and so is what they use of `test.support`: code that asks the
module `subprocess` for `Popen`, its own `run` and `call` included, gets the
replacement. In an interpreter that a test starts, `subprocess` is as it always is.

With `--plain` nothing is replaced, which shows what this machine skips in any case.
The last line printed is the outcome, as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
from typing import Any

EVERY_ID = "0:0:4294967295"
GIVE_UP_AFTER = 500  # seconds; then all threads are shown


def replace_popen() -> None:
    """Only the namespace differs: root maps every ID, other users only their own, both unchanged."""
    from usernsproc import UsernsProcess

    id_map = EVERY_ID if os.geteuid() == 0 else "current"

    class Popen(UsernsProcess[Any]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, uid_map=id_map, gid_map=id_map, **options)

    subprocess.Popen = Popen  # type: ignore[misc]


class Result(unittest.TextTestResult):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.passed: list[unittest.TestCase] = []

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addSuccess(test)
        self.passed.append(test)

    def outcome(self) -> dict[str, Any]:
        support = importlib.import_module("test.support")
        return {
            "passed": [name_of(test) for test in self.passed],
            "failed": {name_of(test): text for test, text in self.failures + self.errors},
            "skipped": {name_of(test): reason for test, reason in self.skipped},
            "expected to fail": [name_of(test) for test, _ in self.expectedFailures],
            "environment altered": bool(support.environment_altered),  # a child was left, say
        }


def name_of(test: unittest.TestCase) -> str:
    """`Class.test`; of a subtest, that of its test."""
    whole: unittest.TestCase = getattr(test, "test_case", test)
    return ".".join(whole.id().split(".")[-2:])


def suite(names: list[str]) -> unittest.TestSuite:
    module = importlib.import_module("test.test_subprocess")
    loader = unittest.defaultTestLoader
    return loader.loadTestsFromNames(names, module) if names else loader.loadTestsFromModule(module)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    faulthandler.dump_traceback_later(GIVE_UP_AFTER, exit=True)
    if not arguments.plain:
        replace_popen()
    began = time.monotonic()
    # Tests write into the current directory.
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        runner = unittest.TextTestRunner(sys.stderr, verbosity=1 + arguments.verbose, resultclass=Result)
        result = runner.run(suite(arguments.names))
        assert isinstance(result, Result)
        outcome = result.outcome()
    print(json.dumps({**outcome, "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main()
