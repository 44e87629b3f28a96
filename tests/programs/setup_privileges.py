"""The programs of `test_setup_privileges.py`."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, ClassVar

import native
from alone import run_alone
from entering import enter_own_mounts, enter_own_userns
from step_processes import OWN, ROOT, SHIFTED, done

from usernsproc import UsernsError
from usernsproc._setup.calls import Place, SystemCall
from usernsproc._setup.compiler import Emitter
from usernsproc._setup.step import Phase, Step
from usernsproc._system_calls import NR
from usernsproc.setup import Capabilities, NoUserNamespaces, Tmpfs

LIMIT = Path("/proc/sys/user/max_user_namespaces")
NO_SYSTEM_CALL = 0xFFFF
HELPERS_CALLS = 5


def failure(*steps: Any, **options: Any) -> UsernsError:
    try:
        done("true", *steps, **options)
    except UsernsError as error:
        return error
    raise AssertionError("it has started")


def be_without_rights() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65533, 65533, 65533)
        os.setresuid(65533, 65533, 65533)
        native.prctl(native.PR_SET_DUMPABLE, 1)


def drop_without_setpcap() -> None:
    be_without_rights()
    error = failure(Capabilities(), **OWN)
    assert (error.step, error.setup_index, error.call) == ("Capabilities", 0, "prctl")
    assert (error.errno, error.cause) == (errno.EPERM, "no-cap-setpcap")


def own_namespace_without_setuid() -> None:
    be_without_rights()
    error = failure(NoUserNamespaces(), **OWN)
    assert (error.errno, error.filename, error.cause) == (errno.EPERM, "/proc/self/uid_map", "nested-map-refused")


def no_user_namespace_left() -> None:
    enter_own_userns()
    LIMIT.write_text("1")
    error = failure(NoUserNamespaces(), **ROOT)
    assert (error.call, error.errno, error.cause) == ("unshare", errno.ENOSPC, "max-user-namespaces")


def covered_settings() -> None:
    enter_own_mounts()
    native.must(native.libc.mount(b"tmpfs", b"/proc/sys", b"tmpfs", 0, None))
    run_alone(covered_settings_from_the_start)


def covered_settings_from_the_start() -> None:
    error = failure(NoUserNamespaces(), **ROOT)
    assert (error.filename, error.errno, error.cause) == (
        "/proc/sys/user/max_user_namespaces",
        errno.EXDEV,
        "proc-read-only",
    )


def each_call_fails(ran: str) -> None:
    """Each call of the step in turn has a number that no system call has; then helpers end silently in place of it."""
    added: list[str] = []
    add = Emitter.add
    status: tuple[int, ...] = ()
    bad, number = -1, NO_SYSTEM_CALL

    def add_or_fail(self: Emitter, name: str, *arguments: Any, phase: Phase | None = None, **options: Any) -> Any:
        result = add(self, name, *arguments, phase=phase, **options)
        if isinstance(self._step, NoUserNamespaces):
            if len(added) == bad:
                calls = self.setup._calls[self._step.phase if phase is None else phase]
                calls[-1] = tuple.__new__(SystemCall, (number, *calls[-1][1:3], status or calls[-1][3], *calls[-1][4:]))
            added.append(name)
        return result

    Emitter.add = add_or_fail  # type: ignore[method-assign, assignment]
    ways = [OWN, SHIFTED, ROOT] if os.geteuid() == 0 else [ROOT]
    for options in ways:
        bad = -1
        added.clear()
        assert done("true", NoUserNamespaces(), **options).returncode == 0
        names = [*added]
        assert len(names) > 15
        for bad, name in enumerate(names):
            added.clear()
            try:
                done(f"touch {ran}", NoUserNamespaces(), **options)
            except UsernsError as error:
                assert (error.step, error.call, error.errno) == ("NoUserNamespaces", name, errno.ENOSYS), (bad, error)
            else:
                raise AssertionError(f"call {bad}, {name}: it has started")
            assert not os.path.exists(ran)
        number, status = NR["exit_group"], (1,)
        for bad in [n for n, name in enumerate(names) if "fork_" in names[max(0, n - HELPERS_CALLS) : n]]:
            added.clear()
            try:
                done(f"touch {ran}", NoUserNamespaces(), **options)
            except UsernsError as error:
                assert (error.step, error.call, error.errno) == ("NoUserNamespaces", "lseek", errno.EIO), (bad, error)
            else:
                raise AssertionError(f"helper without call {bad}: it has started")
            assert not os.path.exists(ran)
        number, status = NO_SYSTEM_CALL, ()


class Stop(Step):
    """Says that it is there, and waits."""

    phase: ClassVar[Phase] = Phase.BOUNDING
    __slots__ = ("said", "waits")
    said: int
    waits: int

    def __init__(self, said: int, waits: int) -> None:
        self._set(said=said, waits=waits)

    def emit(self, calls: Emitter) -> None:
        calls.add("write", calls.keep(self.said), b"x", 1)
        calls.add("read", calls.keep(self.waits), Place(bytearray(1)), 1)


def start(said: int, *steps: Step) -> None:
    try:
        done("true", *steps, namespaces=["mnt"], **SHIFTED)
    finally:
        os.write(said, b"ended")


def out_of_reach() -> None:
    """Of the users that the namespace maps, and of root in another namespace that maps them."""
    for more in ((), (Tmpfs("/mnt"),)):
        says, said = os.pipe()
        waits, go = os.pipe()
        steps = (NoUserNamespaces(), Stop(said, waits), *more)
        thread = threading.Thread(target=start, args=(said, *steps))
        thread.start()
        assert os.read(says, 1) == b"x"
        try:
            children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
            (pid,) = [pid for pids in children for pid in pids]
            assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "100000", "65536"]
            look = f"cat /proc/{pid}/environ"
            assert subprocess.run(look, shell=True, stdout=subprocess.DEVNULL, check=False).returncode == 0
            assert subprocess.run(look, shell=True, user=100000, group=100000, check=False).returncode != 0
            assert done(look, **SHIFTED).returncode != 0
        finally:
            os.write(go, b"x")
            thread.join()
