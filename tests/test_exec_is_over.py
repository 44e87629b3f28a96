"""When a command has started, execve(2) is complete: other tools see the program."""

from __future__ import annotations

from alone import run_alone
from programs import exec_is_over


def test_the_process_has_the_name_of_the_program() -> None:
    run_alone(exec_is_over.look_at_the_name)
