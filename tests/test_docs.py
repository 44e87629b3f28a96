"""The reference is complete. Its examples are run by conftest.py in the root folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from errno import errorcode
from pathlib import Path
from textwrap import dedent
from types import CodeType
from typing import Any

import pytest

import usernsproc
from usernsproc import _causes, _evidence, setup
from usernsproc._setup import causes
from usernsproc._setup.step import Phase

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "usernsproc"
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def in_sources(pattern: str) -> set[str]:
    return {match for file in SOURCE.rglob("*.py") for match in re.findall(pattern, file.read_text())}


def steps() -> set[str]:
    of_the_core = set(re.findall(r"X\((\w+)\)", (SOURCE / "_core" / "core.h").read_text())) - {"none"}
    return of_the_core | in_sources(r'(?:userns_error|Call)\(\s*"(\w+)"')


def test_the_error_itself_lists_each_step() -> None:
    text = (SOURCE / "_errors.py").read_text().partition("    step: str | None\n")[2].partition("    cause: ")[0]
    assert steps() - set(re.findall(r"`(\w+)`", text)) == set()


def test_each_step_is_explained() -> None:
    assert {step for step in steps() if f"| `{step}` |" not in REFERENCE} == set()


def test_each_cause_is_explained() -> None:
    hyphenated = in_sources(r'"([a-z]+(?:-[a-z0-9]+)+)"') - {
        "no-such-option",
        "best-effort",
        "ca-certificates",
        "child-pid",
        "crypto-policies",
        "exit-code",
        "read-only",
        "sysrq-trigger",
        "thread-self",
        "utf-8",
        *NOT_CAUSES,
    }
    assert len(hyphenated) > 15
    assert {cause for cause in hyphenated if f"`{cause}`" not in REFERENCE} == set()


IDENTIFIER = re.compile(r"[a-z]+(-[a-z0-9]+)+")
NAMES = {**errorcode, 95: "EOPNOTSUPP"}
Triple = tuple[str, str, str]


def documented() -> set[Triple]:
    """Return (step, errno, cause) from the table of causes."""
    table = REFERENCE.partition("### Causes\n")[2].partition("### When a map")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {
        (step, number, cause)
        for causes, where, _ in rows
        for part in where.split("; ")
        for step in re.findall(r"`([A-Z]?[a-z][A-Za-z0-9_]*)`", part)
        for number in re.findall(r"`(E[A-Z0-9]+)`", part)
        for cause in re.findall(r"`(\S+)`", causes)
    }


TABLES = {**_causes.CAUSES, **causes.OF_STEPS, **causes.OF_CALLS}


def in_the_table() -> set[Triple]:
    return {(step, NAMES[number], cause) for (step, number), (cause, _) in TABLES.items()}


def found_by_looking() -> set[Triple]:
    return {
        (step, NAMES[number], cause)
        for (step, number), looks in _evidence._LOOKS.items()
        for look in looks
        for cause in causes_of(look)
    }


def causes_of(look: Callable[..., object]) -> Iterator[str]:
    """Return the identifiers that the function names, itself or by a pair of `_causes.py`."""
    code = look.__code__
    pairs = (look.__globals__.get(name) for name in code.co_names)
    yield from (pair[0] for pair in pairs if isinstance(pair, tuple))
    yield from strings_in(code)


def strings_in(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        for part in constant if isinstance(constant, tuple) else (constant,):
            if isinstance(part, str) and IDENTIFIER.fullmatch(part) and part not in NOT_CAUSES:
                yield part


NOT_CAUSES = {"best-effort", "thread-self", "threads-max", "utf-8"}


def test_each_cause_of_the_tables_is_documented_with_its_step_and_errno() -> None:
    assert in_the_table() | found_by_looking() <= documented(), (in_the_table() | found_by_looking()) - documented()
    assert {cause for _, _, cause in found_by_looking()} >= {"sched-deadline", "cgroup-pids-max", "ids-faked"}


def test_what_is_documented_occurs() -> None:
    """Each cause of the page is named in the code; and a pair of step and errno that the tables
    have, with this cause or one that is found in another way."""
    tables = in_the_table() | found_by_looking()
    of_tables = {cause for _, _, cause in tables} - FOUND_OTHERWISE
    assert {cause for _, _, cause in documented()} <= in_sources(r'"([a-z]+(?:-[a-z0-9]+)*)"')
    assert {triple for triple in documented() - tables if triple[2] in of_tables} == set()


FOUND_OTHERWISE = {
    *(
        "child-killed",
        "proc-read-only",
        "map-written",
        "no-cap-setuid",
        "setgroups-denied",
        "kernel-too-old",
        "not-mounted",
    ),
}
"""Causes that have a row for a step of their own as well, where the code compares."""


def test_each_note_is_a_cause_and_a_remedy() -> None:
    """At least two sentences, the likely cause and the remedy, in plain words."""
    notes = {note for _, note in TABLES.values()}
    assert {note for note in notes if not re.search(r"\S[.)] [A-Z(]", note) or not note.endswith(".")} == set()
    banned = re.compile(r"\b(the own|ordinary user|nobody|somebody|shall|tells?)\b")
    assert {note for note in notes if banned.search(note)} == set()


def test_each_public_name_is_explained() -> None:
    of_subprocess = {name for name in usernsproc.__all__ if hasattr(__import__("subprocess"), name)}
    names = set(usernsproc.__all__) - of_subprocess - {"lowlevel"}
    assert {name for name in names if name not in REFERENCE} == set()


STEPS = (ROOT / "docs" / "setup.md").read_text()


def test_each_public_name_of_setup_is_in_its_reference() -> None:
    assert sorted(re.findall(r"^::: usernsproc\.setup\.(\w+)$", STEPS, re.MULTILINE)) == sorted(setup.__all__)


@pytest.mark.parametrize("name", [name for name in setup.__all__ if name[0].isupper() and name != "Step"])
def test_each_step_has_a_man_page_and_a_kernel_version(name: str) -> None:
    text = vars(setup)[name].__doc__
    assert re.search(r"`[\w-]+\(\d(const)?\)`", text)
    assert re.search(r"Linux \d+\.\d+", text)


def test_the_class_in_the_recipe_for_a_step_is_one() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text.partition("## To add a set-up step\n")[2], re.DOTALL)
    names: dict[str, Any] = {"Step": setup.Step, "Phase": Phase}
    exec("from __future__ import annotations\n" + dedent(block), names)
    found = usernsproc.check_output(
        ["cat", "/proc/self/status"], uid_map="root", setup=[names["NoHugePages"]()], text=True
    )
    assert "THP_enabled:\t0\n" in found
