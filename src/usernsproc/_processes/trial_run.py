"""Starts each program of the core once, without rights and without namespaces.

Run by `setup.py` on what it has compiled: `trial_run.py SRC CORE`. The exit status is 0, or 1 when
they could not be tried, as when compiled for another machine; 3 when one of them crashed.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator

NOT_TRIED, CRASHED = 1, 3
TYPE_CHECKING = False  # this file is run by its path

if TYPE_CHECKING:
    from .._setup.calls import SystemCall

_STATUS = 7
_SHELL = "/bin/sh"


def crashed() -> Iterator[str]:
    """Names of those that ended before they could say why."""
    tried = {"child": _run_command, "launcher": _run_launcher, "holder": _run_holder}
    from .. import _core
    from .._errors import UsernsError

    for name, run in tried.items():
        try:
            run()
        except (UsernsError, _core.Failure) as failure:
            if errno.ESRCH in failure.args:
                yield name


def _run_command(*calls: SystemCall) -> None:
    from .._setup.calls import Setup
    from .._spawn import Namespaces, Program, start

    program = Program((_SHELL, "-c", f"exit {_STATUS}"), (_SHELL,))
    with start(program, namespaces=Namespaces(0), setup=Setup(calls)) as child:
        result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
        assert result is not None
        assert result.si_status == _STATUS, result


def _run_launcher() -> None:
    from .._setup.calls import OWN_MEMORY, SystemCall

    _run_command(SystemCall("prepare", "umask", 0o77, needs=OWN_MEMORY))


def _run_holder() -> None:
    from .._setup.calls import SETUP_OF_HOLDER
    from .._spawn import HIDDEN, Namespaces, start

    with start(None, namespaces=Namespaces(0), setup=SETUP_OF_HOLDER, signals=HIDDEN):
        pass


def main(source: str, core: str) -> int:
    from importlib.util import module_from_spec, spec_from_file_location

    sys.path.insert(0, source)
    spec = spec_from_file_location("usernsproc._core", core)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    from usernsproc._processes import trial_run

    names = list(trial_run.crashed())
    if names:
        print(f"crashed at its start: {', '.join(names)}. Which compiler flags are set? Try without CFLAGS.")
    return CRASHED if names else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
