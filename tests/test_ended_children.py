"""A child that ends before it runs the program: the exception says how it ended.

The core reports a step, an errno and the child's return code. They are converted by one
function, for commands, holders and namespaces alike.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EBUSY, EINVAL, ENOENT, ENOSPC, EPERM, ESRCH
from pathlib import Path
from typing import Any

import pytest
from cgroups import unified
from errors import error_of

from usernsproc import Namespace, UsernsProcess, _core, create_userns
from usernsproc._evidence import child_error, failed
from usernsproc.lowlevel import fork_userns

ENDED: dict[int, tuple[str, str]] = {
    -signal.SIGSYS: ("seccomp-killed", "A seccomp filter killed the child with SIGSYS"),
    -signal.SIGKILL: ("child-killed", "The child was killed by SIGKILL"),
    -signal.SIGSEGV: ("broken-build", "Likely: the internal helper programs"),
    -signal.SIGTERM: ("child-killed", "The child was killed by SIGTERM"),
    -signal.SIGRTMIN: ("child-killed", "The child was killed by SIGRTMIN"),
    -(signal.SIGRTMIN + 2): ("child-killed", f"The child was killed by signal {signal.SIGRTMIN + 2}"),
    128 + signal.SIGSYS: ("seccomp-killed", "A seccomp filter killed the child with SIGSYS"),
    128 + signal.SIGKILL: ("child-killed", "The child was killed by SIGKILL"),
    0: ("child-killed", "The child exited with status 0"),
    3: ("child-killed", "The child exited with status 3"),
    255: ("child-killed", "The child exited with status 255"),
}


def core_fails(monkeypatch: pytest.MonkeyPatch, name: str, *args: object) -> None:
    def fail(*_: object) -> None:
        raise _core.Failure(*args)

    monkeypatch.setattr(_core, name, fail)


CALLS: dict[str, tuple[str, Callable[[], Any]]] = {
    "command": ("spawn", lambda: UsernsProcess(["true"], uid_map="root")),
    "holder": ("spawn", lambda: UsernsProcess(uid_map="root")),
    "namespace": ("create_userns", lambda: create_userns("root", "root")),
}
each_call = pytest.mark.parametrize("name", CALLS)


@each_call
@pytest.mark.parametrize("ended", ENDED)
def test_the_cause_is_how_the_child_ended(name: str, ended: int, monkeypatch: pytest.MonkeyPatch) -> None:
    function, call = CALLS[name]
    core_fails(monkeypatch, function, "on_created", ESRCH, ended)
    error = error_of(call)
    cause, words = ENDED[ended]
    assert isinstance(error, ProcessLookupError)
    assert str(error) == f"on_created: No such process [ESRCH, {cause}]"
    assert error.__notes__[0].startswith(words)
    assert len(error.__notes__) == 1


@each_call
@pytest.mark.parametrize("args", [("clone", ENOSPC), ("clone", ENOSPC, None)])
def test_without_it_the_table_has_the_cause(name: str, args: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The core may omit it."""
    function, call = CALLS[name]
    core_fails(monkeypatch, function, *args)
    assert str(error_of(call)) == "clone: No space left on device [ENOSPC, max-user-namespaces]"


def test_the_maps_of_a_namespace_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with create_userns("root", "root") as userns, Namespace.current("net") as net:
        core_fails(monkeypatch, "spawn", "read_map", ESRCH, -signal.SIGSYS)
        assert error_of(lambda: userns.uid_map).cause == "seccomp-killed"
        core_fails(monkeypatch, "spawn", "setns", EINVAL)
        assert error_of(lambda: net.uid_map).cause == "not-a-user-namespace"
        core_fails(monkeypatch, "spawn", "setns", EPERM, None)
        assert error_of(lambda: userns.uid_map).cause == "join-refused"


def test_the_file_is_named() -> None:
    error = failed(_core.Failure("exec", ENOENT, None), {"exec": "prog"})
    assert str(error) == "exec: No such file or directory: 'prog' [ENOENT]"


# ---- killed for want of memory ----


@contextmanager
def folder_of(path: Path, files: dict[str, str]) -> Iterator[int]:
    for name, text in files.items():
        (path / name).write_text(text)
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("kills", [0, 1])
def test_a_kill_by_the_out_of_memory_killer(kills: int, tmp_path: Path) -> None:
    """The cgroup that the child had to start in counts them."""
    with folder_of(tmp_path, {"memory.events": f"max 5\noom {kills}\noom_kill {kills}\n"}) as cgroup:
        error = failed(_core.Failure("on_created", ESRCH, -signal.SIGKILL), None, cgroup)
        assert error.cause == ("cgroup-memory-max" if kills else "child-killed")
        assert (str(tmp_path) in error.__notes__[0]) == bool(kills)
        assert failed(_core.Failure("on_created", ESRCH, -signal.SIGTERM), None, cgroup).cause == "child-killed"


def test_a_cgroup_given_by_path_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(unified())
    core_fails(monkeypatch, "spawn", "cgroup", EBUSY, None)
    error = error_of(lambda: UsernsProcess(["true"], uid_map="root", cgroup=path))
    assert str(error) == f"cgroup: Device or resource busy: {path!r} [EBUSY, cgroup-not-leaf]"


# ---- a child that is not reaped yet ----


def test_a_child_that_waits_to_be_reaped_is_looked_at() -> None:
    """As when a tool has to write its maps. It is left to be reaped."""
    _, pidfd = fork_userns()
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        error = child_error("open_proc", ESRCH, pidfd)
        assert (error.step, error.cause) == ("open_proc", "child-killed")
        assert error.__notes__[0].startswith("The child was killed by SIGKILL")
    finally:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)


def test_of_one_that_is_reaped_no_more_is_known() -> None:
    process = UsernsProcess(["true"], uid_map="root")
    pidfd = os.dup(process.pidfd)
    try:
        process.wait()
        process.close()
        assert "killed before it ran the program" in child_error("open_proc", ESRCH, pidfd).__notes__[0]
    finally:
        os.close(pidfd)
