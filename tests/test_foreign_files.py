"""Files of the system are not trusted and not executed in a mount namespace that another user controls."""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import foreign_files


@pytest.mark.parametrize("call", foreign_files.CALLS)
def test_in_a_foreign_mount_namespace(call: str) -> None:
    """Neither /etc/subuid, /etc/passwd nor nsswitch.conf is read there, and no program in PATH is run. Before the
    thread enters, in a mount namespace of the caller, and after it has left, everything works; so do maps that need
    no file."""
    run_alone(foreign_files.refused_there, call)
