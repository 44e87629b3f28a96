"""Set-up steps: what runs between clone and exec, as data."""

from .._setup.file_systems import Bind, Cgroup2, Dev, Devpts, Mqueue, Proc, Root, Sysfs, Tmpfs
from .._setup.files import Chroot, Dir, File, Mask, Remount, Symlink, Unmount
from .._setup.overlay import Overlay
from .._setup.step import Step

__all__ = [
    "Bind",
    "Cgroup2",
    "Chroot",
    "Dev",
    "Devpts",
    "Dir",
    "File",
    "Mask",
    "Mqueue",
    "Overlay",
    "Proc",
    "Remount",
    "Root",
    "Step",
    "Symlink",
    "Sysfs",
    "Tmpfs",
    "Unmount",
]
