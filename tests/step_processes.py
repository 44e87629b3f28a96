"""The user namespaces in which set-up steps are tried: new ones, one that is joined, the caller's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from usernsproc import PIPE, CompletedProcess, UsernsProcess, run
from usernsproc._setup.step import Step

SHIFTED: dict[str, Any] = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
ROOT: dict[str, Any] = {"uid_map": "root", "gid_map": "root"}
CURRENT: dict[str, Any] = {"uid_map": "current", "gid_map": "current"}
OWN: dict[str, Any] = {"join": "/proc/self/ns/user"}
NEW = [
    pytest.param(ROOT, id="root"),
    pytest.param(CURRENT, id="current"),
    pytest.param(SHIFTED, id="shifted", marks=pytest.mark.root),
]


@contextmanager
def joined(maps: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Options that join a new user namespace with these maps."""
    with UsernsProcess(**maps) as holder, holder.namespace() as userns:
        yield {"join": userns}


def done(script: str, *steps: Step, **options: Any) -> CompletedProcess[str]:
    """A shell script, with these set-up steps."""
    return run(
        ["/bin/sh", "-c", script], stdout=PIPE, stderr=PIPE, text=True, timeout=60, setup=steps, check=False, **options
    )


def seen(script: str, *steps: Step, **options: Any) -> str:
    """What a shell script prints that has to succeed."""
    result = done(script, *steps, **options)
    assert result.returncode == 0, result
    return result.stdout


def status(*steps: Step, **options: Any) -> dict[str, str]:
    """`/proc/self/status` of a command."""
    lines = seen("cat /proc/self/status", *steps, **options).splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}
