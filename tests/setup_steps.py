"""What the tests of set-up steps have in common: commands that look from inside, in each kind of user namespace."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands import output

from usernsproc.setup import Step

NEW: dict[str, Any] = {"uid_map": "current"}
OWN: dict[str, Any] = {"join": "/proc/self/ns/user"}
"""No user namespace is created."""
WITH_INIT: dict[str, Any] = {**NEW, "namespaces": ["pid"], "init": True}

CAP_SYS_NICE, CAP_SYS_RESOURCE = 23, 24


def has_capability(number: int) -> bool:
    """Return whether the caller has it, and is in the initial user namespace as far as it can see."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    everything = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    return everything and bool(int(status["CapEff"], 16) >> number & 1)


def python(code: str, *arguments: str) -> list[str]:
    """A command that runs the code, without what an environment adds to Python."""
    return [sys.executable, "-I", "-S", "-c", code, *arguments]


def inside(code: str, *steps: Step, userns: dict[str, Any] = NEW, **options: Any) -> Any:
    """The value of a Python expression in the command."""
    command = python(f"import json, os, sys; print(json.dumps({code}))")
    return json.loads(output(command, setup=steps, **{**userns, **options}))


def status(*steps: Step, **options: Any) -> dict[str, str]:
    """`/proc/self/status` of a command that changes nothing in it."""
    text = output(["/bin/cat", "/proc/self/status"], setup=steps, **{**NEW, **options})
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def signal_set(text: str) -> set[int]:
    """From the hexadecimal form of `/proc/PID/status`."""
    mask = int(text, 16)
    return {number for number in range(1, 65) if mask >> number - 1 & 1}


def file_of(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def targets_of(fds: Sequence[int]) -> list[str]:
    return [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]
