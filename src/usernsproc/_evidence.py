"""Finds the cause of a failure, if a step and its errno have several, by a look at the system.

The table in `_causes.py` has the causes that are likely without a look. `failed` is for all
failures that the core reports.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from errno import EACCES, EAGAIN, ENOSYS, EPERM

from . import _cgroups, _core
from ._caller import CAP_SYS_ADMIN, CAP_SYS_RESOURCE, Caller
from ._causes import BROKEN_BUILD, CRASHES, IDS_FAKED, MAPS, PROC_READ_ONLY, SECCOMP_REFUSED, userns_error
from ._errors import UsernsError
from ._proc import read_status
from ._typing import TYPE_CHECKING
from ._uapi import WALL

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

Cause: TypeAlias = "tuple[str, str]"
"""A stable identifier and a note: the cause in one sentence, the remedy in the next."""

SCHED_DEADLINE = 6
_RESERVED_PIDS = 300


def failed(failure: _core.Failure, filenames: Mapping[str, object] | None = None, cgroup: int = -1) -> UsernsError:
    """The exception for a failure that the core reports.

    Args:
        filenames: by step, the file to name.
        cgroup: a descriptor of the directory that the child was to start in.
    """
    step, errno, ended, *_ = (*failure.args, None)
    assert isinstance(step, str)  # numbers are the caller's
    filename = (filenames or {}).get(step)
    if ended is None:
        return step_error(step, errno, filename, cgroup)
    cause, note = cause_of_end(ended, cgroup)
    return userns_error(step, errno, filename, cause=cause, note=note)


def step_error(step: str, errno: int, filename: object = None, cgroup: int = -1) -> UsernsError:
    """As `userns_error`, after a look for the cause."""
    cause, note = _found(step, errno, cgroup) or (None, None)
    return userns_error(step, errno, filename, cause=cause, note=note)


def child_error(step: str, errno: int, pidfd: int) -> UsernsError:
    """For a child of this process that ended before it ran the program and is not reaped yet."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG | WALL)
    except OSError:
        result = None
    if result is None:
        return userns_error(step, errno)
    ended = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
    cause, note = cause_of_end(ended)
    return userns_error(step, errno, cause=cause, note=note)


def cause_of_end(ended: int, cgroup: int = -1) -> Cause:
    """Of a child that ended before it ran the program, with this return code.

    An init reports that its child was killed as 128 plus the signal.
    """
    if 128 < ended < 128 + signal.NSIG:
        ended = 128 - ended
    if ended == -signal.SIGSYS:
        return "seccomp-killed", (
            "A seccomp filter killed the child with SIGSYS: it forbids a system call that starting a command requires. "
            "Allow the call in the filter, or let the filter return ENOSYS."
        )
    if ended in CRASHES:
        return BROKEN_BUILD
    where = _where(_cgroups.out_of_memory, cgroup, "memory") if ended == -signal.SIGKILL else None
    if where is not None:
        return "cgroup-memory-max", (
            f"Likely: the out-of-memory killer ended the child, since the memory limit of the cgroup {where} is "
            "reached. Raise memory.max, or end other processes of the cgroup."
        )
    how = f"exited with status {ended}" if ended >= 0 else f"was killed by {_signal_name(-ended)}"
    return "child-killed", f"The child {how} before it ran the program. Find out which process or limit ended it."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _found(step: str, errno: int, cgroup: int) -> Cause | None:
    for look in _LOOKS.get((step, errno), ()):
        try:
            cause = look(cgroup)
        except (OSError, ValueError):  # for example, no descriptor is left for the look
            continue
        if cause is not None:
            return cause
    return explained(step, errno) if step in _EXPLAINED else None


def explained(step: str, errno: int, call: str | None = None) -> Cause | None:
    """By the table of the doctor, which is loaded for an error alone: not in another root directory, where its owner
    controls the files that would be loaded."""
    if _identity("/") != _ROOT and f"{__package__}._diagnosis.explanations" not in sys.modules:
        return None
    try:
        from ._diagnosis.environment import Environment
        from ._diagnosis.explanations import Failure, Seen, explain

        environment = Environment.read()
    except (ImportError, OSError, ValueError):  # for example, no descriptor is left
        return None
    row = explain(Failure(step, errno, call), Seen(environment), of_trial=False)
    return None if row is None else (row.cause, " ".join(row.describe(environment)))


def _where(find: Callable[[int], str | None], cgroup: int, controller: str) -> str | None:
    """The cgroup at fault, among the given one and those above it, then those of the calling thread."""
    try:
        found = None if cgroup < 0 else find(cgroup)
        if found is None:
            with _cgroups.own_cgroup(controller) as own:
                found = None if own is None else find(own)
    except (OSError, ValueError):
        return None
    return found


# ---- no further process: EAGAIN ----


def _deadline(_cgroup: int) -> Cause | None:
    if os.sched_getscheduler(0) != SCHED_DEADLINE:  # with the flag SCHED_RESET_ON_FORK it would differ
        return None
    return "sched-deadline", (
        "The calling thread has the scheduling policy SCHED_DEADLINE, which no child may inherit (sched(7)). Set "
        "SCHED_FLAG_RESET_ON_FORK with sched_setattr(2), or make the call in another thread."
    )


def _full_cgroup(cgroup: int) -> Cause | None:
    where = _where(_cgroups.full_of_processes, cgroup, "pids")
    if where is None:
        return None
    return "cgroup-pids-max", (
        f"The limit pids.max of the cgroup {where} is reached. Raise it, or end other processes of the cgroup."
    )


def _limit_of_user(_cgroup: int) -> Cause | None:
    uid = int(read_status("thread-self")["Uid"].split()[0])
    most = _soft_limit_of_processes()
    if most is None or _is_exempt(Caller.now(), uid):
        return None
    count = sum(_threads_of(name, uid) for name in os.listdir("/proc") if name.isdigit())
    if count + _cgroups.MAX_TASKS <= most:
        return None
    return "process-limit", (
        f"User {uid} has {count} processes and threads, and RLIMIT_NPROC (ulimit -u) is {most}. Raise the limit, or "
        "end other processes of this user."
    )


def _soft_limit_of_processes() -> int | None:
    with open("/proc/thread-self/limits", encoding="utf-8") as file:
        for line in file:
            if line.startswith("Max processes"):
                soft = line.split()[2]
                return int(soft) if soft.isdigit() else None
    return None


def _is_exempt(caller: Caller, uid: int) -> bool:
    """Root of the initial user namespace, and processes there with one of two capabilities, have no limit."""
    is_privileged = uid == 0 or caller.has(CAP_SYS_ADMIN) or caller.has(CAP_SYS_RESOURCE)
    return is_privileged and caller.is_initial


def _threads_of(name: str, uid: int) -> int:
    try:
        status = read_status(name)
    except OSError:
        return 0  # it has ended, or is hidden
    return int(status.get("Threads", 0)) if int(status["Uid"].split()[0]) == uid else 0


def _limit_of_system(_cgroup: int) -> Cause | None:
    with open("/proc/loadavg", encoding="utf-8") as file:
        count = int(file.read().split()[3].partition("/")[2])
    for name, reserved in (("threads-max", 0), ("pid_max", _RESERVED_PIDS)):
        with open(f"/proc/sys/kernel/{name}", encoding="utf-8") as file:
            most = int(file.read())
        if count + reserved + _cgroups.MAX_TASKS > most:
            return "pid-max", (
                f"The system has {count} processes and threads, and kernel.{name} is {most}. Raise it with sysctl, or "
                "end other processes."
            )
    return None


# ---- refused ----


def _proc_read_only(_cgroup: int) -> Cause | None:
    return PROC_READ_ONLY if is_proc_read_only() else None


def is_proc_read_only() -> bool:
    """Whether `/proc` is read-only: ID maps are written through it."""
    return bool(os.statvfs("/proc").f_flag & os.ST_RDONLY)


def _faked_ids(_cgroup: int) -> Cause | None:
    return None if faked_ids() is None else IDS_FAKED


def faked_ids() -> str | None:
    """How the IDs that this program is shown differ from the kernel's, in words; `None`: they do not.

    fakeroot, proot and similar tools intercept the calls by which a program asks for its IDs.
    They do not change the files of `/proc`.
    """
    try:
        status = read_status("thread-self")
    except OSError:
        return None
    for name, shown, field in (("user", os.getresuid(), "Uid"), ("group", os.getresgid(), "Gid")):
        real = tuple(map(int, status[field].split()[:3]))
        if shown != real:
            return f"this program is shown the {name} id {shown[1]}, and the kernel has {real[1]}"
    return None


def _seccomp(_cgroup: int) -> Cause | None:
    return SECCOMP_REFUSED if read_status("thread-self").get("Seccomp", "0") != "0" else None


def _no_execution_from_memory(_cgroup: int) -> Cause | None:
    with open("/proc/sys/vm/memfd_noexec", encoding="utf-8") as file:
        return None if int(file.read()) > 1 else SECCOMP_REFUSED


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


_ROOT = _identity("/")
_EXPLAINED = frozenset(("clone", *MAPS, "propagation", "mount_proc"))
"""Steps that the environment of the process can forbid."""
_NO_PROCESS = (_deadline, _full_cgroup, _limit_of_user, _limit_of_system)
_LOOKS: dict[tuple[str, int], tuple[Callable[[int], Cause | None], ...]] = {
    ("clone", EAGAIN): _NO_PROCESS,
    ("init", EAGAIN): _NO_PROCESS,
    ("execveat", EACCES): (_no_execution_from_memory,),
}
_LOOKS.update({(step, errno): (_proc_read_only, _faked_ids) for step in MAPS for errno in (EACCES, EPERM)})
_LOOKS.update({(step, ENOSYS): (_seccomp,) for step in ("memfd_create", "pidfd_open", "execveat")})
