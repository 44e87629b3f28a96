"""Which limit ended a command: what its signal, its CPU time and the counters of its cgroup show."""

from __future__ import annotations

import os
import signal

from .. import _system_calls
from .._cgroups import OomKills
from .._proc import open_proc_dir_of, read_in
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

    from typing_extensions import TypeAlias


EndedBy: TypeAlias = "Literal['cpu-limit', 'file-size-limit', 'out-of-memory', 'seccomp']"

_BY_SIGNAL: dict[int, EndedBy] = {
    signal.SIGXCPU: "cpu-limit",
    signal.SIGXFSZ: "file-size-limit",
    signal.SIGSYS: "seccomp",
}

NOTES: dict[EndedBy, str] = {
    "cpu-limit": "The command used up its CPU time. Raise the limit RLIMIT_CPU.",
    "file-size-limit": "The command wrote more to a file than RLIMIT_FSIZE allows. Raise this limit.",
    "out-of-memory": "The out-of-memory killer ended the command. Raise memory.max of the cgroup.",
    "seccomp": "A seccomp filter killed the command with SIGSYS. Allow the system call in the filter.",
}
"""For an error: the limit, and what to do."""


def _is_reached(used: float, most: int) -> bool:
    """The kernel counts ticks for the limit, and shows the exact time: on a busy machine they differ by tenths."""
    return most >= 0 and used >= max(most, 1) - max(0.5, most / 10)


class End:
    """How a command ended.

    Args:
        returncode: -N: signal N.
        dumped: it left a core dump.
        cpu: its CPU time in seconds, and the hard limit of it (-1: none), if they are known.
    """

    __slots__ = ("cpu", "dumped", "returncode")

    def __init__(self, returncode: int, dumped: bool = False, cpu: tuple[float, int] | None = None) -> None:
        self.returncode = returncode
        self.dumped = dumped
        self.cpu = cpu

    def limit(self, oom_kills: OomKills | None) -> EndedBy | None:
        """The limit that ended it."""
        if self.returncode != -signal.SIGKILL:
            return _BY_SIGNAL.get(-self.returncode)
        if oom_kills is not None and oom_kills.have_happened():
            return "out-of-memory"
        return "cpu-limit" if self.cpu is not None and _is_reached(*self.cpu) else None


def end_below_init(returncode: int, ending: int) -> End | None:
    """The end of the command below an init that ended with this status; `None`: init did not report one.

    Args:
        ending: the socket on which init reports it.

    A process of the namespace that may trace init can send other messages: init's own status has to agree.
    """
    report = _system_calls.ending(ending)
    if report is None:
        return None
    status, used, most = report
    if os.WIFSIGNALED(status) and returncode == 128 + os.WTERMSIG(status):
        return End(-os.WTERMSIG(status), os.WCOREDUMP(status), (used, most))
    return None


def cpu_of(pidfd: int) -> tuple[float, int] | None:
    """The CPU time and its hard limit of a process that is not reaped; `None`: `/proc` does not show them."""
    try:
        with open_proc_dir_of(pidfd) as process:
            fields = read_in(process, "stat").rpartition(")")[2].split()
            limits = read_in(process, "limits").splitlines()
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])
    hard = next(line.split()[4] for line in limits if line.startswith("Max cpu time"))
    return ticks / os.sysconf("SC_CLK_TCK"), int(hard) if hard.isdigit() else -1
