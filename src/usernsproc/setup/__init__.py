"""Set-up steps: what runs between clone and exec, as data."""

from .._setup.call import Call
from .._setup.file_systems import Bind, Cgroup2, Dev, Devpts, Mqueue, Proc, Root, Sysfs, Tmpfs
from .._setup.landlock import Landlock
from .._setup.privileges import Capabilities, NoUserNamespaces
from .._setup.seccomp import Seccomp
from .._setup.step import Step

__all__ = [
    "Bind",
    "Call",
    "Capabilities",
    "Cgroup2",
    "Dev",
    "Devpts",
    "Landlock",
    "Mqueue",
    "NoUserNamespaces",
    "Proc",
    "Root",
    "Seccomp",
    "Step",
    "Sysfs",
    "Tmpfs",
]
