"""Steps that concern how the kernel treats the process: limits, scheduling, memory pressure, execution domain."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterable
from errno import EINVAL
from functools import cache, partial

from .. import _core, _system_calls
from .._proc import open_proc_dir_of
from .._typing import TYPE_CHECKING
from .calls import ANY_MEMORY, OWN_MEMORY_AND_MAPS
from .step import Phase, Step, number, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Literal

    from .compiler import Emitter, Process

# ---- names in place of numbers ----


def named(step: Step, what: str, value: Any, names: Mapping[str, int], prefix: str = "") -> str:
    """A name, in any case and with or without its prefix, or its number: as the name.

    Raises:
        ValueError: names those that there are.
    """
    if isinstance(value, str):
        name = value.upper().removeprefix(prefix)
        if name in names:
            return name
    elif hasattr(value, "__index__") and not isinstance(value, bool):
        for name, known in names.items():
            if known == value:
                return name
    else:
        raise TypeError(f"{type(step).__name__}: {what} is a name or a number, not {value!r}")
    raise refuse(type(step), f"{what} is one of {', '.join(names)}, not {value!r}")


# ---- limits ----

_INFINITY = 2**64 - 1
_INFINITIES = ("infinity", "unlimited", -1, _INFINITY)
"""As systemd, as `ulimit`, as `resource.RLIM_INFINITY`, as the kernel."""

_LIMITS = (
    "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME".split()  # noqa: SIM905
)
_LOCKS = 10
"""On all architectures; `resource` lacks it."""


@cache
def _limit_numbers() -> dict[str, int]:
    import resource  # hardly ever needed

    return {name: getattr(resource, f"RLIMIT_{name}", _LOCKS) for name in _LIMITS}


def _limit(step: Step, name: str, value: Any) -> int | Literal["infinity"]:
    if value in _INFINITIES:
        return "infinity"
    if isinstance(value, str):
        raise refuse(type(step), f'{name} is a number or "infinity", not {value!r}')
    return number(step, name, value, 0, 2**63 - 1)


def _word(limit: int | str) -> int:
    return _INFINITY if isinstance(limit, str) else limit


class Rlimit(Step):
    """A resource limit of the command: `prlimit(2)`, as the last thing but signals and filters.

    Args:
        name: `"NOFILE"`, `"AS"`, `"CPU"` and so on, with or without `RLIMIT_`, or a number of `resource`.
        soft: the limit that holds, in the unit of `getrlimit(2)`: bytes, seconds, processes, descriptors. A
            number or `"infinity"`.
        hard: how far the command may raise it. `None`: the same as *soft*, as with `ulimit`.

    Neither is clamped: what the kernel does not allow is an error. A hard limit above that of the caller is
    set by the caller, which requires `CAP_SYS_RESOURCE` in the initial user namespace. Set-up itself runs
    with the caller's limits.

    At the soft limit of `CPU` the kernel sends `SIGXCPU`, at the hard limit `SIGKILL`: if both are the same,
    only the latter. `NPROC` counts the processes of the user in the user namespace of the command (before Linux
    5.14, all processes of the user). User 0 of the initial user namespace is not limited by it.

    See `getrlimit(2)`, `user_namespaces(7)`. Linux 5.4 or later.
    """

    __slots__ = ("hard", "name", "soft")
    name: str
    soft: int | Literal["infinity"]
    hard: int | Literal["infinity"]
    phase = Phase.LIMITS

    def __init__(self, name: str | int, soft: int | str, hard: int | str | None = None) -> None:
        soft_limit = _limit(self, "soft", soft)
        hard_limit = soft_limit if hard is None else _limit(self, "hard", hard)
        if _word(soft_limit) > _word(hard_limit):
            raise refuse(type(self), f"soft ({soft}) is above hard ({hard})")
        self._set(name=named(self, "name", name, _limit_numbers(), "RLIMIT_"), soft=soft_limit, hard=hard_limit)

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        if sum(isinstance(step, Rlimit) and step.name == self.name for step in steps) > 1:
            raise refuse(self, f"there is another Rlimit of {self.name} in the list")

    def is_constant(self) -> bool:
        return not self._raises_hard()

    def _raises_hard(self) -> bool:
        import resource

        return _word(self.hard) > resource.getrlimit(_limit_numbers()[self.name])[1] % 2**64

    def emit(self, calls: Emitter) -> None:
        which, raises = _limit_numbers()[self.name], self._raises_hard()
        if raises:
            calls.in_parent("prlimit64", partial(self._raise, which), self.name)
        limits = b"".join(_word(limit).to_bytes(8, sys.byteorder) for limit in (self.soft, self.hard))
        needs = OWN_MEMORY_AND_MAPS if raises else ANY_MEMORY  # after the parent
        calls.add("prlimit64", 0, which, limits, 0, path=self.name, needs=needs)

    def _raise(self, which: int, pid: int) -> None:
        import resource

        soft, _ = resource.prlimit(pid, which)
        resource.prlimit(pid, which, (soft, resource.RLIM_INFINITY if self.hard == "infinity" else self.hard))


# ---- scheduling ----


class _OfProcess(Step):
    __slots__ = ()
    phase = Phase.SCHEDULING

    def is_constant(self) -> bool:
        return True


class Nice(_OfProcess):
    """The nice value of the command, from -20 to 19: `setpriority(2)`.

    Unlike `os.nice` and `nice(1)` it is the value itself, not what is added to the caller's. A lower one
    than the caller's is set by the caller, which requires `CAP_SYS_NICE` in the initial user namespace or
    `RLIMIT_NICE`. With `init=True`, the init has it, too. Linux 5.4 or later.
    """

    __slots__ = ("value",)
    value: int

    def __init__(self, value: int) -> None:
        self._set(value=number(self, "value", value, -20, 19))

    def is_constant(self) -> bool:
        return self.value >= os.getpriority(os.PRIO_PROCESS, 0)

    def emit(self, calls: Emitter) -> None:
        if not self.is_constant():
            calls.in_parent("setpriority", lambda pid: os.setpriority(os.PRIO_PROCESS, pid, self.value))
        else:
            calls.add("setpriority", os.PRIO_PROCESS, 0, self.value, needs=ANY_MEMORY)


_MOST_CPUS = 1 << 16
_WORD_BITS = 8 * struct.calcsize("L")


class Affinity(_OfProcess):
    """The CPUs that the command may run on, by number: `sched_setaffinity(2)`.

    `sched_setaffinity(2)` ignores CPUs that are offline or outside of the cpuset of the cgroup, if there are
    others. Here one of them is the error `EINVAL`. With `init=True`, the init has the same. Linux 5.4 or later.
    """

    __slots__ = ("cpus",)
    cpus: tuple[int, ...]

    def __init__(self, cpus: Iterable[int]) -> None:
        if isinstance(cpus, str) or not isinstance(cpus, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Affinity: cpus are several numbers, not {cpus!r}")
        numbers = tuple(sorted({number(self, "a CPU", cpu, 0, _MOST_CPUS - 1) for cpu in cpus}))
        if not numbers:
            raise refuse(type(self), "there has to be a CPU to run on")
        self._set(cpus=numbers)

    def is_constant(self) -> bool:
        return os.sched_getaffinity(0).issuperset(self.cpus)

    def emit(self, calls: Emitter) -> None:
        if calls.process.options.get("cgroup") or not self.is_constant():
            calls.in_parent("sched_setaffinity", self._set_in_parent)
            return
        words = [0] * (max(self.cpus) // _WORD_BITS + 1)
        for cpu in self.cpus:
            words[cpu // _WORD_BITS] |= 1 << cpu % _WORD_BITS
        mask = struct.pack(f"{len(words)}L", *words)
        calls.add("sched_setaffinity", 0, len(mask), mask, needs=ANY_MEMORY)

    def _set_in_parent(self, pid: int) -> None:
        """Whether all of them can be had is known only afterwards."""
        os.sched_setaffinity(pid, self.cpus)
        if os.sched_getaffinity(pid) != set(self.cpus):
            raise OSError(EINVAL, os.strerror(EINVAL))


_POLICIES = {"OTHER": 0, "FIFO": 1, "RR": 2, "BATCH": 3, "IDLE": 5, "EXT": 7}
_REAL_TIME = ("FIFO", "RR")
_HIGHEST_PRIORITY = 99
_RESET_ON_FORK = 0x40000000


class Scheduler(_OfProcess):
    """The scheduling policy of the command: `sched_setscheduler(2)`.

    Args:
        policy: `"OTHER"`, `"BATCH"`, `"IDLE"`, `"FIFO"`, `"RR"`, or `"EXT"` (Linux 6.12), with or without
            `SCHED_`, or a number of `os`. `"DEADLINE"` is refused: such a process can neither be moved to other
            CPUs nor create others; see `chrt(1)`.
        priority: from 1 to 99 for `"FIFO"` and `"RR"`, which need one; 0 for the others.
        reset_on_fork: the children of the command are not real-time processes, and have no negative nice value.

    The caller sets a real-time policy, which requires `CAP_SYS_NICE` in the initial user namespace or
    `RLIMIT_RTPRIO`. With `init=True`, the init has the same policy. See `sched(7)`.
    """

    __slots__ = ("policy", "priority", "reset_on_fork")
    policy: str
    priority: int
    reset_on_fork: bool

    def __init__(self, policy: str | int, priority: int = 0, *, reset_on_fork: bool = False) -> None:
        name = named(self, "policy", policy, _POLICIES, "SCHED_")
        low, high = (1, _HIGHEST_PRIORITY) if name in _REAL_TIME else (0, 0)
        if priority == 0 and low:
            raise refuse(type(self), f"{name} needs a priority from {low} to {high}")
        self._set(
            policy=name,
            priority=number(self, f"the priority of {name}", priority, low, high),
            reset_on_fork=bool(reset_on_fork),
        )

    def emit(self, calls: Emitter) -> None:
        policy, parameter = _POLICIES[self.policy], self.priority.to_bytes(4, sys.byteorder)
        if self.policy in _REAL_TIME:
            parameters = os.sched_param(self.priority)
            calls.in_parent("sched_setscheduler", lambda pid: os.sched_setscheduler(pid, policy, parameters))
        else:
            calls.add("sched_setscheduler", 0, policy, parameter, needs=ANY_MEMORY)
        if self.reset_on_fork:  # not of an init, whose child the command is; the flag alone requires no rights
            flagged = policy | _RESET_ON_FORK
            calls.add("sched_setscheduler", 0, flagged, parameter, phase=Phase.TERMINAL, needs=ANY_MEMORY)


_IO_CLASSES = {"NONE": 0, "REALTIME": 1, "BEST-EFFORT": 2, "IDLE": 3}
_IO_LEVELS = ("REALTIME", "BEST-EFFORT")
_DEFAULT_IO_LEVEL = 4
_IO_CLASS_SHIFT = 13
_IOPRIO_WHO_PROCESS = 1


class IoPriority(_OfProcess):
    """The class and the level by which the command reads and writes block devices: `ioprio_set(2)`.

    Args:
        class_: `"realtime"`, `"best-effort"`, `"idle"` or `"none"`, or its number, as of `ionice(1)`.
        level: from 0, the first, to 7, the last, for `"realtime"` and `"best-effort"`; default: 4.

    `"realtime"` requires `CAP_SYS_NICE` in the initial user namespace, which a command in a new user namespace
    lacks. With `init=True`, the init has the same. Linux 5.4 or later.
    """

    __slots__ = ("class_", "level")
    class_: str
    level: int | None

    def __init__(self, class_: str | int, level: int | None = None) -> None:
        name = named(self, "class_", class_, _IO_CLASSES)
        if name in _IO_LEVELS:
            level = number(self, "level", _DEFAULT_IO_LEVEL if level is None else level, 0, 7)
        elif level is not None:
            raise refuse(type(self), f"{name.lower()} has no level")
        self._set(class_=name.lower(), level=level)

    def emit(self, calls: Emitter) -> None:
        priority = _IO_CLASSES[self.class_.upper()] << _IO_CLASS_SHIFT | (self.level or 0)
        calls.add("ioprio_set", _IOPRIO_WHO_PROCESS, 0, priority, needs=ANY_MEMORY)


_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30


class TimerSlack(_OfProcess):
    """By how many nanoseconds the kernel may delay the end of a sleep: `PR_SET_TIMERSLACK`, from 1 to 2**31 - 1.

    The kernel ignores it for real-time policies (`Scheduler`): that is the error `EIO`. With `init=True`, the init
    has the same. See `PR_SET_TIMERSLACK(2const)`. Linux 5.4 or later.
    """

    __slots__ = ("ns",)
    ns: int

    def __init__(self, ns: int) -> None:
        self._set(ns=number(self, "ns", ns, 1, 2**31 - 1))

    def emit(self, calls: Emitter) -> None:
        calls.add("prctl", _PR_SET_TIMERSLACK, self.ns, 0, 0, 0, needs=ANY_MEMORY)
        calls.add("prctl", _PR_GET_TIMERSLACK, 0, 0, 0, 0, expected=self.ns, needs=ANY_MEMORY)


_PR_SCHED_CORE, _PR_SCHED_CORE_CREATE = 62, 1


class CoreScheduling(_OfProcess):
    """The command shares a CPU core with its own processes alone: `PR_SCHED_CORE_CREATE` of `prctl(2)`, Linux 5.14.

    So its hyper-threads cannot watch each other. `ENODEV`: the CPU has none. See the kernel's
    `admin-guide/hw-vuln/core-scheduling.rst`.
    """

    __slots__ = ()

    def emit(self, calls: Emitter) -> None:
        calls.add("prctl", _PR_SCHED_CORE, _PR_SCHED_CORE_CREATE, 0, 0, 0, needs=ANY_MEMORY)


# ---- memory pressure ----


class OomScoreAdj(_OfProcess):
    """From -1000 to 1000: how soon the out-of-memory killer ends the command; 1000: first, -1000: never.

    The caller writes it to `/proc/PID/oom_score_adj` of the process. A lower value than the least that a
    privileged process has given the caller requires `CAP_SYS_RESOURCE` in the initial user namespace. With
    `init=True`, the init has the same. See `proc_pid_oom_score_adj(5)`. Linux 5.4 or later.
    """

    __slots__ = ("value",)
    value: int

    def __init__(self, value: int) -> None:
        self._set(value=number(self, "value", value, -1000, 1000))

    def emit(self, calls: Emitter) -> None:
        calls.in_parent("write", self._write)

    def _write(self, pid: int) -> None:
        with (
            _system_calls.pidfd_open(pid) as pidfd,
            open_proc_dir_of(pidfd) as proc_dir,
            _core.open_in(proc_dir, "oom_score_adj", os.O_WRONLY) as file,
        ):
            os.write(file, str(self.value).encode())


# ---- execution domain ----

_PERSONALITIES = {
    "LINUX32": 0x8,
    "UNAME26": 0x20000,
    "ADDR_NO_RANDOMIZE": 0x40000,
    "FDPIC_FUNCPTRS": 0x80000,
    "MMAP_PAGE_ZERO": 0x100000,
    "ADDR_COMPAT_LAYOUT": 0x200000,
    "READ_IMPLIES_EXEC": 0x400000,
    "ADDR_LIMIT_32BIT": 0x800000,
    "SHORT_INODE": 0x1000000,
    "WHOLE_SECONDS": 0x2000000,
    "STICKY_TIMEOUTS": 0x4000000,
    "ADDR_LIMIT_3GB": 0x8000000,
}
_MOST_FLAGS = 0xFFFFFFFE


class Personality(_OfProcess):
    """The execution domain of the command: `personality(2)`, as `setarch(1)` sets it.

    Args:
        flags: one of the names of `personality(2)`, such as `"ADDR_NO_RANDOMIZE"`, or several; `"LINUX32"` (with
            or without `PER_`) makes `uname(2)` report a 32-bit machine. Or their number. They take the place
            of all those of the caller.

    Some last until the next `execve(2)` alone: the kernel takes `READ_IMPLIES_EXEC` from 64-bit programs, and
    several of them from programs with set-user-ID, set-group-ID or file capabilities. Linux 5.4 or later.
    """

    __slots__ = ("flags",)
    flags: int

    def __init__(self, flags: str | int | Iterable[str]) -> None:
        if isinstance(flags, str):
            flags = (flags,)
        if isinstance(flags, Iterable):
            names = [named(self, "a flag", flag, _PERSONALITIES, "PER_") for flag in flags]
            flags = sum({_PERSONALITIES[name] for name in names})
        self._set(flags=number(self, "flags", flags, 0, _MOST_FLAGS))

    def emit(self, calls: Emitter) -> None:
        calls.add("personality", self.flags, needs=ANY_MEMORY)
