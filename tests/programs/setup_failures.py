"""Each system call of a set-up step is made to fail, with each errno that is plausible for it."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from errno import (
    EACCES,
    EAGAIN,
    EBADF,
    EBUSY,
    EEXIST,
    EINVAL,
    ELOOP,
    EMFILE,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTDIR,
    EPERM,
    EROFS,
    errorcode,
)
from itertools import count
from typing import Any
from unittest.mock import patch

import native
from leaks import assert_unchanged, state

import usernsproc.setup
from usernsproc import PIPE, UsernsError, UsernsProcess, run
from usernsproc._setup import compiler
from usernsproc._setup.calls import Origin, SystemCall
from usernsproc._setup.causes import OF_CALLS, OF_STEPS
from usernsproc._setup.compiler import CompiledSetup, Process, _compile
from usernsproc.setup import (
    Affinity,
    Bind,
    Call,
    Capabilities,
    Cgroup2,
    Chroot,
    ControllingTerminal,
    CoreScheduling,
    Descriptors,
    Dev,
    Devpts,
    Dir,
    Domainname,
    File,
    Foreground,
    Hostname,
    IoPriority,
    Landlock,
    Loopback,
    Mask,
    Mqueue,
    Nice,
    NoUserNamespaces,
    OomScoreAdj,
    Overlay,
    Personality,
    Proc,
    Remount,
    Rlimit,
    Root,
    Scheduler,
    Seccomp,
    SessionKeyring,
    Signals,
    Symlink,
    Sysfs,
    TimeOffset,
    TimerSlack,
    Tmpfs,
    Unmount,
)

# ---- one example of each class ----

HOST = [Bind(path, read_only=True, missing_ok=True) for path in ("/usr", "/bin", "/lib", "/lib64")]

MNT = Tmpfs("/mnt")
ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
"""A seccomp program that refuses nothing."""


def examples() -> dict[str, Sequence[Any]]:
    """By the name of a class: a list that has it, and with which a command runs."""
    terminal = os.openpty()[1]
    return {
        "Affinity": [Affinity(os.sched_getaffinity(0))],
        "Bind": [Bind("/usr", "/tmp/usr", read_only=True, recursive=False)],
        "Call": [Call("sethostname", b"name", 4)],
        "Capabilities": [Capabilities(keep=["KILL"])],
        "Cgroup2": [MNT, Cgroup2("/mnt/cgroup")],
        "Chroot": [Chroot("/")],
        "ControllingTerminal": [ControllingTerminal(terminal)],
        "CoreScheduling": [CoreScheduling()],
        "Descriptors": [Descriptors({7: 2, 5: 2})],
        "Dev": [Root("tmpfs"), Dev(), *HOST],
        "Devpts": [MNT, Devpts("/mnt/pts")],
        "Dir": [MNT, Dir("/mnt/a/b", 0o700)],
        "Domainname": [Domainname("domain")],
        "File": [MNT, File("/mnt/a/b", "text"), File("/mnt/c", b"", 0o600, True), File("/mnt/c", "over", cover=True)],
        "Foreground": [ControllingTerminal(terminal), Foreground(terminal)],
        "Hostname": [Hostname("host")],
        "IoPriority": [IoPriority("best-effort", 5)],
        "Landlock": [Landlock(read=["/"], execute=["/"], tcp_bind=[80], missing_ok=True)],
        "Loopback": [Loopback()],
        "Mask": [MNT, File("/mnt/file", "secret"), Mask("/mnt/file"), Dir("/mnt/dir"), Mask("/mnt/dir")],
        "Mqueue": [MNT, Mqueue("/mnt/mqueue")],
        "Nice": [Nice(3)],
        "NoUserNamespaces": [NoUserNamespaces()],
        "OomScoreAdj": [OomScoreAdj(900)],
        "Overlay": [MNT, Overlay("/mnt/read-only", ["/usr", "/var"]), Overlay("/mnt/writable", "/usr", "tmpfs")],
        "Personality": [Personality("ADDR_NO_RANDOMIZE")],
        "Proc": [MNT, Proc("/mnt/proc")],
        "Remount": [MNT, Remount("/mnt"), Remount("/mnt", read_only=False, recursive=True)],
        "Rlimit": [Rlimit("NOFILE", 100, 200), Rlimit("CORE", 0)],
        "Root": [Root("tmpfs"), *HOST],
        "Scheduler": [Scheduler("BATCH")],
        "Seccomp": [Seccomp(ALLOW), Seccomp(ALLOW)],
        "SessionKeyring": [SessionKeyring()],
        "Signals": [Signals(default="all", block=["USR1"])],
        "Symlink": [MNT, Symlink("to", "/mnt/a/b")],
        "Sysfs": [MNT, Sysfs("/mnt/sys")],
        "TimeOffset": [TimeOffset(monotonic=1000, boottime=1000)],
        "TimerSlack": [TimerSlack(70000)],
        "Tmpfs": [Tmpfs("/mnt", size="1M", inodes=100, mode=0o700)],
        "Unmount": [MNT, Unmount("/mnt", lazy=True)],
    }


MAY_LACK = ("CoreScheduling",)
"""What the machine may not have: then the list fails as it is."""


def of_public_classes() -> set[str]:
    public = vars(usernsproc.setup)
    return {name for name in usernsproc.setup.__all__ if isinstance(public[name], type)} - {"Step"}


OPTIONS: dict[str, Any] = {
    "uid_map": "root",
    "namespaces": ["mnt", "pid", "net", "ipc", "uts", "cgroup", "time"],
    "start_new_session": True,
}
COMMAND = ["/bin/echo", "ran"]

# ---- failing calls ----

ERRNOS: dict[str, tuple[int, ...]] = {
    "openat": (EACCES, EMFILE, ENOENT),
    "openat2": (EACCES, ELOOP, ENOENT, ENOSYS, ENOTDIR),
    "open_tree": (EACCES, EINVAL, ENOENT, ENOSYS, EPERM),
    "move_mount": (EBUSY, EINVAL, ENOSPC, EPERM),
    "mount_setattr": (EINVAL, ENOSYS, EPERM),
    "fsopen": (ENODEV, ENOSYS, EPERM),
    "fsconfig": (EBUSY, EINVAL, ENOMEM, EPERM),
    "fsmount": (EBUSY, EPERM),
    "pivot_root": (EBUSY, EINVAL, ENOTDIR, EPERM),
    "umount2": (EBUSY, EINVAL, EPERM),
    "mkdirat": (EACCES, ENOSPC, EROFS),
    "make_like": (EACCES, ENOSPC, EROFS),
    "mknodat": (ENOSPC, EPERM, EROFS),
    "symlinkat": (EEXIST, ENOSPC, EROFS),
    "chdir": (EACCES, ENOENT, ENOTDIR),
    "fork_": (EAGAIN, ENOMEM),
    "close": (EBADF,),
}
OTHERWISE = (EINVAL, EPERM, ENOMEM)

NO_SYSTEM_CALL = 1_000_000
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
LOAD, JUMP_IF_EQUAL, OR, RETURN_ACCUMULATOR, RETURN = 0x20, 0x15, 0x44, 0x16, 0x06
OF_NUMBER, OF_FIRST_ARGUMENT = 0, 16 + 4 * (sys.byteorder == "big")


def let_a_number_fail() -> None:
    """The system call `NO_SYSTEM_CALL` fails with the errno that is its first argument, in all children as well."""
    filter_ = (
        (LOAD, 0, 0, OF_NUMBER),
        (JUMP_IF_EQUAL, 0, 3, NO_SYSTEM_CALL),
        (LOAD, 0, 0, OF_FIRST_ARGUMENT),
        (OR, 0, 0, SECCOMP_RET_ERRNO),
        (RETURN_ACCUMULATOR, 0, 0, 0),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in filter_))
    program = struct.pack("@HP", len(filter_), ctypes.addressof(code))
    if os.geteuid():
        native.must(native.libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    native.must(native.libc.prctl(22, 2, program))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def failing(call: SystemCall, errno: int) -> SystemCall:
    """A call in its place that fails, where it would not have been left out."""
    _, needs, tolerated, arguments, _, *others = call
    fields = (NO_SYSTEM_CALL, needs, tolerated, (errno, *arguments[1:6]), -1, *others)
    if arguments and not isinstance(arguments[0], int):
        fields = (*fields[:3], (errno, *arguments[:5]), *fields[4:])
    return tuple.__new__(SystemCall, fields)


class Broken:
    """One call of a compiled list fails: the *place*-th of those that are for steps, then what the parent does."""

    def __init__(self, place: int, errno: int) -> None:
        self._place, self._errno = place, errno
        self.origin: Origin | None = None

    def compile(self, setup: CompiledSetup, steps: tuple[Any, ...], process: Process) -> CompiledSetup:
        _compile(setup, steps, process)
        places = count()
        for calls in setup._calls.values():
            for n, call in enumerate(calls):
                if next(places) == self._place:
                    assert isinstance(call.filename, Origin)
                    self.origin = call.filename
                    if self._errno not in call[2]:
                        calls[n] = failing(call, self._errno)
        for n, (origin, _) in enumerate(setup.in_parent):
            if next(places) == self._place:
                self.origin = origin
                setup.in_parent[n] = (origin, self._fail)
        return setup

    def _fail(self, _pid: int) -> None:
        raise OSError(self._errno, os.strerror(self._errno))


def compiled_by(compile: Callable[..., CompiledSetup]) -> AbstractContextManager[object]:
    return patch.object(compiler, "compile_steps", compile)


def calls_of(steps: Sequence[Any], options: dict[str, Any]) -> list[tuple[Origin, tuple[int, ...]]]:
    """Those of a command that runs: where each comes from, and the errnos that it tolerates."""
    found: list[tuple[Origin, tuple[int, ...]]] = []

    def compile(setup: CompiledSetup, steps: tuple[Any, ...], process: Process) -> CompiledSetup:
        _compile(setup, steps, process)
        for call in (call for calls in setup._calls.values() for call in calls):
            assert isinstance(call.filename, Origin)
            found.append((call.filename, call[2]))
        found.extend((origin, ()) for origin, _ in setup.in_parent)
        return setup

    lacks = suppress(UsernsError) if any(type(step).__name__ in MAY_LACK for step in steps) else nullcontext()
    with compiled_by(compile), lacks:
        assert run(COMMAND, setup=steps, stdout=PIPE, **options).stdout == b"ran\n"
    return found


def assert_reported(error: UsernsError, steps: Sequence[Any], origin: Origin, errno: int) -> None:
    name = type(origin.step).__name__
    assert error.errno == errno, error
    assert (error.step, error.setup_index, error.call) == (name, origin.index, origin.call), error
    assert error.setup_step == repr(steps[origin.index]) == repr(origin.step)
    assert error.filename == origin.path, error
    where = "" if origin.path is None else f": {origin.path!r}"
    text = f"setup[{origin.index}] {name}: {origin.call}: {os.strerror(errno)}{where} [{errorcode[errno]}"
    assert str(error).startswith(text), str(error)
    if errno == ENOSYS:  # this kernel has the call: the filter of the test is found to be the cause
        cause, note = OF_STEPS.get((name, errno)) or OF_CALLS[origin.call, errno]
        assert cause == "kernel-too-old", error
        assert re.search(r"requires Linux \d\.\d+", note)
        assert (error.cause, error.__notes__[0]) == (cause, note) or error.cause == "seccomp", error


def fail_each_call(name: str, joins_own: bool) -> None:
    """All or nothing, with the step, its place, its path and the errno in text and attributes."""
    native.unshare(native.CLONE_NEWNS) if os.geteuid() == 0 else None
    let_a_number_fail()
    steps, options = examples()[name], dict(OPTIONS)
    if joins_own:
        del options["uid_map"]
        options["join"] = "/proc/self/ns/user"
    calls = calls_of(steps, options)
    assert {type(origin.step).__name__ for origin, _ in calls} >= {name}
    attempts = 0
    for place, (origin, tolerated) in enumerate(calls):
        if type(origin.step).__name__ != name:
            continue
        for errno in set(ERRNOS.get(origin.call, OTHERWISE)) - set(tolerated):
            before, broken = state(), Broken(place, errno)
            with compiled_by(broken.compile):
                read, write = os.pipe()
                try:
                    UsernsProcess(COMMAND, setup=steps, stdout=write, **options).close()
                except UsernsError as error:
                    assert_reported(error, steps, origin, errno)
                else:
                    raise AssertionError(f"{origin.call} of {origin.step!r} has not failed with {errorcode[errno]}")
                finally:
                    os.close(write)
                assert os.read(read, 10) == b"", f"the command has run: {origin.call} {errorcode[errno]}"
                os.close(read)
            assert_unchanged(before)
            attempts += 1
    print(attempts)
