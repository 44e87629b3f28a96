"""Each program of `examples/` is short, runs, and is the first block of its page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MOST_LINES = 25  # without blank ones
PAGES = {path: path.read_text() for path in (ROOT / "docs").glob("*.md")}
A_HANG = 300


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_runs(example: Path) -> None:
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=A_HANG)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_is_short_and_its_page_shows_it(example: Path) -> None:
    text = example.read_text()
    assert sum(bool(line.strip()) for line in text.splitlines()) <= MOST_LINES
    (page,) = (text for text in PAGES.values() if f"This is `examples/{example.name}`." in text)
    first = re.search(r"```python\n(.*?)```\n", page, re.DOTALL)
    assert first is not None
    assert first[1] == text


def test_each_page_with_an_example_is_reached() -> None:
    """From the start page, and from the navigation."""
    pages = {path.name for path, text in PAGES.items() if "This is `examples/" in text}
    assert len(pages) == len(EXAMPLES) >= 4
    index, navigation = (ROOT / "docs" / "index.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    assert {page for page in pages if f"]({page}" not in index or f": {page}\n" not in navigation} == set()
