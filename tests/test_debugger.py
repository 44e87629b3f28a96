"""A program that uses this package under a debugger, and under a tracer that follows children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alone import A_HANG

PROGRAM = """
import os, threading, usernsproc
from usernsproc import UsernsProcess

def use():
    assert usernsproc.check_output(["id", "-u"], uid_map="root") == b"0\\n"
    assert usernsproc.check_output(["id", "-u"], uid_map="root", user=0) == b"0\\n"
    with UsernsProcess(uid_map="root") as holder, holder.namespace() as userns:
        assert userns.uid_map == holder.uid_map
    with usernsproc.create_userns("root", "root") as userns:
        assert userns.uid_map

os.getppid()
use()
thread = threading.Thread(target=use)
thread.start()
thread.join()
print("before the last breakpoint", flush=True)
os.getppid()
print("it went on to its end", flush=True)
"""

GDB = ["gdb", "-nx", "-batch", "-ex", "set debuginfod enabled off", "-ex", "set breakpoint pending on"]


def output_of(command: list[str | Path], folder: Path) -> str:
    (folder / "program.py").write_text(PROGRAM)
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=A_HANG, check=True)
    return result.stdout


@pytest.mark.parametrize("follow", ["parent", "child"])
def test_gdb_stays_with_the_program(follow: str, tmp_path: Path) -> None:
    """It takes a child in the program's memory for a thread, which must not execute another program."""
    mode = ["-ex", f"set follow-fork-mode {follow}"]
    output = output_of([*GDB, *mode, "-ex", "run", "--args", sys.executable, "program.py"], tmp_path)
    assert "it went on to its end" in output
    assert "exited normally" in output
    assert "is executing new program: /usr/bin/id" not in output


def test_breakpoints_stay(tmp_path: Path) -> None:
    """gdb would remove them from a forked child, and so from the memory that it shares."""
    stops = ["-ex", "break getppid", "-ex", "run", "-ex", "echo first\\n", "-ex", "continue", "-ex", "echo second\\n"]
    output = output_of([*GDB, *stops, "-ex", "continue", "--args", sys.executable, "program.py"], tmp_path)
    _, _, after = output.partition("before the last breakpoint")
    assert output.count("Breakpoint 1, ") == 2
    assert after.index("Breakpoint 1, ") < after.index("second") < after.index("it went on to its end")


def test_strace_follows_the_command(tmp_path: Path) -> None:
    log = tmp_path / "log"
    output_of(["strace", "-f", "-e", "trace=execve,execveat", "-o", log, sys.executable, "program.py"], tmp_path)
    commands = [line for line in log.read_text().splitlines() if '["id", "-u"]' in line and line.endswith("= 0")]
    assert len(commands) == 4
