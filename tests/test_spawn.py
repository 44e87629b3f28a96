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
from usernsproc._spawn import (
    OWN_MEMORY,
    SETUP_OF_HOLDER,
    Call,
    Files,
    Namespaces,
    Program,
    Setup,
    start,
)

VALUES: dict[str, tuple[Any, ...]] = {
    "namespaces": Namespaces(),
    "maps": (None, None, None),
    "program": Program(("true",), ("/bin/true",)),
    "files": Files(),
    "setup": Setup(),
    "signals": (None, 0),
    "patience": (0, -1),
    "cgroup": (-1, None),
}
NAMES = {
    "maps": ("setgroups", "uid_map", "gid_map"),
    "signals": ("mask", "death"),
    "patience": ("deadline", "cancelled"),
    "cgroup": ("fd", "filename"),
}


def names_of(group: str) -> tuple[str, ...]:
    code = type(VALUES[group]).__new__.__code__
    return code.co_varnames[1 : code.co_argcount]


NOT_CHECKED = ("argv", "candidates", "envp", "filename")
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


CHDIR = Call("chdir", "chdir", b"/")


@pytest.mark.parametrize(
    "call",
    [
        5,
        (),
        CHDIR[:-1],
        (*CHDIR, 0),
        ("chdir", *CHDIR[1:]),
        (*CHDIR[:2], (0,), *CHDIR[3:]),
        (*CHDIR[:3], [b"/"], *CHDIR[4:]),
        (*CHDIR[:3], (b"/",) * 6, *CHDIR[4:]),
        (*CHDIR[:3], ("/",), *CHDIR[4:]),
    ],
)
def test_what_is_not_a_system_call_is_a_type_error(call: Any) -> None:
    with pytest.raises(TypeError, match="^setup.calls: "):
        spawn(setup=Setup((CHDIR, call), 2))


def test_there_are_not_more_shared_calls_than_calls() -> None:
    with pytest.raises(TypeError, match="^setup.shared_count: "):
        spawn(setup=Setup((CHDIR,), 2))


@pytest.mark.parametrize("needs", [0, OWN_MEMORY])
def test_a_failing_call_is_reported_with_its_step_and_file(needs: int) -> None:
    """In the child in the caller's memory, and in the launcher. The calls before it succeeded."""
    calls = tuple(Call("chdir", "chdir", path, needs=needs, filename=path) for path in (b"/", b"proc", b"none", b"/"))
    for shared_count in (0, 2, 4):
        with pytest.raises(UsernsError) as caught:
            start(Program(("true",), ("/bin/true",)), setup=Setup(calls, shared_count))
        error = caught.value
        assert (error.step, error.errno, error.filename) == ("chdir", errno.ENOENT, b"none")


@pytest.mark.parametrize("needs", [0, OWN_MEMORY])
def test_tolerated_errnos_are_not_errors(needs: int) -> None:
    program = Program(("true",), ("/bin/true",))
    for tolerated in ((errno.ENOENT, 0), (0, errno.ENOENT)):
        call = Call("chdir", "chdir", b"/none", needs=needs, tolerated=tolerated)
        with start(program, setup=Setup((call,), 1)) as child:
            assert child.pidfd >= 0


def holder() -> _core.Child:
    return start(None, setup=SETUP_OF_HOLDER, signals=(None, signal.SIGKILL))


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
