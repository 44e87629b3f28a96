"""Every wait for a child ends, by its exit, a signal handler, a deadline or a cancellation; and a
stopped child is continued.

Other processes control what a child may wait for: a file system that never answers, a frozen
cgroup, a debugger, a program of the system that hangs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cgroups
import native
import pytest
from alone import command, environment, run_alone
from programs import waiting
from unprivileged import COUNT, FIRST, UID, as_unprivileged_user

from usernsproc import TimeoutExpired, UsernsProcess, aio, call, check_call, check_output, run

TRUE = ["/bin/true"]
SHIFTED: dict[str, Any] = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
SOON = 0.3
"""Seconds until a handler or a deadline."""


class HandlerError(BaseException):
    pass


@contextmanager
def alarm() -> Iterator[None]:
    """A signal handler raises soon."""

    def handle(*_: object) -> None:
        raise HandlerError

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, SOON)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- a file system that never answers ----


class SilentFuse:
    """The server is root in a container. It mounts the file system there, and answers only INIT."""

    def __init__(self, container: UsernsProcess[bytes], folder: Path) -> None:
        self.server = UsernsProcess(
            command(waiting.serve_silently, str(folder)),
            join=container,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        assert self.server.stdout is not None
        reported = self.server.stdout.readline()
        if reported != b"mounted\n":  # the container does not end before it is reaped
            self.server.close()
        assert reported == b"mounted\n"


@pytest.fixture
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[UsernsProcess[bytes], Path]]:
    """A container, and a directory in it in which no call returns. (On many systems, root owns the device.)"""
    folder = tmp_path_factory.mktemp("silent")
    with UsernsProcess(uid_map="root", namespaces=["mnt", "pid"]) as container:
        fuse = SilentFuse(container, folder)
        try:
            yield container, folder
        finally:
            fuse.server.close()


def calls(folder: Path) -> dict[str, tuple[list[str], dict[str, Any]]]:
    return {
        "program": ([f"{folder}/sh"], {"env": {}}),
        "directory": (TRUE, {"cwd": folder / "x", "env": {}}),
        "program in PATH": (["sh"], {"env": {"PATH": str(folder)}}),
    }


@pytest.mark.root
@pytest.mark.parametrize("name", calls(Path()))
def test_a_handler_interrupts_a_call_into_a_file_system_that_never_answers(
    silent: tuple[UsernsProcess[bytes], Path], name: str
) -> None:
    container, folder = silent
    args, options = calls(folder)[name]
    with alarm(), pytest.raises(HandlerError):
        UsernsProcess(args, join=container, **options)


@pytest.mark.root
def test_signals_that_keep_coming_do_not_prolong_the_end(silent: tuple[UsernsProcess[bytes], Path]) -> None:
    """The child cannot be killed, because its call does not return. After one second a thread waits for it."""
    container, folder = silent
    args, options = calls(folder)["program"]
    has_returned = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def send_signals() -> None:
        for _ in range(160):
            if has_returned.wait(SOON / 6):
                return
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    sender = threading.Thread(target=send_signals)
    try:
        with pytest.raises(TimeoutExpired):
            sender.start()
            run(args, join=container, timeout=SOON, **options)
        assert sender.is_alive(), "it has returned when no signal came any more"
    finally:
        has_returned.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.root
@pytest.mark.parametrize("function", [run, call, check_call, check_output])
@pytest.mark.parametrize("name", calls(Path()))
def test_a_timeout_is_that_of_the_creation_too(
    silent: tuple[UsernsProcess[bytes], Path], name: str, function: Callable[..., object]
) -> None:
    container, folder = silent
    args, options = calls(folder)[name]
    with pytest.raises(TimeoutExpired) as caught:
        function(args, join=container, timeout=SOON, **options)
    assert (caught.value.cmd, caught.value.timeout) == (args, SOON)
    assert "was not started" in caught.value.__notes__[0]


@pytest.mark.root
@pytest.mark.parametrize("name", calls(Path()))
def test_an_event_loop_runs_on_and_a_cancellation_ends_it(silent: tuple[UsernsProcess[bytes], Path], name: str) -> None:
    container, folder = silent
    args, options = calls(folder)[name]
    assert asyncio.run(ticks_until_cancelled(*args, join=container, **options)) > 5


async def ticks_until_cancelled(*args: Any, **options: Any) -> int:
    """Return how often the loop ran while a creation waited."""
    creation = asyncio.create_task(aio.create_subprocess_exec(*args, **options))
    ticks, end = 0, time.monotonic() + SOON
    while time.monotonic() < end:
        await asyncio.sleep(SOON / 30)
        ticks += 1
    assert not creation.done()
    creation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creation
    return ticks


# ---- a frozen cgroup ----


@pytest.fixture
def frozen() -> Iterator[Path]:
    with cgroups.frozen() as path:
        yield path
        assert (path / "cgroup.procs").read_text() == ""


KINDS: list[Any] = [
    pytest.param(TRUE, {"uid_map": "root"}, id="command"),
    pytest.param(TRUE, SHIFTED, id="other ids"),
    pytest.param(TRUE, {"uid_map": "root", "namespaces": ["pid"], "init": True}, id="init"),
    pytest.param(None, {"uid_map": "root"}, id="holder"),
    pytest.param(None, {"uid_map": "root", "namespaces": ["pid"], "owner": 1000}, id="holder of another owner"),
]


@pytest.mark.root
@pytest.mark.parametrize(("args", "options"), KINDS)
def test_a_handler_interrupts_a_creation_in_a_frozen_cgroup(args: Any, options: dict[str, Any], frozen: Path) -> None:
    with alarm(), pytest.raises(HandlerError):
        UsernsProcess(args, cgroup=frozen, **options)


@pytest.mark.root
def test_a_timeout_ends_a_creation_in_a_frozen_cgroup(frozen: Path) -> None:
    with pytest.raises(TimeoutExpired) as caught:
        run(TRUE, uid_map="root", cgroup=frozen, timeout=SOON)
    assert "step cgroup" in caught.value.__notes__[0]
    assert "frozen" in caught.value.__notes__[1]


@pytest.mark.root
def test_a_creation_in_a_frozen_cgroup_does_not_block_the_event_loop(frozen: Path) -> None:
    assert asyncio.run(ticks_until_cancelled(*TRUE, uid_map="root", cgroup=frozen)) > 5


@pytest.mark.root
@pytest.mark.parametrize(("args", "options"), KINDS)
def test_a_child_frozen_while_on_created_runs_is_waited_for(args: Any, options: dict[str, Any]) -> None:
    with cgroups.cgroup() as path:

        def freeze(process: UsernsProcess[bytes]) -> None:
            (path / "cgroup.procs").write_text(str(process.pid))
            (path / "cgroup.freeze").write_text("1")

        if args is None:  # it is there already
            with UsernsProcess(on_created=freeze, **options):
                pass
            return
        with alarm(), pytest.raises(HandlerError):
            UsernsProcess(args, on_created=freeze, **options)


# ---- stopped, or traced by a debugger ----


def ways() -> list[Any]:
    return [
        pytest.param({"uid_map": "root"}, id="command"),
        pytest.param({"uid_map": "root", "namespaces": ["pid"], "init": True}, id="init"),
        pytest.param({}, id="without maps"),
        pytest.param(SHIFTED, id="other ids", marks=pytest.mark.root),
    ]


@pytest.mark.parametrize("options", ways())
def test_a_child_that_was_stopped_before_it_runs_the_command_is_continued(options: dict[str, Any]) -> None:
    def stop(process: UsernsProcess[bytes]) -> None:
        process.send_signal(signal.SIGSTOP)

    with UsernsProcess(["sh", "-c", "exit 7"], on_created=stop, **options) as process:
        pass
    assert process.returncode == 7
    assert run(["sh", "-c", "exit 7"], on_created=stop, timeout=60, **options).returncode == 7, (
        "long before the timeout"
    )


@pytest.mark.root
@pytest.mark.parametrize("options", [{"uid_map": "root"}, {"uid_map": "root", "namespaces": ["pid"], "init": True}])
def test_a_child_that_sigcont_does_not_continue_is_given_up(options: dict[str, Any]) -> None:
    """Here it is traced by the calling thread, which waits."""

    def trace(process: UsernsProcess[bytes]) -> None:
        for request in (waiting.PTRACE_SEIZE, waiting.PTRACE_INTERRUPT):
            native.must(native.libc.ptrace(request, process.pid, None, None))

    with pytest.raises(ProcessLookupError) as caught:
        run(TRUE, on_created=trace, timeout=60, **options)
    assert getattr(caught.value, "step", None) == "on_created"


@pytest.mark.parametrize("options", ways())
def test_a_handler_interrupts_the_wait_for_a_child_in_the_hands_of_a_debugger(options: dict[str, Any]) -> None:
    tracers: list[subprocess.Popen[bytes]] = []

    def trace(process: UsernsProcess[bytes]) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        program = command(waiting.trace, process.pid)
        tracers.append(subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()))
        assert tracers[0].stdout is not None
        assert tracers[0].stdout.readline() == b"traced\n"
        signal.setitimer(signal.ITIMER_REAL, SOON)  # not before the debugger is attached

    try:
        with alarm(), pytest.raises(HandlerError):
            UsernsProcess(TRUE, on_created=trace, **options)
    finally:
        for tracer in tracers:
            tracer.communicate()


@pytest.mark.parametrize("args", [TRUE, None])
def test_handlers_run_while_a_child_in_shared_memory_is_held(args: Any) -> None:
    """Here by strace, which delays each system call of the child for a long time."""
    output = run_alone(waiting.interrupt_under_strace, args)
    assert output == "interrupted True\n"


# ---- a system program that hangs ----


def test_signals_do_not_prolong_a_wait_for_descriptors() -> None:
    """A timer that is faster than the deadline."""
    run_alone(waiting.poll_while_signals_come, timeout=20)


def test_a_timeout_ends_newuidmap() -> None:
    """It may wait for a directory service that does not answer."""
    subids = f"{UID}:{FIRST}:{COUNT}\n"
    given = subids if os.geteuid() == 0 else None
    assert as_unprivileged_user(waiting.end_a_stopped_newuidmap, subuid=given, subgid=given) == "2 True\n"
