"""Set-up steps: what runs between clone and exec, as data."""

from .._setup.file_systems import Bind, Cgroup2, Dev, Devpts, Mqueue, Proc, Root, Sysfs, Tmpfs
from .._setup.step import Step

__all__ = ["Bind", "Cgroup2", "Dev", "Devpts", "Mqueue", "Proc", "Root", "Step", "Sysfs", "Tmpfs"]
