"""The manual pages, the completion and the command reference are those of the commands."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import command_docs  # noqa: E402

FILES = command_docs.files()
COMPLETION = ROOT / command_docs.COMPLETIONS["bash"]


@pytest.mark.parametrize("path", FILES)
def test_each_file_is_current(path: str) -> None:
    assert (ROOT / path).read_text() == FILES[path], "run tools/command_docs.py"


def test_there_are_no_others_and_all_are_installed() -> None:
    made = {ROOT / path for path in FILES if path.startswith("share/")}
    assert {file for file in (ROOT / "share").rglob("*") if file.is_file()} == made
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    assert {file for patterns in installed.values() for pattern in patterns for file in ROOT.glob(pattern)} == made


@pytest.mark.parametrize("path", [path for path in FILES if path.startswith("share/man/")])
def test_no_line_of_a_manual_page_is_lost(path: str) -> None:
    """A line that begins with a dot or an apostrophe would be a request to the formatter."""
    requests = {line.split()[0] for line in FILES[path].splitlines() if line.startswith((".", "'"))}
    assert requests <= {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".BR"}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["usernsproc", "cre"], "create"),
        (["usernsproc", "run", "--namesp"], "--namespaces"),
        (["usernsproc", "run", "--setgroups", "de"], "deny"),
        (["usernsproc", "enter", "--targ"], "--target"),
        (["usernsproc", "run", "--map", "rootl"], "rootless"),
        (["usernsproc", "ls", "--kind", "ne"], "net"),
        (["usernsproc", "doctor", "many"], "many-ids"),
    ],
)
def test_bash_completes(words: list[str], found: str) -> None:
    script = f"""source {COMPLETION}
        COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}
        $(complete -p usernsproc | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        echo "${{COMPREPLY[@]}}" """
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert found in result.stdout.split(), result.stderr
