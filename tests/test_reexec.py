"""`reexec`: the program runs itself again in a user namespace."""

from __future__ import annotations

import os
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, usernsproc
before = os.environ.get("USERNSPROC_REEXEC")
usernsproc.reexec("root")
print(os.getpid(), os.getuid(), sys.argv[1:], sys.flags.optimize, sys.flags.isolated, sys.stdin.readline().strip())
print(open("/proc/self/uid_map").read().split())
sys.exit(7)
"""


def expected(pid: int, *arguments: str, optimize: int = 0, isolated: int = 0) -> str:
    return f"{pid} 0 {list(arguments)} {optimize} {isolated} typed\n{['0', str(os.geteuid()), '1']}\n"


def started(command: list[str], folder: Path, **environment: str) -> tuple[int, int, str, str]:
    env = {**os.environ, **environment}
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True, cwd=folder, env=env) as process:
        out, error = process.communicate("typed\n", timeout=60)
    return process.pid, process.returncode, out, error


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    source = tmp_path / "source"
    source.mkdir()
    (source / "__main__.py").write_text(PROGRAM)
    zipapp.create_archive(source, tmp_path / "program.pyz", interpreter=sys.executable)
    (tmp_path / "program").write_text(f"#!{sys.executable}\n{PROGRAM}")
    (tmp_path / "program").chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "program.py"],
        [sys.executable, "-m", "program"],
        [sys.executable, "-c", PROGRAM],
        [sys.executable, "program.pyz"],
        ["./program.pyz"],
        ["./program"],
    ],
    ids=["script", "module", "text", "archive", "executable archive", "entry point"],
)
def test_it_runs_again_with_its_arguments(command: list[str], folder: Path) -> None:
    pid, status, out, error = started([*command, "a b", "--c"], folder)
    assert (status, out, error) == (7, expected(pid, "a b", "--c"), "")


def test_flags_of_the_interpreter(folder: Path) -> None:
    command = [sys.executable, "-O", "-O", "-I", "-X", "utf8", "program.py"]
    pid, status, out, error = started(command, folder)
    assert (status, out, error) == (7, expected(pid, optimize=2, isolated=1), "")


def test_a_program_that_it_starts_stays_in_the_namespace(folder: Path) -> None:
    script = (
        "import os, subprocess, sys, usernsproc; usernsproc.reexec('root');"
        'child = \'import os, usernsproc; usernsproc.reexec("current"); print(os.readlink("/proc/self/ns/user"))\';'
        "print(os.readlink('/proc/self/ns/user'), flush=True);"
        "subprocess.run([sys.executable, '-c', child], check=True)"
    )
    own, child = started([sys.executable, "-c", script], folder)[2].split()
    assert own == child != os.readlink("/proc/self/ns/user")


@pytest.mark.parametrize("value", ["", "1", "4:1:1", "x:y:z", ":::"])
def test_a_variable_from_elsewhere_has_no_effect(value: str, folder: Path) -> None:
    pid, status, out, _ = started([sys.executable, "program.py"], folder, USERNSPROC_REEXEC=value)
    assert (status, out) == (7, expected(pid))


def test_there_is_no_loop(folder: Path) -> None:
    script = "import os, usernsproc; os.environ['USERNSPROC_REEXEC'] = f'4:1:{os.getpid()}';usernsproc.reexec('root')"
    _, status, _, error = started([sys.executable, "-c", script], folder)
    assert status == 1
    assert "RuntimeError: reexec: the program runs again, but not in the user namespace" in error


@pytest.mark.parametrize("more", [[], ["-"], ["-", "argument"]])
def test_a_program_from_standard_input_is_refused(more: list[str], folder: Path) -> None:
    script = "import usernsproc; usernsproc.reexec('root')"
    result = subprocess.run([sys.executable, *more], input=script, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 1
    assert "RuntimeError: reexec: the program was read from standard input" in result.stderr


def test_an_error_leaves_the_program_as_it_is(folder: Path) -> None:
    script = (
        "import os, usernsproc\n"
        "try:\n    usernsproc.reexec('0:0:0')\n"
        "except usernsproc.IdMapError:\n    print(os.readlink('/proc/self/ns/user'))"
    )
    assert started([sys.executable, "-c", script], folder)[2].strip() == os.readlink("/proc/self/ns/user")
