"""What the core is told to start: everything converted, nothing left to decide."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

from .. import _core
from .._cgroups import frozen_cause
from .._evidence import failed
from .._typing import TYPE_CHECKING
from .._uapi import CLONE_NEWUSER

if TYPE_CHECKING:
    from typing import Any


class Plan:
    """Read by `_core.spawn`; -1 stands for "leave as it is" where a number is optional.

    No dataclass: importing that takes longer than all of this package.
    """

    is_holder: bool = False
    namespaces: int = CLONE_NEWUSER
    joins: tuple[int, ...] = ()
    """What is entered first: descriptor, `CLONE_NEW…`, and so on. None of the descriptors is 0, 1 or 2."""
    owner: int = -1
    """The id outside that shall own the namespaces."""
    propagation: int = 0
    """Of a new mount namespace, `MS_…`; 0: leave it as it is."""
    mount_proc: bool = False
    init: bool = False

    setgroups: str | None = None
    uid_map: str | None = None
    gid_map: str | None = None
    """Written by the core while the child waits."""

    argv: Sequence[Any] = ()
    candidates: Sequence[Any] = ()
    """Both as in `Popen`: strings, bytes and paths."""
    envp: tuple[bytes, ...] | None = ()
    """`None`: the environment as it is at the moment of the call."""
    cwd: bytes | None = None

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    keep_fds: tuple[int, ...] = ()
    """Ascending."""
    close_fds: bool = True
    restore_signals: bool = True
    start_new_session: bool = False
    umask: int = -1
    process_group: int = -1

    uid: int = -1
    gid: int = -1
    set_groups: bool = False
    groups: tuple[int, ...] = ()

    ambient_caps: int = 0
    """A bit for each capability."""
    no_new_privs: bool = False
    cgroup: int = -1
    cgroup_path: object = None
    """For messages."""

    signal_mask: int | None = None
    """A bit for each signal that is blocked; `None`: as in the calling thread."""

    death_signal: int = 0
    """0: none."""

    session_keyring: int = 0
    """0: inherited; 1: a new one if that is possible; 2: a new one or an error."""

    deadline: int = 0
    """Of `time.monotonic_ns()`: when the core gives up; 0: never."""
    cancelled: int = -1
    """A descriptor that becomes readable when the core is to give up."""

    pid: int = 0
    pidfd: int = -1
    """What came of it: set by the core."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def start(
        self,
        filenames: Mapping[str, object] | None = None,
        between: Callable[[int, int], object] | None = None,
    ) -> None:
        """Start it; `pid` and `pidfd` are set, and the caller's to take over.

        A signal handler may raise at any moment: when this does, or before the
        pidfd is taken over, `end` has to be called.

        Args:
            filenames: by step, the file to name in an error.
            between: called with pid and pidfd while the child exists, is mapped,
                and has not gone on. An exception in it ends the child.
        """
        try:
            image_on_disk = _core.spawn(self, between)
        except _core.Failure as failure:
            named = {"cgroup": self.cgroup_path, **(filenames or {})}
            raise failed(failure, named, self.cgroup) from None
        except _core.GaveUp as gave_up:
            self._explain(gave_up)
            raise
        if image_on_disk:
            _warn_of_image_on_disk()

    def _explain(self, gave_up: _core.GaveUp) -> None:
        found = None if self.cgroup < 0 else frozen_cause(self.cgroup)
        if found is not None:
            gave_up.add_note(found[1])

    def end(self) -> None:
        """Kill and reap what was started and not taken over."""
        if self.pidfd >= 0:
            _core.end_child(self.pid, self.pidfd)  # before any other bytecode, where a signal handler could raise
            self.pidfd = -1


def _warn_of_image_on_disk() -> None:
    warnings.warn(
        "programs may not be executed from memory here (vm.memfd_noexec=2); "
        "an unlinked file in a temporary directory was used",
        RuntimeWarning,
        stacklevel=3,
    )
