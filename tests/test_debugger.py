"""A program that uses this package under a debugger, and under a tracer that follows children."""

from __future__ import annotations

import subprocess
from pathlib import Path

import alone
import pytest
from programs import debugger

PROGRAM = alone.command(debugger.use_between_two_breakpoints)
GDB = ["gdb", "-nx", "-batch", "-ex", "set debuginfod enabled off", "-ex", "set breakpoint pending on"]


def output_of(command: list[str]) -> str:
    result = subprocess.run(
        command, env=alone.environment(), capture_output=True, text=True, timeout=alone.A_HANG, check=True
    )
    return result.stdout


@pytest.mark.parametrize("follow", ["parent", "child"])
def test_gdb_stays_with_the_program(follow: str) -> None:
    """gdb regards a child in the program's memory as a thread, which must not execute another program."""
    mode = ["-ex", f"set follow-fork-mode {follow}"]
    output = output_of([*GDB, *mode, "-ex", "run", "--args", *PROGRAM])
    assert "it went on to its end" in output
    assert "exited normally" in output
    assert "is executing new program: /usr/bin/id" not in output


def test_breakpoints_stay() -> None:
    """gdb would remove them from a forked child, and so from the memory that it shares."""
    stops = ["-ex", "break getppid", "-ex", "run", "-ex", "echo first\\n", "-ex", "continue", "-ex", "echo second\\n"]
    output = output_of([*GDB, *stops, "-ex", "continue", "--args", *PROGRAM])
    _, _, after = output.partition("before the last breakpoint")
    assert output.count("Breakpoint 1, ") == 2
    assert after.index("Breakpoint 1, ") < after.index("second") < after.index("it went on to its end")


def test_strace_follows_the_command(tmp_path: Path) -> None:
    log = tmp_path / "log"
    output_of(["strace", "-f", "-e", "trace=execve,execveat", "-o", str(log), *PROGRAM])
    commands = [line for line in log.read_text().splitlines() if '["id", "-u"]' in line and line.endswith("= 0")]
    assert len(commands) == 4
