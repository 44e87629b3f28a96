"""Runs a function as an unprivileged user that has subordinate IDs.

Root gets a mount namespace in which copies of /etc/subuid and /etc/subgid are over
the real ones (and further files if a test requests them), and becomes that user there. When
the tests run as that user, `tests/run` has done so before.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import alone

UID = 1000
FIRST, COUNT = 100000, 65536
"""Of the subordinate ids."""

TESTS = Path(__file__).parent
SHADOW = Path(os.environ.get("SHADOW", f"{sys.prefix}/shadow"))
SUITES = ("bookworm", "trixie")
"""Debian releases: shadow 4.13 knows a process by pid alone, 4.17 also by fd:N."""

DROP = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--inh-caps=-all")
"""The command by which root becomes the user."""
WITH_GROUPS = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--groups", f"{UID},27,999", "--inh-caps=-all")
"""With two supplementary groups that no namespace maps."""


def shadow(suite: str) -> Path:
    """Return the folder with newuidmap and newgidmap of a Debian release."""
    folder = SHADOW / suite
    if not (folder / "newgidmap").exists():
        assert os.geteuid() == 0, f"as root, run first: tests/fetch-shadow {suite} {folder}"
        subprocess.run(
            [TESTS / "fetch-shadow", suite, folder], check=True, stdout=subprocess.DEVNULL, timeout=alone.A_HANG
        )
    return folder


def in_private_mounts(*command: str) -> list[str]:
    SHADOW.mkdir(exist_ok=True)
    folders = [sys.base_prefix, str(TESTS.parent), sys.prefix, str(SHADOW)]
    return ["unshare", "--mount", "--propagation", "private", str(TESTS / "expose"), *folders, "--", *command]


def as_unprivileged_user(
    function: Callable[..., object],
    *arguments: object,
    subuid: str | None = None,
    subgid: str | None = None,
    before: str = "",
    drop: Sequence[str] = DROP,
    env: Mapping[str, str] | None = None,
    status: int = 0,
) -> str:
    """Call *function* in a new interpreter, as that user, and return what it printed.

    Args:
        function: as of `alone.run_alone`.
        subuid: the text of /etc/subuid. This and the following arguments are for root.
        before: a shell script that root runs first, in the private mount namespace.
        drop: how root becomes the user.
    """
    python = alone.command(function, *arguments)
    environment = {**alone.environment(), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    command = python
    if os.geteuid() == 0:
        environment |= {name: text for name, text in (("SUBUID", subuid), ("SUBGID", subgid)) if text is not None}
        script = f'set -e\n{before}\nexec "$@"'
        command = in_private_mounts("sh", "-c", script, "sh", *drop, *python)
    else:
        assert not before
        assert (subuid, subgid) == (None, None)
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=alone.A_HANG, env=environment, cwd="/", check=False
    )
    assert result.returncode == status, f"{result.returncode}: {result.stdout}\n{result.stderr}"
    return result.stdout
