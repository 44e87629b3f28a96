"""The arguments of the core's `spawn`, and its result: a child that ends with the object."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from alone import run_alone
from interruptions import interruptions
from leaks import children, state
from programs.spawn import drop_in_a_forked_copy

from usernsproc import UsernsError, UsernsProcess, _core, lowlevel
from usernsproc._setup.calls import (
    FORK,
    OWN_MEMORY,
    SETUP_OF_HOLDER,
    STORE_ADDRESS,
    Place,
    Result,
    Setup,
    SystemCall,
)
from usernsproc._spawn import Files, Namespaces, Program, Signals, start

VALUES: dict[str, tuple[Any, ...]] = {
    "namespaces": Namespaces(),
    "maps": (None, None, None),
    "program": Program(("true",), ("/bin/true",)),
    "files": Files(),
    "setup": Setup(),
    "signals": Signals(),
    "patience": (0, -1),
    "cgroup": (-1, None),
}
NAMES = {
    "setup": ("calls", "data", "ends", "needs", "ambient_caps", "fds", "labels"),
    "maps": ("setgroups", "uid_map", "gid_map"),
    "patience": ("deadline", "cancelled"),
    "cgroup": ("fd", "filename"),
}


def names_of(group: str) -> tuple[str, ...]:
    code = type(VALUES[group]).__new__.__code__
    return code.co_varnames[1 : code.co_argcount]


NOT_CHECKED = ("argv", "candidates", "envp", "filename", "labels")
"""Of these, the message is that of `os.fsencode`, or any type will do."""
FIELDS = [
    (group, place, name)
    for group in VALUES
    for place, name in enumerate(NAMES.get(group) or names_of(group))
    if name not in NOT_CHECKED
]


def spawn(**changed: Any) -> _core.Child:
    return _core.spawn(*{**VALUES, **changed}.values(), None)  # type: ignore[call-arg]


@pytest.mark.parametrize(("group", "place", "name"), FIELDS)
def test_a_wrong_type_names_the_field(group: str, place: int, name: str) -> None:
    value = list(VALUES[group])
    value[place] = object()
    with pytest.raises(TypeError) as caught:
        spawn(**{group: tuple(value)})
    assert str(caught.value).startswith(f"{group}.{name}: ")


@pytest.mark.parametrize("group", VALUES)
@pytest.mark.parametrize("wrong", [lambda value: value[:-1], lambda value: (*value, 0), list, lambda _: 5])
def test_a_wrong_layout_names_the_value(group: str, wrong: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=f"^{group}: a tuple of {len(VALUES[group])} fields is needed"):
        spawn(**{group: wrong(VALUES[group])})


@pytest.mark.parametrize("kind", [type(value) for value in VALUES.values() if type(value) is not tuple])
def test_a_misspelt_field_is_an_error(kind: type) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        kind(is_holdre=True)
    (value,) = (value for value in VALUES.values() if type(value) is kind)
    with pytest.raises(AttributeError):
        value.umsak = 5  # type: ignore[attr-defined]


CHDIR = SystemCall("chdir", "chdir", b"/")
PROGRAM = Program(("true",), ("/bin/true",))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, b"\xff" * 88),  # its arguments point beyond the data
        (1, b""),
        (2, (0, 1, 2, 2)),  # more calls than there are
        (2, (0, 1, 0, 1)),
        (2, (0, -1, 1, 1)),
        (2, (0, 0, 0, 0)),
    ],
)
def test_an_unsound_setup_is_refused(field: int, value: Any) -> None:
    fields = list(Setup((CHDIR,)))
    fields[field] = value
    with pytest.raises(TypeError, match="^setup: a call, or a section, goes beyond what is there$"):
        spawn(setup=tuple(fields))


@pytest.mark.parametrize("needs", [0, OWN_MEMORY])
def test_a_failing_call_is_reported_with_its_step_and_file(needs: int) -> None:
    """In the child in the caller's memory, and in the launcher. The calls before it succeeded."""
    calls = tuple(
        SystemCall("chdir", "chdir", path, needs=needs, filename=path) for path in (b"/", b"proc", b"none", b"/")
    )
    for shared_count in (0, 2, 4):
        with pytest.raises(UsernsError) as caught:
            start(PROGRAM, setup=Setup(calls[:shared_count], calls[shared_count:]))
        error = caught.value
        assert (error.step, error.errno, error.filename) == ("chdir", errno.ENOENT, b"none")


@pytest.mark.parametrize("needs", [0, OWN_MEMORY])
@pytest.mark.parametrize("place", range(5))
def test_tolerated_errnos_are_not_errors(needs: int, place: int) -> None:
    tolerated = (0,) * place + (errno.ENOENT,)
    call = SystemCall("chdir", "chdir", b"/none", needs=needs, tolerated=tolerated)
    with start(PROGRAM, setup=Setup((call,))) as child:
        assert child.pidfd >= 0


# ---- what the interpreter does ----


def outcome(*calls: SystemCall) -> str:
    """`"done"`, or what failed."""
    try:
        with start(PROGRAM, setup=Setup(own=calls)):
            return "done"
    except UsernsError as error:
        return f"{error.step} {errno.errorcode[error.errno or 0]}"


def call(name: str, *arguments: Any, **others: Any) -> SystemCall:
    return SystemCall(name, name, *arguments, **{"needs": OWN_MEMORY, **others})


def test_a_result_is_an_argument_of_a_later_call() -> None:
    fd = Result()
    opened = call("openat", -100, b"/", os.O_RDONLY, result=fd)
    assert outcome(opened, call("fchdir", fd), call("close", fd)) == "done"
    assert outcome(opened, call("close", fd), call("fchdir", fd)) == "fchdir EBADF"


def test_without_a_result_a_call_is_left_out() -> None:
    fd = Result()
    missing = call("openat", -100, b"/none", os.O_RDONLY, result=fd, tolerated=(errno.ENOENT,))
    assert outcome(missing, call("fchdir", fd)) == "done"


@pytest.mark.parametrize(("expected", "answer"), [(5, "done"), (4, "write EIO"), (-1, "done")])
def test_another_result_than_expected_is_an_error(expected: int, answer: str) -> None:
    fd = Result()
    null = call("openat", -100, b"/dev/null", os.O_WRONLY, result=fd)
    assert outcome(null, call("write", fd, b"hello", 5, expected=expected)) == answer


def test_an_address_of_a_result_and_one_within_a_structure() -> None:
    """`writev` of the address of bytes, which are the result of `dup`."""
    ends, fd, vector = Result(), Result(), bytearray(16)
    vector[8] = 4
    calls = (
        call("openat", -100, b"/dev/null", os.O_WRONLY, result=fd),
        call("dup", fd, result=ends),
        call(STORE_ADDRESS, Place(vector), Place(ends)),
        call("writev", fd, Place(vector), 1, expected=4),
    )
    assert outcome(*calls) == "done"


def test_a_forked_helper_makes_its_calls_alone() -> None:
    pid, status = Result(), bytearray(4)
    fork = call(FORK, 2, result=pid)
    wait = call("wait4", pid, Place(status), 0x40000000, 0)
    there = call("chdir", b"/"), call("chdir", b"proc")
    assert outcome(fork, *there, wait, call("chdir", b"/proc")) == "done"
    assert outcome(fork, call("chdir", b"/"), call("chdir", b"none"), wait) == "chdir ENOENT"
    assert (
        outcome(
            call("chdir", b"/"),
            fork,
            call("chdir", b"/dev"),
            call("close", -1, tolerated=(errno.EBADF,)),
            wait,
            call("chdir", b"proc"),
        )
        == "done"
    )


def holder() -> _core.Child:
    return start(None, setup=SETUP_OF_HOLDER, signals=Signals(None, signal.SIGKILL))


def runs(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def test_a_child_ends_with_the_object() -> None:
    child = holder()
    pid = child.pid
    assert runs(pid)
    del child
    assert not runs(pid)


def test_a_child_ends_with_the_block_and_not_again() -> None:
    with holder() as child:
        assert runs(child.pid)
    assert (runs(child.pid), child.pidfd) == (False, -1)
    child.__exit__(None, None, None)


def test_a_child_that_was_taken_lives_on() -> None:
    with holder() as child:
        pid, pidfd = child.pid, os.dup(child.pidfd)
        child.taken = True
    assert child.pidfd >= 0
    del child
    assert runs(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)


def test_in_a_forked_copy_the_child_is_left_alone() -> None:
    run_alone(drop_in_a_forked_copy)


SLEEP = ["sleep", "1000"]
STARTS: dict[str, Callable[[], UsernsProcess[bytes]]] = {
    "command": lambda: UsernsProcess(SLEEP, uid_map="root"),
    "holder": lambda: UsernsProcess(uid_map="root"),
    "on_created": lambda: UsernsProcess(uid_map="root", on_created=lambda _: None),
}


@pytest.mark.parametrize("name", STARTS)
def test_an_interrupted_start_leaves_no_child(name: str, recwarn: pytest.WarningsRecorder) -> None:  # noqa: ARG001
    """At each point where a signal handler can raise an exception."""
    before, points = children(), 0
    for where, _error in interruptions(STARTS[name], lambda process: process.close()):
        assert children() == before, where
        points += 1
    assert points > 40, points


def test_an_interrupted_fork_userns_leaves_nothing() -> None:
    def undo(made: tuple[int, int]) -> None:
        signal.pidfd_send_signal(made[1], signal.SIGKILL)
        os.waitid(os.P_PIDFD, made[1], os.WEXITED)
        os.close(made[1])

    before = state()
    for where, _error in interruptions(lowlevel.fork_userns, undo):
        assert state() == before, where
