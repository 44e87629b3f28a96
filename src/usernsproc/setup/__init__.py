"""Set-up steps: what runs between clone and exec, as data."""

# A program may leave its root directory before it uses steps.
from .._setup import compiler as _compiler  # noqa: F401  # pyright: ignore[reportUnusedImport]
from .._setup.call import Call
from .._setup.file_systems import Bind, Cgroup2, Dev, Devpts, Mqueue, Proc, Root, Sysfs, Tmpfs
from .._setup.files import Chroot, Dir, File, Mask, Remount, Symlink, Unmount
from .._setup.landlock import Landlock
from .._setup.names import Domainname, Hostname, Loopback, SessionKeyring, TimeOffset
from .._setup.overlay import Overlay
from .._setup.privileges import Capabilities, NoUserNamespaces
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
from .._setup.ready_made import host_read_only, minimal_root, untrusted
from .._setup.seccomp import Seccomp
from .._setup.signals import Signals
from .._setup.step import Step
from .._setup.terminal import ControllingTerminal, Descriptors, Foreground

__all__ = [
    "Affinity",
    "Bind",
    "Call",
    "Capabilities",
    "Cgroup2",
    "Chroot",
    "ControllingTerminal",
    "CoreScheduling",
    "Descriptors",
    "Dev",
    "Devpts",
    "Dir",
    "Domainname",
    "File",
    "Foreground",
    "Hostname",
    "IoPriority",
    "Landlock",
    "Loopback",
    "Mask",
    "Mqueue",
    "Nice",
    "NoUserNamespaces",
    "OomScoreAdj",
    "Overlay",
    "Personality",
    "Proc",
    "Remount",
    "Rlimit",
    "Root",
    "Scheduler",
    "Seccomp",
    "SessionKeyring",
    "Signals",
    "Step",
    "Symlink",
    "Sysfs",
    "TimeOffset",
    "TimerSlack",
    "Tmpfs",
    "Unmount",
    "host_read_only",
    "minimal_root",
    "untrusted",
]
