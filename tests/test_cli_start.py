"""Each command loads its own modules alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from usernsproc._cli import COMMANDS

SLOW = {
    "argparse",
    "typing",
    "json",
    "shutil",
    "inspect",
    "difflib",
    "textwrap",
    "importlib.metadata",
    "importlib.util",
}
"""Modules of the standard library that take long to load."""
OF_THE_COMMAND = {"_arguments", "options", "output", "parser"}
DIRECT = {
    "run": ["run", "--map", "root", "--", "true"],
    "enter": ["enter", "/proc/self/ns/net", "--", "true"],
    "map": ["map", "0:1000:1"],
    "ls": ["ls"],
}


def loaded(*arguments: str) -> set[str]:
    """The modules that a command has loaded when it ends or becomes another program, other than those of the
    interpreter."""
    source = f"""
import sys
before = set(sys.modules)
def show():
    print(*sorted(set(sys.modules) - before), file=sys.stderr, flush=True)
sys.addaudithook(lambda event, _: show() if event == "os.exec" else None)
from usernsproc.__main__ import main
assert main({list(arguments)!r}) == 0
show()"""
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=60)
    return set(result.stderr.splitlines()[-1].split())


def of_the_command_line(modules: set[str]) -> set[str]:
    prefix = "usernsproc._cli."
    return {module.removeprefix(prefix) for module in modules if module.startswith(prefix)}


def test_run_loads_what_it_needs() -> None:
    modules = loaded(*DIRECT["run"])
    assert of_the_command_line(modules) == {*OF_THE_COMMAND, "run"}
    assert modules & SLOW == set()
    others = {module for module in modules if module.startswith(("usernsproc._mounts", "usernsproc._diagnosis"))}
    assert others == set()
    assert "usernsproc.setup" not in modules


@pytest.mark.parametrize("name", [name for name in DIRECT if name != "enter" or os.geteuid() == 0])
def test_no_command_loads_another(name: str) -> None:
    assert of_the_command_line(loaded(*DIRECT[name])) & set(COMMANDS) == {name}


def test_options_load_what_they_need() -> None:
    modules = loaded("run", "--map", "root", "--nice", "0", "--", "true")
    assert "usernsproc._setup.process" in modules
    assert "usernsproc._cli.sandbox" not in modules
    assert "usernsproc._cli.sandbox" in loaded("run", "--ro-bind", "/", "/", "--", "true")
