"""Programs in which one system call fails, or a child is killed or stopped at it, by strace(1)."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from kinds import ALL_KINDS, Kind, nothing_left
from leaks import descriptors
from strace import Strace, allow_tracers

from usernsproc import UsernsError

FAULTS = (
    "capget:error=EPERM",
    "capset:error=EPERM",
    "chdir:error=EACCES",
    "clone:error=EAGAIN",
    "clone:error=EPERM",
    "clone3:error=EAGAIN",
    "clone3:error=ENOSYS",
    "clone3:error=EPERM",
    "close_range:error=ENOSYS",
    "close_range:error=EPERM",
    "dup3:error=EBADF",
    "execve:error=ENOMEM",
    "execveat:error=EACCES",
    "fchmod:error=EPERM",
    "fcntl:error=EMFILE",
    "memfd_create:error=EINVAL",
    "memfd_create:error=EMFILE",
    "mmap:error=ENOMEM",
    "mprotect:error=ENOMEM",
    "ioctl:error=ENOTTY",
    "openat:error=EMFILE",
    "openat2:error=EMFILE",
    "openat2:error=ENOSYS",
    "openat2:error=EPERM",
    "pidfd_open:error=EMFILE",
    "pipe2:error=EMFILE",
    "prctl:error=EPERM",
    "read:error=EINTR",
    "recvmsg:error=EINTR",
    "sendmsg:error=ENOMEM",
    "setgroups:error=EPERM",
    "setns:error=EPERM",
    "setpgid:error=EPERM",
    "setresgid:error=EPERM",
    "setresuid:error=EPERM",
    "setsid:error=EPERM",
    "socketpair:error=EMFILE",
    "statx:error=ENOSYS",
    "unshare:error=ENOSPC",
    "waitid:error=EINTR",
    "write:error=EPERM",
    "writev:error=ENOSPC",
)
"""What fails, and how. Not those that cannot be reported or made up for (`close`, `munmap`, what kills and reaps), nor
`futex`, which libc needs."""
LOADER_CALLS = ("mmap", "mprotect", "openat", "read")
"""Those of `ld.so`, which may be hit in the command itself."""
LOADER_FAILED = frozenset({1, 127, -signal.SIGSEGV, 128 + signal.SIGSEGV})
NO_THREAD = {"ENOMEM": (errno.EAGAIN,)}
"""What `pthread_create(3)` makes of it."""
NO_WORD = {"write": (errno.ESRCH,)}
"""The report of a child that cannot report, and ends."""
MAX_CALLS = 40


class Outcome(NamedTuple):
    started: Any
    failed: BaseException | None
    has_struck: bool


def start_with(kind: Kind, *faults: str) -> Outcome:
    started = failed = None
    with Strace(*faults) as strace:
        try:
            started = kind.start()
        except (OSError, MemoryError) as error:
            failed = error
    return Outcome(started, failed, strace.has_struck)


def assert_reported(kind: Kind, outcome: Outcome, *numbers: int, allowed: frozenset[int] = frozenset()) -> None:
    """Check that the error is exact, or that the usual process was created."""
    failed = outcome.failed
    if failed is None:
        kind.check(outcome.started, allowed=allowed)
    elif not isinstance(failed, MemoryError):  # the interpreter's own
        assert isinstance(failed, UsernsError)
        assert failed.step, "no step"
        assert failed.errno in numbers, f"{failed!r} at {failed.step}"


class Complaints:
    """Collects failed assertions and goes on, to see the others."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def about(self, what: object) -> Iterator[None]:
        try:
            with nothing_left():
                yield
        except AssertionError as error:
            self.found.append(f"{what}: {error}")
            for fd in set(descriptors()) - {"0", "1", "2"}:
                os.close(int(fd))  # what was left

    def raise_all(self) -> None:
        assert not self.found, "\n".join(self.found)


def each_fault(name: str) -> None:
    kind, complaints = ALL_KINDS[name], Complaints()
    allow_tracers()
    kind.learn()
    for fault in FAULTS:
        for count in range(1, MAX_CALLS):
            has_struck = True
            with complaints.about(f"{fault}:when={count}"):
                outcome = start_with(kind, f"{fault}:when={count}")
                has_struck = outcome.has_struck
                call, _, error = fault.partition(":error=")
                allowed = LOADER_FAILED if call in LOADER_CALLS else frozenset[int]()
                numbers = (getattr(errno, error), *NO_THREAD.get(error, ()), *NO_WORD.get(call, ()))
                assert_reported(kind, outcome, *numbers, allowed=allowed)
                kind.check(kind.start())
            if not has_struck:
                break
        print(fault, count - 1)
    complaints.raise_all()


CHILD_STARTS_LATE = "prctl:delay_enter=30000:when=1"
DELAY = "delay_enter=80000"
"""Microseconds: this process gets as far as a certain file of /proc, and the child dies while it opens it."""
KILLED_EARLY = ("ppoll", "getppid")
"""What children call, and this process does not, before their maps are written."""
KILLED_LATE = ("chdir", "setsid", "execveat", "setns", "unshare", "sendmsg", "mount", "setresuid", "capset", "execve")
"""And afterwards."""
TOGETHER = ("sendmsg:signal=KILL:when=1", "ppoll:signal=KILL:when=1")
"""A process that was to report the end of another one, and that one, if there are such."""


def children_killed(name: str) -> None:
    kind, complaints = ALL_KINDS[name], Complaints()
    allow_tracers()
    kind.learn()
    failures = 0
    kills: list[tuple[str, ...]] = [TOGETHER]
    for call in (*KILLED_EARLY, *KILLED_LATE):
        for delayed in range(6 if call in KILLED_EARLY else 1):  # the files of /proc that are opened too late
            delay = (CHILD_STARTS_LATE, f"openat:{DELAY}:when={delayed}") if delayed else ()
            kills.append((f"{call}:signal=KILL:when=1", *delay))
    for faults in kills:
        with complaints.about(faults):
            outcome = start_with(kind, *faults)
            failures += outcome.failed is not None
            assert_reported(kind, outcome, errno.ESRCH, allowed=frozenset({-signal.SIGKILL, 128 + signal.SIGKILL}))
            kind.check(kind.start())
    print(failures)
    complaints.raise_all()


STOPPED = ("setns", "sendmsg", "ppoll", "chdir")
"""What a child calls when it is in the namespaces, whose root may stop it; or is about to be."""


def children_stopped(name: str) -> None:
    kind, complaints = ALL_KINDS[name], Complaints()
    allow_tracers()
    kind.learn()
    struck = 0
    for call in STOPPED:
        with complaints.about(call):
            outcome = start_with(kind, f"{call}:signal=STOP:when=1")
            struck += outcome.has_struck
            assert outcome.failed is None, f"{outcome.failed!r}"
            kind.check(outcome.started)
    print(struck)
    complaints.raise_all()
