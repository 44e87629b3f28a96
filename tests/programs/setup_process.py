"""Steps that concern the process, started by a process whose limits, CPUs or signals are special."""

from __future__ import annotations

import errno
import os
import resource
import signal

from setup_steps import CAP_SYS_RESOURCE, has_capability, inside, signal_set, status

from usernsproc import UsernsError
from usernsproc.setup import Affinity, Rlimit, Signals

LIMITS = (
    *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING"),
    *("MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
)
BELOW = {"DATA": 1 << 32, "AS": 1 << 40, "STACK": 8 << 20, "RSS": 1 << 32, "FSIZE": 1 << 30, "NICE": 0, "RTPRIO": 0}
"""With which a program works; for the other limits 5000."""


def number_of(name: str) -> int:
    return getattr(resource, f"RLIMIT_{name}", 10)


def value_of(name: str) -> int:
    hard = resource.prlimit(0, number_of(name))[1]
    value = BELOW.get(name, 5000)
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def limit_inside(name: str, *steps: Rlimit) -> list[int]:
    found: list[int] = inside(f"__import__('resource').prlimit(0, {number_of(name)})", *steps)
    return found


def raise_soft(name: str) -> None:
    high = value_of(name)
    low = high // 2
    resource.prlimit(0, number_of(name), (low, high))
    assert limit_inside(name) == [low, high]
    assert limit_inside(name, Rlimit(name, high)) == [high, high]
    assert resource.prlimit(0, number_of(name)) == (low, high)


def raise_hard(name: str) -> None:
    """Only the initial user namespace's `CAP_SYS_RESOURCE` allows it."""
    low = value_of(name)
    resource.prlimit(0, number_of(name), (low, low))
    try:
        assert limit_inside(name, Rlimit(name, low, low + 1)) == [low, low + 1]
        assert limit_inside(name, Rlimit(name, low + 1)) == [low + 1, low + 1]
        assert has_capability(CAP_SYS_RESOURCE)
    except UsernsError as error:
        assert (error.step, error.call, error.errno) == ("Rlimit", "prlimit64", errno.EPERM)
        assert (error.filename, error.cause) == (name, "limit-too-high")
        assert not has_capability(CAP_SYS_RESOURCE)
    assert resource.prlimit(0, number_of(name)) == (low, low)


def signals_of_the_caller() -> None:
    """Ignored and blocked ones are inherited unless a step says otherwise."""
    for number in (signal.SIGINT, signal.SIGQUIT):  # which a shell ignores in the background
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    hup, usr1, usr2, term = signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM
    every = set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP}
    for steps, ignored, blocked in (
        ((), {hup, usr1}, {usr2}),
        ((Signals(default=["HUP"]),), {usr1}, {usr2}),
        ((Signals(default="all"),), set(), {usr2}),
        ((Signals(default="all", ignore=["SIGTERM", 40]),), {term, 40}, {usr2}),
        ((Signals(ignore="all", default=[signal.SIGINT]),), every - {signal.SIGINT}, {usr2}),
        ((Signals(block=()),), {hup, usr1}, set()),
        ((Signals(block=["TERM", 64]),), {hup, usr1}, {term, 64}),
        ((Signals(block="all"), Signals(ignore=["PIPE"])), {hup, usr1, signal.SIGPIPE}, every),
    ):
        found = status(*steps)
        # posix_spawn(3) of glibc, by which Python 3.13 starts this program, ignores the signals that it uses itself.
        own = {32, 33}
        assert signal_set(found["SigIgn"]) - own == ignored - own, steps
        assert signal_set(found["SigBlk"]) == blocked, steps
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGUSR2}


def wider_affinity() -> None:
    """The command may run on CPUs that the caller does not use at the moment."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    assert set(inside("list(os.sched_getaffinity(0))", Affinity(cpus))) == cpus
    assert os.sched_getaffinity(0) == {min(cpus)}
