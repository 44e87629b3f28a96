"""The tables of the mutation run name files that exist."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import mutation

SOURCES = [
    str(path.relative_to(mutation.ROOT / mutation.PACKAGE)) for path in (mutation.ROOT / mutation.PACKAGE).rglob("*.*")
]


def test_each_pattern_is_the_first_that_fits_a_source() -> None:
    used = {next((pattern for pattern in mutation.TESTS if fnmatch(source, pattern)), None) for source in SOURCES}
    assert set(mutation.TESTS) - used == set()


def test_the_tests_of_each_source_exist() -> None:
    names = {name for tests in mutation.TESTS.values() for name in tests.split()}
    assert {name for name in names if not Path(__file__).with_name(f"test_{name}.py").exists()} == set()
