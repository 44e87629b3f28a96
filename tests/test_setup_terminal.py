"""A controlling terminal with job control, the foreground, and descriptors at fixed numbers."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import pty
import re
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alone import run_alone
from programs import setup_terminal
from setup_steps import NEW, OWN, WITH_INIT, inside, python, targets_of

from usernsproc import PIPE, UsernsError, UsernsProcess, run
from usernsproc._setup.calls import IS_SAME
from usernsproc._setup.compiler import Emitter
from usernsproc._setup.step import Phase
from usernsproc._uapi import AT_FDCWD
from usernsproc.setup import ControllingTerminal, Descriptors, Foreground, Hostname, Loopback, Step

USERNS = {"new": NEW, "own": OWN, "init": WITH_INIT}


@pytest.fixture(params=USERNS)
def userns(request: pytest.FixtureRequest) -> dict[str, Any]:
    return USERNS[request.param]


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    near, far = pty.openpty()
    yield near, far
    os.close(near)
    os.close(far)


def talk(near: int, *lines: tuple[bytes, bytes]) -> bytes:
    """Type each text, and read until the answer is there."""
    shown = b""
    for text, answer in lines:
        os.write(near, text)
        start = len(shown)
        while not re.search(answer, shown[start:]):
            shown += os.read(near, 4096)
    return shown


# ---- a controlling terminal ----


def test_a_shell_with_job_control(terminal: tuple[int, int], userns: dict[str, Any]) -> None:
    """Jobs are stopped and interrupted by keys, and continued in front."""
    near, far = terminal
    shell = [shutil.which("bash"), "--norc", "--noediting", "-i"]
    process = UsernsProcess(
        shell,
        stdin=far,
        stdout=far,
        stderr=far,
        start_new_session=True,
        setup=[ControllingTerminal(far)],
        env={**os.environ, "PS1": "ready> "},
        **userns,
    )
    with process:
        shown = talk(
            near,
            (b"", rb"ready> "),
            (b"echo options: $-\n", rb"options: \w*m\w*\r\n"),
            (b"echo star''ted; cat\n", rb"started\r\n"),
            (b"line\n", rb"line\r\nline\r\n"),
            (b"\x1a", rb"Stopped.*cat[^$]*ready> "),
            (b"fg\n", rb"cat\r\n"),
            (b"again\n", rb"again\r\nagain\r\n"),
            (b"\x03", rb"\^C[^$]*ready> "),
            (b"echo status: $?\n", rb"status: 130\r\n"),
            (b"exit 5\n", rb"exit\r\n"),
        )
        assert process.wait() == 5
    assert b"no job control" not in shown


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_dev_tty_is_the_terminal(shell: str, terminal: tuple[int, int]) -> None:
    """Also if none of the standard descriptors is it."""
    near, far = terminal
    script = "echo from $0 >/dev/tty; read line </dev/tty; echo got $line >/dev/tty"
    with UsernsProcess(
        [shell, "-c", script], stdin=PIPE, stdout=PIPE, start_new_session=True, setup=[ControllingTerminal(far)], **NEW
    ):
        talk(near, (b"", rb"from \w+\r\n"), (b"a line\n", rb"got a line\r\n"))


def test_the_command_is_in_the_foreground_of_its_terminal(terminal: tuple[int, int], userns: dict[str, Any]) -> None:
    code = "[os.tcgetpgrp(0) == os.getpgrp() == os.getsid(0) == os.getpid(), os.isatty(0), os.ttyname(0)[:9]]"
    for steps in ([ControllingTerminal(terminal[1])], [Foreground(terminal[1]), ControllingTerminal(terminal[1])]):
        found = inside(code, *steps, userns=userns, stdin=terminal[1], start_new_session=True)
        assert found == [True, True, "/dev/pts/"]


def test_a_terminal_of_another_session_is_not_taken_away() -> None:
    run_alone(setup_terminal.terminal_of_another_session)


def test_what_is_not_a_terminal() -> None:
    with Path("/dev/null").open() as file, pytest.raises(UsernsError) as caught:
        run(["/bin/true"], start_new_session=True, setup=[ControllingTerminal(file)], **NEW)
    assert (caught.value.call, caught.value.errno, caught.value.cause) == ("ioctl", errno.ENOTTY, "not-a-terminal")


# ---- the foreground ----


@pytest.mark.parametrize("end", setup_terminal.ENDS, ids=lambda end: end.__name__)
def test_the_foreground_and_back(end: Callable[..., object]) -> None:
    run_alone(setup_terminal.put_back_new, end.__name__)


def test_the_foreground_in_the_callers_own_user_namespace() -> None:
    run_alone(setup_terminal.put_back_own, "end_by_wait")


def test_the_foreground_below_an_init() -> None:
    run_alone(setup_terminal.with_init)


def test_the_foreground_and_back_with_asyncio() -> None:
    run_alone(setup_terminal.with_asyncio)


def test_back_after_a_start_that_fails() -> None:
    run_alone(setup_terminal.put_back_after_failures)


def test_a_forked_copy_of_the_program_leaves_the_terminal_alone() -> None:
    run_alone(setup_terminal.not_put_back_by_a_copy)


def test_back_once() -> None:
    run_alone(setup_terminal.once)


def test_a_terminal_that_is_not_that_of_the_session(terminal: tuple[int, int]) -> None:
    with pytest.raises(UsernsError) as caught:
        run(["/bin/true"], process_group=0, setup=[Foreground(terminal[1])], **NEW)
    assert (caught.value.step, caught.value.errno) == ("Foreground", errno.ENOTTY)
    assert caught.value.cause == "not-the-terminal"


# ---- descriptors at fixed numbers ----


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    """Ten descriptors, each of a file of its own that has its index as its content."""
    opened = []
    for index in range(10):
        (tmp_path / str(index)).write_text(str(index))
        opened.append(os.open(tmp_path / str(index), os.O_RDONLY))
    yield opened
    for fd in opened:
        os.close(fd)


def descriptors_inside(*steps: Step, userns: dict[str, Any] = NEW, **options: Any) -> dict[int, str]:
    """Those from 3 on. (`ls` would need one of its own.)"""
    code = "{fd: os.readlink(f'/proc/self/fd/{fd}') for fd in range(3, 1024) if os.path.islink(f'/proc/self/fd/{fd}')}"
    found: dict[str, str] = inside(code, *steps, userns=userns, **options)
    return {int(fd): target for fd, target in found.items()}


def check_descriptors(wanted: dict[int, int], userns: dict[str, Any] = NEW, **options: Any) -> None:
    paths = dict(zip(wanted, targets_of(list(wanted.values())), strict=True))
    assert descriptors_inside(Descriptors(wanted), userns=userns, **options) == paths


def test_free_numbers(files: list[int], userns: dict[str, Any]) -> None:
    check_descriptors({300: files[0], 301: files[1], 700: files[2]}, userns)


def test_each_low_number(files: list[int], userns: dict[str, Any]) -> None:
    """Where the socket of the launcher, its pidfd and the like would be."""
    check_descriptors(dict(zip(range(3, 13), files, strict=True)), userns)
    check_descriptors(dict.fromkeys(range(3, 60), files[0]), userns)
    for number in range(3, 40):
        check_descriptors({number: files[number % 10]}, userns)


def test_two_change_places(files: list[int], userns: dict[str, Any]) -> None:
    a, b, c, d = files[:4]
    check_descriptors({a: b, b: a}, userns)
    check_descriptors({a: b, b: c, c: d, d: a}, userns)
    check_descriptors({a: b, b: c, c: d}, userns)
    check_descriptors({b: a, c: b, d: c}, userns)


def test_the_same_number(files: list[int], userns: dict[str, Any]) -> None:
    """It is inherited, as with pass_fds."""
    assert not os.get_inheritable(files[0])
    check_descriptors({files[0]: files[0]}, userns)
    check_descriptors({files[0]: files[0], files[1]: files[0]}, userns)


def test_together_with_descriptors_that_are_passed_on(files: list[int], userns: dict[str, Any]) -> None:
    paths = targets_of(files)
    wanted = {files[1]: files[0], 40: files[2]}
    found = descriptors_inside(Descriptors(wanted), userns=userns, pass_fds=[files[2], files[3]])
    assert found == {files[1]: paths[0], 40: paths[2], files[2]: paths[2], files[3]: paths[3]}


def test_together_with_standard_streams(files: list[int]) -> None:
    """A descriptor 0 to 2 of the caller is one like others, and so are pipes to the command."""
    paths = targets_of([0, 1, *files])
    found = descriptors_inside(Descriptors({3: 0, 4: 1, 5: files[0]}), stdin=PIPE, stderr=PIPE)
    assert found == {3: paths[0], 4: paths[1], 5: paths[2]}


@pytest.mark.parametrize("fd", range(3, 20))
def test_together_with_steps_that_open_descriptors(fd: int, files: list[int]) -> None:
    setup = [Loopback(), Hostname("box"), Descriptors({fd: files[0]})]
    options: dict[str, Any] = {"namespaces": ["net", "uts", "pid"], "init": True}
    assert descriptors_inside(*setup, **options) == {fd: targets_of(files)[0]}


class Late(Step):
    """Opens a file early, and uses the descriptor when those of the command are in place."""

    __slots__ = ()
    phase = Phase.RULES

    def emit(self, calls: Emitter) -> None:
        opened = calls.add("openat", AT_FDCWD, b"/dev/null", os.O_RDONLY)
        with open("/dev/null") as file:
            calls.add(IS_SAME, opened, calls.keep(file.fileno()), phase=Phase.LANDLOCK)


@pytest.mark.parametrize("fd", range(3, 20))
def test_no_descriptor_of_a_later_call_is_replaced(fd: int, files: list[int]) -> None:
    for setup in ([Late(), Descriptors({fd: files[0]})], [Descriptors({fd: files[0], fd + 1: files[1]}), Late()]):
        command = ["/bin/readlink", f"/proc/self/fd/{fd}"]
        done = run(command, setup=setup, stdout=PIPE, text=True, **NEW)
        assert done.stdout == targets_of(files)[0] + "\n"


def test_all_others_are_inherited_if_asked_for(files: list[int], userns: dict[str, Any]) -> None:
    os.set_inheritable(files[4], True)
    os.set_inheritable(files[5], True)
    paths = targets_of(files)
    wanted = {files[5]: files[6], files[7]: files[8], 500: files[0]}
    found = descriptors_inside(Descriptors(wanted), userns=userns, close_fds=False)
    own = {fd: path for fd, path in found.items() if path in paths}
    assert own == {files[4]: paths[4], files[5]: paths[6], files[7]: paths[8], 500: paths[0]}


def test_the_highest_number_that_the_limit_allows(files: list[int]) -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    command = python(f"import os; print(os.readlink('/proc/self/fd/{soft - 9}'))")
    done = run(command, setup=[Descriptors({soft - 9: files[0]})], stdout=PIPE, text=True, **NEW)
    assert done.stdout == targets_of(files)[0] + "\n"
    for number in (soft - 1, soft, soft + 1):
        with pytest.raises(ValueError, match=r"setup\[0\]: Descriptors.*RLIMIT_NOFILE"):
            run(["/bin/true"], setup=[Descriptors({number: files[0]})], **NEW)


def test_the_position_in_the_file_is_shared(files: list[int]) -> None:
    assert inside("os.read(9, 1).decode()", Descriptors({9: files[7]})) == "7"
    assert os.read(files[7], 1) == b""


def test_other_threads_open_and_close_meanwhile(files: list[int]) -> None:
    """So that the number is in use at one moment and free at the next."""
    is_over = threading.Event()

    def churn() -> None:
        while not is_over.is_set():
            some = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
            for fd in some:
                os.close(fd)

    lowest = fcntl.fcntl(files[0], fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(lowest)
    paths = targets_of(files)
    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for userns in (NEW, WITH_INIT):
            for number in (*range(lowest, lowest + 6),) * 8:
                command = ["/bin/readlink", f"/proc/self/fd/{number}"]
                done = run(command, setup=[Descriptors({number: files[0]})], stdout=PIPE, text=True, **userns)
                assert (done.returncode, done.stdout) == (0, paths[0] + "\n")
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


# ---- values ----

VALUES: list[Step] = [ControllingTerminal(0), Foreground(0), Descriptors({3: 0, 5: 3}), Descriptors({5: 0})]


@pytest.mark.parametrize("step", VALUES, ids=repr)
def test_a_step_is_a_value(step: Step) -> None:
    for copy in (eval(repr(step)), pickle.loads(pickle.dumps(step))):
        assert (copy, hash(copy)) == (step, hash(step))
    assert [other for other in VALUES if other == step] == [step]


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Descriptors({}), ValueError, "there is no descriptor"),
    (lambda: Descriptors({2: 5}), ValueError, "descriptor 2 of the command is stdin=, stdout= or stderr="),
    (lambda: Descriptors({-1: 5}), ValueError, "a target is a number from 0"),
    (lambda: Descriptors({"3": 5}), TypeError, "a target is a number"),  # type: ignore[arg-type]
    (lambda: Descriptors({3: -1}), ValueError, "a source is a number from 0"),
    (lambda: Descriptors({3: "file"}), TypeError, "a source is a number"),
    (lambda: ControllingTerminal("/dev/tty"), TypeError, "fd is a number"),
    (lambda: Foreground(None), TypeError, "fd is a number"),
]


@pytest.mark.parametrize(("make", "kind", "text"), REFUSED)
def test_a_wrong_value_is_refused(make: Callable[[], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        make()


LISTS: list[tuple[list[Step], dict[str, Any], str]] = [
    ([ControllingTerminal(0)], {}, r"setup\[0\]: ControllingTerminal\(0\): .*start_new_session=True"),
    ([ControllingTerminal(0)] * 2, {"start_new_session": True}, "there is another ControllingTerminal"),
    ([Foreground(0)], {}, "needs a process group of its own: process_group=0"),
    ([Foreground(0)], {"start_new_session": True}, "a new session has no terminal"),
    ([Descriptors({0x7FFF: 0}), Descriptors({3: 0})], {}, "there is another Descriptors"),
    ([Descriptors({77: 0})], {"pass_fds": [77]}, "77 is also in pass_fds"),
    ([Descriptors({3: 1 << 20})], {}, "descriptor 1048576 is closed"),
]


@pytest.mark.parametrize(("setup", "options", "text"), LISTS)
def test_a_wrong_list_is_refused(setup: list[Step], options: dict[str, Any], text: str) -> None:
    copy = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 77)
    try:
        with pytest.raises(ValueError, match=text):
            run(["/bin/true"], setup=setup, **NEW, **options)
    finally:
        os.close(copy)


@pytest.mark.parametrize("step", [ControllingTerminal(0), Foreground(0), Descriptors({3: 0})], ids=repr)
def test_a_holder_has_none_of_them(step: Step) -> None:
    with pytest.raises(ValueError, match=r"setup\[0\]: .*a holder \(no args\) runs no program"):
        UsernsProcess(uid_map="current", setup=[step])
