"""The page "When it does not work" lists texts as the library prints them, with causes that exist."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from test_docs import documented

from usernsproc import UsernsError
from usernsproc._causes import REMEDIES
from usernsproc._diagnosis.explanations import EXPLANATIONS

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "when-it-does-not-work.md").read_text()
TEXT = re.compile(r"`(\w+): ([^`\[]+?)(: '…')? \[(E\w+), ([a-z0-9-]+)\]`")


def of_explanations() -> set[tuple[str, str, str]]:
    return {
        (step, errno.errorcode[number], row.cause)
        for row in EXPLANATIONS
        for step in row.steps
        for number in row.errnos
    }


def test_each_text_is_one_of_the_library() -> None:
    texts = TEXT.findall(PAGE)
    assert len(texts) > 25
    for step, message, filename, name, cause in texts:
        number: int = getattr(errno, name)
        error = UsernsError(number, os.strerror(number), "…" if filename else None, step=step, cause=cause)
        shown = f"{step}: {message}{filename} [{name}, {cause}]"
        assert str(error).replace("ENOTSUP,", "EOPNOTSUPP,") == shown


def test_each_text_has_a_step_an_errno_and_a_cause_that_occur_together() -> None:
    """A set-up step has the causes of its system calls as well."""
    known = documented() | of_explanations()
    found = {(step, name, cause) for step, _, _, name, cause in TEXT.findall(PAGE)}
    of_calls = {("", name, cause) for step, name, cause in known}
    assert {triple for triple in found - known if not triple[0].istitle() or ("", *triple[1:]) not in of_calls} == set()


def test_each_cause_in_parentheses_is_one() -> None:
    known = {cause for _, _, cause in documented()} | set(REMEDIES)
    assert set(re.findall(r"\(`([a-z]+(?:-[a-z0-9]+)+)`\)", PAGE)) - known == set()


def test_all_causes_of_the_doctor_for_clone_are_on_the_page() -> None:
    """Except those that no supported system has."""
    causes = {row.cause for row in EXPLANATIONS if "clone" in row.steps}
    assert {cause for cause in causes if cause not in PAGE} == {"kernel-too-old"}
