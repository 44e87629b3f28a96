"""Runs the examples of README.md and docs/*.md.

A block ```` ```python ```` is executed, all of a document in one namespace. In a
block ```` ```console ```` the lines after `$ ` are given to one shell, and what
each prints has to be what is written below it. A block after the comment
`<!-- needs: root -->` is left out, not skipped, for anybody else; one after
`<!-- needs: subordinate ids -->` for root, which has none on most systems.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable

from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

IS_ROOT = os.geteuid() == 0
NEEDS = re.compile(r"<!-- needs: (.*) -->\s*\Z")
LEFT_OUT = "subordinate ids" if IS_ROOT else "root"
COMMAND = re.compile(r"^\$ (.*)\n", re.MULTILINE)
TIMEOUT = 60


class BlocksForThisUser(CodeBlockParser):
    def __call__(self, document: Document) -> Iterable[Region]:
        for region in super().__call__(document):
            needs = NEEDS.search(document.text, 0, region.start)
            if needs is None or needs[1] != LEFT_OUT:
                yield region


class PythonBlocks(PythonCodeBlockParser):
    codeblock_parser_class = BlocksForThisUser


def run_console(example: Example) -> None:
    before, *rest = COMMAND.split(example.parsed)
    assert not before.strip(), f"a console block begins with '$ ', not with {before!r}"
    commands, expected = rest[::2], rest[1::2]
    # A NUL after each command tells their outputs apart; $? is kept for the next.
    script = "".join(f"{command}\nset -- $?; printf '\\0'; (exit $1)\n" for command in commands)
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    result = subprocess.run(
        ["/bin/sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"},
    )
    printed = result.stdout.split("\0")[:-1]
    for command, wanted, got in zip(commands, expected, printed, strict=True):
        assert got == wanted, f"$ {command}\nprinted {got!r}, the document has {wanted!r}"


pytest_collect_file = Sybil(
    parsers=[PythonBlocks(), BlocksForThisUser("console", run_console)],
    patterns=["README.md", "docs/*.md"],
).pytest()
