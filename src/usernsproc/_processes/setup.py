"""What a process does before it executes its program, as system calls in their order."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext
from errno import ENOSYS, EPERM
from functools import lru_cache
from operator import index

from .._maps.side import SIDES
from .._setup.calls import NEW_SESSION, OWN_MEMORY, OWN_MEMORY_AND_MAPS, ROOT_DIRECTORY, Setup, SystemCall
from .._typing import TYPE_CHECKING
from .credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from .._caller import Caller
    from .._maps.side import Side
    from .._maps.writer import Maps
    from .._setup.compiler import CompiledSetup
    from .._setup.step import Step
    from .credentials import Userns

_KEYCTL_JOIN_SESSION_KEYRING = 1
_MS_REC = 1 << 14
_PR_SET_NO_NEW_PRIVS = 38
_NOSUID_NODEV_NOEXEC = 2 | 4 | 8


def mounts(propagation: int, mount_proc: bool) -> tuple[SystemCall, ...]:
    """In a new mount namespace; *propagation* is `MS_…`, 0: leave it as it is."""
    calls: tuple[SystemCall, ...] = ()
    if propagation:
        calls += (SystemCall("propagation", "mount", 0, b"/", 0, _MS_REC | propagation),)
    if mount_proc:
        calls += (SystemCall("mount_proc", "mount", b"proc", b"/proc", b"proc", _NOSUID_NODEV_NOEXEC),)
    return calls


def session_keyring(value: str | None, *, joins: bool) -> tuple[SystemCall, ...]:
    """The session keyring of a command (`session-keyring(7)`): whose keys it possesses.

    A command that *joins* a namespace has a new one unless it is asked for another: root there could
    read the caller's keys through it. Where the kernel or a filter refuses keyctl(2) the command
    cannot use a keyring either.

    Raises:
        ValueError: neither `"new"`, `"inherit"` nor `None`.
    """
    if value not in ("new", "inherit", None):
        raise ValueError(f'session_keyring must be "new", "inherit" or None, not {value!r}')
    if value == "inherit" or (value is None and not joins):
        return ()
    tolerated = () if value == "new" else (ENOSYS, EPERM)
    call = SystemCall("keyring", "keyctl", _KEYCTL_JOIN_SESSION_KEYRING, 0, needs=OWN_MEMORY, tolerated=tolerated)
    return (call,)


def no_new_privileges(asked: bool) -> tuple[SystemCall, ...]:
    return (SystemCall("no_new_privs", "prctl", _PR_SET_NO_NEW_PRIVS, 1),) if asked else ()


def death_signal(pdeathsig: int | None) -> int:
    if pdeathsig is None:
        return 0
    if not hasattr(pdeathsig, "__index__"):
        raise TypeError(f"pdeathsig is a signal number or None, not {pdeathsig!r}")
    if not 1 <= index(pdeathsig) < signal.NSIG:
        raise ValueError(f"pdeathsig={pdeathsig!r} is not a signal")
    return int(pdeathsig)


@lru_cache(maxsize=64)
def _ids(uid: int | None, gid: int | None, groups: tuple[int, ...] | None) -> tuple[SystemCall, ...]:
    """Programs ask again and again for the same."""
    calls: list[SystemCall] = []
    if groups is not None:
        packed = b"".join(group.to_bytes(4, sys.byteorder) for group in groups)
        calls.append(SystemCall("setid", "setgroups", len(groups), packed, needs=OWN_MEMORY_AND_MAPS))
    if gid is not None:
        calls.append(SystemCall("setid", "setresgid", gid, gid, gid, needs=OWN_MEMORY_AND_MAPS))
    if uid is not None:
        calls.append(SystemCall("setid", "setresuid", uid, uid, uid, needs=OWN_MEMORY_AND_MAPS))
    return tuple(calls)


def _calls_of(credentials: Credentials) -> tuple[SystemCall, ...]:
    return _ids(credentials.uid, credentials.gid, credentials.groups)


class Steps:
    """The list that is given as `setup=`, for a process with namespaces of these kinds."""

    __slots__ = ("_kinds", "_options", "_steps", "compiled")

    def __init__(self, steps: tuple[Step, ...], compiled: CompiledSetup, kinds: Iterable[str], **options: Any) -> None:
        self._steps = steps
        self._kinds = kinds
        self._options = options
        self.compiled = compiled

    def compile(
        self, credentials: Credentials, maps: Maps, caller: Caller, userns: Userns, **options: Any
    ) -> CompiledSetup:
        from .._setup.compiler import Process, compile_steps

        process = Process(
            self._kinds,
            userns,
            maps,
            in_userns=userns != "own" or not caller.is_initial,
            file_ids=_file_ids(maps, caller, credentials),
            **self._options,
            **options,
        )
        self.compiled = compile_steps(self.compiled, self._steps, process)
        return self.compiled


def _file_ids(maps: Maps, caller: Caller, credentials: Credentials) -> tuple[int | None, int | None]:
    """Files cannot belong to an ID that is not mapped: those of the command, if the caller's are not."""
    return tuple(_file_id(side, maps, caller, credentials) for side in SIDES)  # type: ignore[return-value]


def _file_id(side: Side, maps: Maps, caller: Caller, credentials: Credentials) -> int | None:
    id_map = side.map_of(maps)
    if not id_map or id_map.to_inside(side.id_of(caller)) is not None:
        return None
    own = side.id_of(credentials)
    return id_map[0].inside if own is None else own


def open_setup(steps: tuple[Step, ...]) -> AbstractContextManager[CompiledSetup | None]:
    if not steps:  # nothing that steps need is loaded
        return nullcontext()
    from .._setup.compiler import CompiledSetup

    return CompiledSetup()


def is_root(step: object) -> bool:
    return getattr(step, "is_root", False)


class Plan:
    """The system calls of a process: those known in advance, and the parameters of `Popen` between them.

    Args:
        before: the calls ahead of the IDs.
        after: those behind the IDs.
        ambient_caps: a bit for each capability that the command keeps over exec.
        maps: of the user namespace, like `caller`, `userns` and `owner` for `Credentials`.
        steps: of the list `setup=`.
    """

    __slots__ = ("_after", "_ambient_caps", "_before", "_caller", "_maps", "_owner", "_steps", "_userns")

    def __init__(
        self,
        before: tuple[SystemCall, ...],
        after: tuple[SystemCall, ...],
        ambient_caps: int,
        maps: Maps,
        caller: Caller,
        userns: Userns,
        owner: int | None,
        steps: Steps | None,
    ) -> None:
        self._before, self._after, self._ambient_caps = before, after, ambient_caps
        self._maps, self._caller, self._owner = maps, caller, owner
        self._userns: Userns = userns
        self._steps = steps

    @property
    def compiled(self) -> CompiledSetup | None:
        """What the parent does for the steps; `None`: there are none."""
        return None if self._steps is None else self._steps.compiled

    def of_holder(self) -> Setup:
        """Those of a holder, whose working directory is `/` and which leads its own session."""
        credentials = Credentials.of_holder(self._maps, self._caller, self._userns)
        own = (*_calls_of(credentials), *self._after, NEW_SESSION)
        if self._steps is None:
            return Setup((*self._before, ROOT_DIRECTORY, *own))
        done = self._steps.compile(
            credentials, self._maps, self._caller, self._userns, ambient_caps=self._ambient_caps, holder=True
        )
        before, between = done.calls("NAMES", "DIRECTORY"), done.calls("SCHEDULING", "BOUNDING")
        calls = (*self._before, *before, ROOT_DIRECTORY, *between, *own, *done.calls("IDS", "SECCOMP"))
        return Setup(calls, first=done.calls("NEW_NAMESPACES", "NEW_NAMESPACES"), fds=tuple(done.fds))

    def of_command(
        self,
        ids: tuple[int | None, int | None, Sequence[int] | None],
        cwd: Any,
        umask: int,
        start_new_session: bool,
        process_group: int,
        *,
        pass_fds: Sequence[int],
    ) -> Setup:
        """Those of a command.

        Args:
            ids: the parameters `user`, `group` and `extra_groups`. The others are as in `Popen`.
        """
        given = (ids, self._maps, self._caller, self._owner, self._userns)
        if (cwd, umask, start_new_session, process_group, self._steps) == _NOTHING_ELSE and (
            Credentials.follow_from_arguments(ids[2], self._maps, self._caller)
        ):
            return _setup_of_ids(self._before, self._after, self._ambient_caps, *given)
        credentials = _credentials(*given)
        done = None
        if self._steps is not None:
            done = self._steps.compile(
                credentials,
                self._maps,
                self._caller,
                self._userns,
                ambient_caps=self._ambient_caps,
                start_new_session=bool(start_new_session),
                process_group=process_group,
                pass_fds=pass_fds,
            )
        shared = self._before
        if done is not None:
            shared += done.calls("NAMES", "DIRECTORY")
        if cwd is not None:
            from .._setup.tree import change_directory

            shared += change_directory(None if done is None else done.new_root, _path(cwd), cwd)
        if _c_int("umask", umask) >= 0:
            shared += (SystemCall("prepare", "umask", umask, tolerated=(ENOSYS, EPERM)),)  # refused by a filter alone
        if done is not None:
            shared += done.calls("SCHEDULING", "BOUNDING")
        shared += _calls_of(credentials) + self._after
        own: tuple[SystemCall, ...] = (NEW_SESSION,) if start_new_session else ()
        if _c_int("process_group", process_group) >= 0:
            own += (SystemCall("setpgid", "setpgid", 0, process_group),)
        if done is None:
            return Setup(shared, own, ambient_caps=self._ambient_caps)
        return self._with_steps(shared, own, done)

    def _with_steps(self, shared: tuple[SystemCall, ...], own: tuple[SystemCall, ...], done: CompiledSetup) -> Setup:
        own += done.calls("TERMINAL", "SIGNALS")
        if done.no_new_privs and no_new_privileges(True)[0] not in self._after:
            own += no_new_privileges(True)
        own += done.calls("NO_NEW_PRIVS", "LANDLOCK")
        # No path of the command may lead through them.
        own += tuple(SystemCall("prepare", "close", fd) for fd in done.fds)
        return Setup(
            shared + done.calls("IDS", "IDS"),
            own,
            first=done.calls("NEW_NAMESPACES", "NEW_NAMESPACES"),
            last=done.calls("SECCOMP", "SECCOMP"),
            ambient_caps=self._ambient_caps if done.ambient_caps is None else done.ambient_caps,
            fds=tuple(done.fds),
            least_fd=done.least_fd,
        )


_NOTHING_ELSE = (None, -1, False, -1, None)
"""What most commands have: no `cwd`, `umask`, session, process group and steps."""


@lru_cache(maxsize=64)
def _setup_of_ids(
    before: tuple[SystemCall, ...], after: tuple[SystemCall, ...], ambient_caps: int, *given: Any
) -> Setup:
    """Programs ask again and again for the same."""
    return Setup(before + _calls_of(_credentials(*given)) + after, ambient_caps=ambient_caps)


def _credentials(
    ids: tuple[int | None, int | None, Sequence[int] | None],
    maps: Maps,
    caller: Caller,
    owner: int | None,
    userns: Userns,
) -> Credentials:
    return Credentials.resolve(*ids, maps, caller, owner=owner, userns=userns)


def _path(path: Any) -> bytes:
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("embedded null byte")
    return encoded


def _c_int(name: str, value: int) -> int:
    if not -(2**31) <= index(value) < 2**31:
        raise OverflowError(f"{name} does not fit into a C int")
    return value
