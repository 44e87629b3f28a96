"""The programs of `test_package.py`."""

from __future__ import annotations

import sys

import usernsproc


def names_are_loaded_when_asked_for() -> None:
    assert not [name for name in sys.modules if name.startswith("usernsproc.")]
    assert set(usernsproc.__all__) <= set(dir(usernsproc))
    assert callable(usernsproc.create_userns)
    assert "usernsproc._processes.process" not in sys.modules
    assert callable(usernsproc.lowlevel.fork_userns)
    assert usernsproc.run is usernsproc.run
    assert not hasattr(usernsproc, "nothing")
