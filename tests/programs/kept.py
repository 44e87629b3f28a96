"""Programs that close, replace and copy the descriptors that the core keeps open."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import native
from commands import SLEEP
from entering import enter_own_mounts
from leaks import KEPT, PIDFD, PIDFD_THREAD, PROC, close_kept, descriptors, kept_descriptors, pids_of
from strace import allow_tracers

from usernsproc import Namespace, UsernsError, UsernsProcess, _system_calls, check_output
from usernsproc._setup.calls import Setup, SystemCall
from usernsproc._spawn import Program, start

from . import signals
from .forks import in_copy, start_copy

WAYS: list[dict[str, Any]] = [{"uid_map": "root"}, {"uid_map": "root", "user": 0, "group": 0}]
NR_CLONE3 = 435
MANY = 40
"""More than the core opens a descriptor again."""


def works() -> None:
    """Start everything that uses one of the descriptors."""
    for options in WAYS:
        assert check_output(["id", "-u"], **options) == b"0\n"
    with UsernsProcess(uid_map="root") as holder, holder.namespace() as userns:
        assert [str(line) for line in (holder.uid_map, userns.uid_map)] == [f"0:{os.geteuid()}:1"] * 2


def kept_numbers() -> dict[str, int]:
    """Return the descriptors that are kept, each with its number, after the first commands."""
    works()
    found = kept_descriptors()
    assert found.keys() <= {*KEPT}
    return found


def print_what_is_kept() -> None:
    """Print it before and after the first command, and whether it is inherited or below 3."""
    before = kept_descriptors()
    after = kept_numbers()
    odd = [name for name, fd in after.items() if os.get_inheritable(fd) or fd < 3]
    print(json.dumps([sorted(before), sorted(after), odd]))


def standard_descriptors_are_closed() -> None:
    """0 and 1 are the numbers that the next files get."""
    os.close(0)
    os.close(1)
    try:
        found = {*kept_numbers().values()}
        assert not found & {0, 1, 2}, found
        assert not {"0", "1"} & {*os.listdir("/proc/self/fd")} - {str(fd) for fd in found} - {listing()}
    finally:
        os.open(os.devnull, os.O_RDWR)
        os.dup(0)


def listing() -> str:
    """Return the number that `os.listdir` opens a directory at."""
    fd = os.open("/", os.O_RDONLY)
    os.close(fd)
    return str(fd)


def is_same_file(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other) and fcntl.fcntl(one, fcntl.F_GETFL) == fcntl.fcntl(other, fcntl.F_GETFL)


def replaced_by(name: str, open_other: Callable[[], int]) -> None:
    """Another file stands at the number of the kept one: it is not used and not closed, and a new one is kept."""
    number = kept_numbers()[name]
    other = open_other()
    os.dup2(other, number, inheritable=False)
    before = descriptors()
    flags = os.get_inheritable(number)
    works()
    assert is_same_file(number, other)
    assert os.get_inheritable(number) == flags
    found = kept_descriptors()
    assert found[name] != number, found
    assert descriptors() == before
    works()
    assert kept_descriptors() == found
    os.close(number)
    os.close(other)
    works()


def replaced_by_another_file(name: str) -> None:
    replaced_by(name, lambda: os.open(os.devnull, os.O_RDONLY))


def replaced_by_the_pidfd_of_another_process() -> None:
    """A holder that was told that process in place of this one would end with it."""
    child = UsernsProcess(SLEEP, uid_map="root")
    replaced_by(PIDFD, lambda: os.dup(child.pidfd))
    number = kept_numbers()[PIDFD]
    os.dup2(child.pidfd, number, inheritable=False)
    with UsernsProcess(uid_map="root") as holder:
        child.kill()
        child.wait()
        assert holder.poll() is None
        with UsernsProcess(SLEEP, uid_map="root") as command:  # it looks whether its parent lives
            assert command.poll() is None
            command.kill()
    os.close(number)
    child.close()


def replaced_by_the_pidfd_of_a_thread() -> None:
    """The main thread, whose file is the same one."""
    replaced_by(PIDFD, lambda: os.pidfd_open(os.getpid(), PIDFD_THREAD))
    number = kept_numbers()[PIDFD]
    of_thread = os.pidfd_open(os.getpid(), PIDFD_THREAD)
    os.dup2(of_thread, number, inheritable=False)

    def look() -> None:
        works()
        assert is_same_file(number, of_thread)

    in_copy("os.fork", look)
    os.close(number)
    os.close(of_thread)


def replaced_by_another_procfs() -> None:
    """It shows the same PID namespace, and is another mount."""
    enter_own_mounts()
    native.must(native.libc.mount(b"proc", b"/mnt", b"proc", 0, None))
    replaced_by(PROC, lambda: os.open("/mnt", os.O_PATH))
    native.must(native.libc.umount2(b"/mnt", 0))


def closed_again_and_again() -> None:
    """It gives up keeping, and leaves nothing."""
    kept_numbers()
    before = descriptors()
    lacking: list[bool] = []
    for _ in range(MANY):
        close_kept()
        works()
        assert descriptors() == before
        lacking.append(not kept_descriptors().keys() & {PIDFD, PROC})
    assert lacking == sorted(lacking)
    assert not lacking[0]
    assert lacking[-1]
    assert not kept_descriptors()

    def keeps() -> None:
        assert {PIDFD, PROC} <= kept_numbers().keys()

    in_copy("os.fork", keeps)


def in_a_forked_copy(how: str) -> None:
    """A copy closes what it has inherited, and opens its own."""
    own = kept_numbers()
    before = descriptors()

    def look() -> None:
        found = kept_numbers()
        assert pids_of(found[PIDFD]) == {os.getpid()}, found
        assert descriptors() == before
        assert len(found) == len(own)

    for _ in range(2):
        in_copy(how, look)
    in_copy(how, lambda: in_copy(how, look))
    assert kept_numbers() == own


def replaced_in_a_forked_copy(how: str) -> None:
    """Also there, the file that a program has opened at the number stays."""
    numbers = {name: fd for name, fd in kept_numbers().items() if name in (PIDFD, PROC)}
    null = os.open(os.devnull, os.O_RDONLY)

    def look() -> None:
        for fd in numbers.values():
            os.dup2(null, fd, inheritable=False)
        works()
        assert all(is_same_file(fd, null) for fd in numbers.values())
        assert not {*kept_descriptors().values()} & {*numbers.values()}

    in_copy(how, look)
    assert {name: kept_numbers()[name] for name in numbers} == numbers
    os.close(null)


def holder_of_a_forked_copy(how: str) -> None:
    """It ends with the copy, whatever becomes of the first."""
    kept_numbers()
    told, tell = os.pipe()
    wait, end = os.pipe()

    def hold() -> None:
        holder = UsernsProcess(uid_map="root")
        os.write(tell, str(holder.pid).encode())
        os.close(end)
        os.read(wait, 1)
        os._exit(0)

    copy = start_copy(how, hold)
    holder = os.pidfd_open(int(os.read(told, 20)))
    assert not select.select([holder], [], [], 0)[0]
    os.close(end)
    os.waitpid(copy, 0)
    select.select([holder], [], [])
    for fd in (holder, told, tell, wait):
        os.close(fd)


def works_at_once(together: threading.Barrier) -> None:
    together.wait()
    works()


def by_many_threads_at_once() -> None:
    """One of them keeps the descriptors. The others, which find them in use, close their own."""
    kept_numbers()
    before = descriptors()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            close_kept()
            together = threading.Barrier(8)
            list(pool.map(works_at_once, [together] * 8))
            assert kept_descriptors().keys() == {*KEPT} & {PIDFD, PROC}
    assert descriptors() == before


def proc_is_unmounted() -> None:
    """What is kept makes it busy; commands go on without one that is visible."""
    enter_own_mounts()
    native.must(native.libc.umount2(b"/proc", native.MNT_DETACH))
    native.must(native.libc.mount(b"proc", b"/proc", b"proc", 0, None))
    works()
    assert native.libc.umount2(b"/proc", 0) == -1
    assert ctypes.get_errno() == errno.EBUSY
    close_kept()
    native.must(native.libc.umount2(b"/proc", 0))
    native.must(native.libc.mount(b"proc", b"/proc", b"proc", 0, None))
    works()
    native.must(native.libc.umount2(b"/proc", native.MNT_DETACH))
    works()
    with Namespace.current() as userns:
        assert userns.fileno() > 2


def fails(step: str, error: int) -> None:
    before = descriptors()
    for args in (None, ["true"]):
        try:
            UsernsProcess(args, uid_map="root")
        except UsernsError as failed:
            assert (failed.step, failed.errno) == (step, error)
        else:
            raise AssertionError(args)
    assert descriptors() == before


def what_is_there_cannot_be_looked_at(error: int) -> None:
    """The kept ones may be there, so they are not replaced. `/proc` cannot be proven either."""
    before = kept_numbers(), descriptors()
    with ThreadPoolExecutor(1) as unfiltered:
        unfiltered.submit(works).result()
        native.refuse_system_call(_system_calls.NR["statx"], error)
        fails("open_proc", error)
        unfiltered.submit(works).result()
    assert (kept_descriptors(), descriptors()) == before


def no_pidfd_can_be_opened(error: int) -> None:
    kept_numbers()
    native.refuse_system_call(_system_calls.NR["pidfd_open"], error)
    works()
    close_kept()
    fails("pidfd_open", error)


# ---- clone3(2) ----


def clone3_is_refused(error: int) -> None:
    native.refuse_system_call(NR_CLONE3, error)
    works()
    no_handler_runs_in_a_command_without_launcher()
    for options in WAYS:
        signals.signal_the_child(options)


def start_some() -> None:
    """For strace(1), which lets the first clone3(2) of a command fail."""
    allow_tracers()
    for _ in range(5):
        works()


def signalled(signum: int) -> list[SystemCall]:
    """Calls by which a child signals itself, as the only process of a group. It has blocked the signal."""
    return [SystemCall("prepare", "setpgid", 0, 0), SystemCall("prepare", "kill", 0, signum)]


def no_handler_runs_in_a_command_without_launcher() -> None:
    """Its memory is the caller's until it executes the command, so that the caller would see it."""
    ran: list[int] = []
    harmless = [signal.SIGURG, signal.SIGWINCH, signal.SIGCONT]  # by default ignored
    for signum in harmless:
        signal.signal(signum, lambda signum, _: ran.append(signum))
    for _ in range(50):
        calls = [call for signum in harmless for call in signalled(signum)]
        child = start(Program(["true"], [b"/bin/true"]), setup=Setup(tuple(calls)))
        result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        assert result is not None
        assert (result.si_code, result.si_status) == (os.CLD_EXITED, 0)
    assert not ran, ran


def own_status() -> str:
    return Path("/proc/self/status").read_text()


def print_signals(options: dict[str, Any]) -> None:
    """Print what a command catches and ignores of signals that its caller handles, ignores, and blocks."""
    for handled in (signal.SIGUSR1, signal.SIGRTMIN, signal.SIGRTMAX):
        signal.signal(handled, lambda *_: None)
    for ignored in (signal.SIGUSR2, signal.SIGRTMIN + 1):
        signal.signal(ignored, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    text: str = check_output(["cat", "/proc/self/status"], text=True, **options) if options else own_status()
    print(*(line.split()[1] for line in text.splitlines() if line.startswith(("SigBlk", "SigIgn", "SigCgt"))))


def print_signals_after_a_refusal(options: dict[str, Any]) -> None:
    native.refuse_system_call(NR_CLONE3, errno.ENOSYS)
    print_signals(options)
