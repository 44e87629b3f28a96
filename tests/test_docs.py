"""The reference is complete. Its examples are run by conftest.py of the root folder."""

from __future__ import annotations

import re
from pathlib import Path

import usernsproc

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "usernsproc"
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def in_sources(pattern: str) -> set[str]:
    return {match for file in SOURCE.rglob("*.py") for match in re.findall(pattern, file.read_text())}


def steps() -> set[str]:
    of_the_core = set(re.findall(r"X\((\w+)\)", (SOURCE / "_core" / "core.h").read_text())) - {"none"}
    return of_the_core | in_sources(r'userns_error\(\s*"(\w+)"')


def test_the_error_itself_lists_each_step() -> None:
    text = (SOURCE / "_errors.py").read_text().partition("    step: str | None\n")[2].partition("    cause: ")[0]
    assert steps() - set(re.findall(r"`(\w+)`", text)) == set()


def test_each_step_is_explained() -> None:
    assert {step for step in steps() if f"| `{step}` |" not in REFERENCE} == set()


def test_each_cause_is_explained() -> None:
    hyphenated = in_sources(r'"([a-z]+(?:-[a-z]+)+)"') - {"no-such-option", "read-only", "thread-self", "utf-8"}
    assert len(hyphenated) > 15
    assert {cause for cause in hyphenated if f"`{cause}`" not in REFERENCE} == set()


def test_each_public_name_is_explained() -> None:
    of_subprocess = {name for name in usernsproc.__all__ if hasattr(__import__("subprocess"), name)}
    names = set(usernsproc.__all__) - of_subprocess - {"lowlevel"}
    assert {name for name in names if name not in REFERENCE} == set()
