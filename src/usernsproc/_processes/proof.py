"""Whether the programs of the core run: each is started once, without rights and without namespaces.

Run by `setup.py` on what it has compiled: `proof.py SRC CORE`. The exit status is 0, or 1 when
they could not be tried, as when compiled for another machine; 3 when one of them crashed.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator

TYPE_CHECKING = False  # this file is run by its path

if TYPE_CHECKING:
    from typing import Any

NOT_TRIED, CRASHED = 1, 3
_STATUS = 7
_SHELL = "/bin/sh"


def crashed() -> Iterator[str]:
    """Names of those that ended before they could say why."""
    tried = {"child": _run_command, "launcher": _run_launcher, "holder": _run_holder, "map reader": _run_map_reader}
    from .. import _core

    for name, run in tried.items():
        try:
            run()
        except _core.Failure as failure:
            if failure.args[1] == errno.ESRCH:
                yield name


def _start(**fields: Any) -> int:
    """The return code."""
    from .. import _core
    from .plan import Plan

    plan = Plan(namespaces=0, **fields)
    _core.spawn(plan, None)
    try:
        if plan.is_holder:
            return 0
        result = os.waitid(os.P_PIDFD, plan.pidfd, os.WEXITED | os.WNOWAIT)
        assert result is not None
        return result.si_status
    finally:
        plan.end()


def _run_command(**fields: Any) -> None:
    status = _start(argv=(_SHELL, "-c", f"exit {_STATUS}"), candidates=(_SHELL,), **fields)
    assert status == _STATUS, status


def _run_launcher() -> None:
    _run_command(uid=os.geteuid())  # a change of ids is the launcher's


def _run_holder() -> None:
    _start(is_holder=True, death_signal=9)


def _run_map_reader() -> None:
    """A process cannot enter the user namespace that it is in: that is what it says, if it runs."""
    from .. import _core

    userns = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _core.read_maps(userns)
    finally:
        os.close(userns)


def main(source: str, core: str) -> int:
    from importlib.util import module_from_spec, spec_from_file_location

    sys.path.insert(0, source)
    spec = spec_from_file_location("usernsproc._core", core)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    from usernsproc._processes import proof

    names = list(proof.crashed())
    if names:
        print(f"crashed at its start: {', '.join(names)}. Which compiler flags are set? Try without CFLAGS.")
    return CRASHED if names else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
