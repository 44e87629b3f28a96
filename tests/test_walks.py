"""The number of files that a value passes, and that a new parameter changes, are as the documentation says."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest
from alone import run_alone
from programs.walks import walk_of_a_map

PACKAGE = Path(__file__).parent.parent / "src" / "usernsproc"


def test_a_map_passes_four_files_and_changes_its_type_twice() -> None:
    """Others read it and pass nothing on to the kernel."""
    files, types = json.loads(run_alone(walk_of_a_map, f"0:{os.geteuid()}:1"))
    handed_on = ["_processes/process.py", "_maps/writer.py", "_maps/idmap.py", "_spawn.py"]
    readers = ["_maps/permission.py", "_maps/side.py", "_processes/credentials.py", "_processes/setup.py"]
    assert sorted(files) == sorted([*handed_on, *readers])
    assert types == ["str 0", "IdMap 1", "str 2"]


def names_in(path: Path) -> set[str]:
    """Return names of parameters, keyword arguments, fields and functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.arg, ast.keyword)):
            found.add(node.arg or "")
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return found


@pytest.mark.parametrize("parameter", ["session_keyring", "no_new_privs", "pdeathsig"])
def test_a_parameter_is_in_three_files(parameter: str) -> None:
    """Its type, the constructor, and the function that makes a system call of it. The command line is separate, as is
    `execvp`, for which some have no meaning."""
    files = [path for folder in (".", "_processes", "_namespaces", "_maps") for path in (PACKAGE / folder).glob("*.py")]
    touched = {path.name for path in files if parameter in names_in(path)} - {"become.py"}
    assert {"options.py", "process.py"} <= touched <= {"options.py", "process.py", "setup.py"}
