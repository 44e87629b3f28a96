"""Steps that take privileges from the command."""

from __future__ import annotations

import fcntl
import os
import struct
from errno import EINVAL

from .._causes import at_step
from .._maps.presets import unchanged
from .._proc import open_root
from .._typing import TYPE_CHECKING
from .._uapi import (
    CLONE_NEWUSER,
    MFD_CLOEXEC,
    PR_CAPBSET_DROP,
    PR_GET_DUMPABLE,
    PR_SET_DUMPABLE,
    PR_SET_KEEPCAPS,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_XDEV,
    WALL,
)
from .calls import FORK, Place, Result
from .capabilities import HIGHEST, capability_mask
from .step import Phase, Step, refuse, refuse_another, refuse_for_holder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import ClassVar

    from .calls import Argument
    from .compiler import Emitter, Process


class Capabilities(Step):
    """Leave the command these capabilities and no others, in all five sets of `capabilities(7)`.

    The others are dropped from the bounding set (`PR_CAPBSET_DROP` of `prctl(2)`), so no program that the command
    executes can gain them. Those that are kept become ambient: every user keeps them over exec.

    Args:
        keep: names with or without `CAP_`, or numbers. By default none, also for user 0 in the namespace.
        bounding: the bounding set, if it is to be larger than *keep*. Programs with file capabilities and set-user-ID
            programs can gain these, and **user 0 in the namespace has all of them after exec**.

    Unlike the parameter `ambient_caps`, which adds capabilities for users other than 0, this also takes them from user
    0; the two cannot be combined. In the caller's own user namespace it requires CAP_SETPCAP. Linux 5.4 or later.
    """

    __slots__ = ("bounding", "keep")
    keep: tuple[str | int, ...]
    bounding: tuple[str | int, ...] | None
    phase: ClassVar[Phase] = Phase.BOUNDING

    def __init__(self, keep: Iterable[str | int] = (), *, bounding: Iterable[str | int] | None = None) -> None:
        self._set(keep=self._checked(keep), bounding=None if bounding is None else self._checked(bounding))
        missing = self._mask & ~self._bounding_mask
        if missing:
            raise refuse(type(self), f"bounding does not contain all of keep: {self.keep!r}, {self.bounding!r}")

    def _checked(self, names: Iterable[str | int]) -> tuple[str | int, ...]:
        found = names if isinstance(names, str) else tuple(names)
        try:
            capability_mask(found)
        except (ValueError, TypeError) as error:
            raise type(error)(f"Capabilities: {error}") from None
        return tuple(found)

    @property
    def _mask(self) -> int:
        return capability_mask(self.keep)

    @property
    def _bounding_mask(self) -> int:
        return self._mask if self.bounding is None else capability_mask(self.bounding)

    def is_constant(self) -> bool:
        return True

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        refuse_another(self, steps)
        refuse_for_holder(self, process)
        if process.options.get("ambient_caps"):
            raise refuse(self, "ambient_caps= cannot be combined with it: use keep=")

    def emit(self, calls: Emitter) -> None:
        bounding = self._bounding_mask
        for capability in range(HIGHEST + 1):
            if not bounding >> capability & 1:  # the kernel refuses numbers above its last one
                calls.add("prctl", PR_CAPBSET_DROP, capability, tolerated=(EINVAL,))
        calls.setup.ambient_caps = self._mask


_HELPERS_CALLS = 5
_IN_PROC = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS


class NoUserNamespaces(Step):
    """The command and its descendants cannot create user namespaces: `unshare(2)` fails with `ENOSPC`, also for root.

    The limit `user.max_user_namespaces` is set to 1 in the user namespace of the command, which then moves to the one
    further user namespace that this allows, as `bwrap --disable-userns` does. All IDs are mapped there to themselves,
    and the limit is out of reach. In the caller's own user namespace (`join`), which other processes use, it is set in
    an additional namespace in between; this requires CAP_SETUID and CAP_SETGID.

    The further namespace **owns none of the other namespaces**: the command has all capabilities that its user has, but
    they do not suffice to mount, to set the hostname or to configure the network.

    It requires that the maps are given as parameters, and cannot be combined with `owner` or with a user namespace of
    other processes that is joined.

    See `user_namespaces(7)`, `namespaces(7)`. Requires Linux 5.6.
    """

    __slots__ = ()
    phase: ClassVar[Phase] = Phase.NO_NAMESPACES

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        refuse_another(self, steps)
        if process.userns == "joined":
            raise refuse(self, "other processes use a user namespace that is joined: leave join= of it out")
        if not process.maps.uid_map or not process.maps.gid_map:
            raise refuse(self, "it requires the maps of the user namespace: uid_map= and gid_map=")
        if process.options.get("owner") is not None:
            raise refuse(self, "owner= cannot be combined with it")

    def emit(self, calls: Emitter) -> None:
        """Only a process of the user namespace above can write the maps: a helper for each level.

        The first is forked at once, with the file system user ID of the caller, which owns the files in `/proc` of a
        process that is not dumpable. It waits for a lock that ends with the launcher, however that ends.
        """
        with at_step("open_proc", "/proc"), open_root() as root:
            proc = calls.keep(root)
        is_shared = calls.process.userns == "own"
        dumpable = calls.add("prctl", PR_GET_DUMPABLE, phase=Phase.NAMES)  # steps for files may change it
        locks = calls.add("memfd_create", b"locks", MFD_CLOEXEC, phase=Phase.NAMES)
        helper = self._fork_helper(calls, proc, locks, phase=Phase.NAMES)
        self._take_mapped_ids(calls, dumpable)
        if is_shared:
            self._enter(calls, locks, helper)
            helper = self._fork_helper(calls, proc, locks, phase=self.phase)
        self._set_limit(calls, proc)
        self._enter(calls, locks, helper)
        calls.add("prctl", PR_SET_KEEPCAPS, 1)  # the new namespace has reset it, and the next call may change the IDs

    def _fork_helper(self, calls: Emitter, proc: int, locks: Result, *, phase: Phase) -> Result:
        def add(name: str, *arguments: Argument, path: str | None = None, expected: int = -1) -> Result:
            return calls.add(name, *arguments, phase=phase, path=path, expected=expected)

        directory = _open_in_proc(calls, proc, "self", os.O_PATH | os.O_DIRECTORY, phase=phase)
        add("fcntl", locks, fcntl.F_SETLK, _lock(fcntl.F_WRLCK))
        pid = add(FORK, _HELPERS_CALLS)
        add("fcntl", locks, fcntl.F_SETLKW, _lock(fcntl.F_WRLCK))
        maps = calls.process.maps
        for file, id_map in (("uid_map", maps.uid_map), ("gid_map", maps.gid_map)):
            assert id_map is not None
            text = unchanged(id_map).to_kernel().encode()
            fd = add("openat", directory, file.encode(), os.O_WRONLY | os.O_CLOEXEC, path=f"/proc/self/{file}")
            add("write", fd, text, len(text), path=f"/proc/self/{file}", expected=len(text))
        return pid

    def _take_mapped_ids(self, calls: Emitter, dumpable: Result) -> None:
        """A user namespace can only belong to an ID that is mapped. The launcher stays as dumpable as it was."""
        uid, gid = calls.process.file_ids
        if uid is None and gid is None:
            return
        for name, number in (("setresgid", gid), ("setresuid", uid)):
            if number is not None:
                calls.add(name, -1, number, -1)
        calls.add("prctl", PR_SET_DUMPABLE, dumpable, tolerated=(EINVAL,))  # 2 cannot be set, and remains

    def _set_limit(self, calls: Emitter, proc: int) -> None:
        name = "sys/user/max_user_namespaces"
        limit = _open_in_proc(calls, proc, name, os.O_WRONLY, phase=self.phase)
        calls.add("write", limit, b"1", 1, path=f"/proc/{name}", expected=1)

    def _enter(self, calls: Emitter, locks: Result, helper: Result) -> None:
        status = calls.add(
            "lseek", locks, 0, os.SEEK_SET
        )  # 0, with all its bytes: the next but two writes four of them
        calls.add("unshare", CLONE_NEWUSER)
        calls.add("fcntl", locks, fcntl.F_SETLK, _lock(fcntl.F_UNLCK))
        calls.add("wait4", helper, Place(status), WALL, 0)
        calls.add("lseek", locks, status, os.SEEK_SET, expected=0)  # it returns the status: 0, or the helper has failed


def _open_in_proc(calls: Emitter, proc: int, path: str, flags: int, *, phase: Phase) -> Result:
    how = struct.pack("=3Q", flags | os.O_CLOEXEC, 0, _IN_PROC)
    return calls.add("openat2", proc, path.encode(), how, len(how), phase=phase, path=f"/proc/{path}")


def _lock(kind: int) -> bytes:
    """`struct flock` for the whole file. The lock belongs to the process, not to its children, and ends with it."""
    return struct.pack("@hhqqi", kind, os.SEEK_SET, 0, 0, 0)
