"""Set-up steps: what runs between clone and exec, as data."""

from .._setup.file_systems import Bind, Cgroup2, Dev, Devpts, Mqueue, Proc, Root, Sysfs, Tmpfs
from .._setup.names import Domainname, Hostname, Loopback, SessionKeyring, TimeOffset
from .._setup.process import (
    Affinity,
    CoreScheduling,
    IoPriority,
    Nice,
    OomScoreAdj,
    Personality,
    Rlimit,
    Scheduler,
    TimerSlack,
)
from .._setup.signals import Signals
from .._setup.step import Step
from .._setup.terminal import ControllingTerminal, Descriptors, Foreground

__all__ = [
    "Affinity",
    "Bind",
    "Cgroup2",
    "ControllingTerminal",
    "CoreScheduling",
    "Descriptors",
    "Dev",
    "Devpts",
    "Domainname",
    "Foreground",
    "Hostname",
    "IoPriority",
    "Loopback",
    "Mqueue",
    "Nice",
    "OomScoreAdj",
    "Personality",
    "Proc",
    "Rlimit",
    "Root",
    "Scheduler",
    "SessionKeyring",
    "Signals",
    "Step",
    "Sysfs",
    "TimeOffset",
    "TimerSlack",
    "Tmpfs",
]
