"""asyncio: the same promises on its own loop and on uvloop; and other event loops."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
import warnings
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import native
import pytest
import trio
import trio.lowlevel
from alone import A_HANG, run_alone
from each_loop import in_each_loop, run_in
from leaks import assert_unchanged, children, descriptors, state
from loops import LOOPS, settle, until
from programs import aio as programs
from programs.aio import FOREVER

from usernsproc import IdMap, IdMapError, UsernsError, UsernsProcess, aio
from usernsproc.aio import create_subprocess_exec, create_subprocess_shell

STATUS_IS_KEPT = native.KERNEL >= (6, 15)
OWN_UID, OWN_GID = os.geteuid(), os.getegid()
ECHO = ("cat",)
STUBBORN = ("sh", "-c", "trap '' TERM; echo ready; exec sleep 1000")

settle()


async def output_of(process: aio.Process, data: bytes | None = None) -> bytes:
    return (await process.communicate(data))[0]


async def stopped(process: aio.Process) -> int:
    process.kill()
    return await process.wait()


# ---- what asyncio does ----


@in_each_loop
async def test_a_command_runs_in_a_new_user_namespace() -> None:
    process = await create_subprocess_exec("id", "-u", uid_map="root", stdout=PIPE)
    assert await output_of(process) == b"0\n"
    assert process.returncode == 0


@in_each_loop
async def test_it_is_a_process_of_asyncio() -> None:
    process = await create_subprocess_exec(*ECHO, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert isinstance(process, asyncio.subprocess.Process)
    assert isinstance(process.stdin, asyncio.StreamWriter)
    assert isinstance(process.stdout, asyncio.StreamReader)
    assert isinstance(process.stderr, asyncio.StreamReader)
    assert process.pid in map(int, children())
    assert await process.communicate(b"through") == (b"through", b"")


@in_each_loop
async def test_without_pipes_there_are_no_streams() -> None:
    process = await create_subprocess_exec("true", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
    nothing: Any = (None, None)
    assert await process.communicate() == nothing


@in_each_loop
async def test_a_shell() -> None:
    process = await create_subprocess_shell("id -u; echo error >&2; exit 3", uid_map="root", stdout=PIPE, stderr=STDOUT)
    assert await output_of(process) == b"0\nerror\n"
    assert process.returncode == 3


@in_each_loop
async def test_all_options_of_popen_arrive(tmp_path: Any) -> None:
    process = await create_subprocess_exec(
        "other-name",
        "-c",
        "pwd; echo $0 $A; umask",
        executable="/bin/sh",
        cwd=tmp_path,
        env={"A": "1"},
        umask=0o27,
        stdout=PIPE,
    )
    assert await output_of(process) == f"{tmp_path}\nother-name 1\n0027\n".encode()


@in_each_loop
async def test_much_goes_in_and_out() -> None:
    """More than pipes and buffers take: reader and writer are paused many times."""
    data = random.Random(1).randbytes(3 << 20)
    process = await create_subprocess_exec(*ECHO, stdin=PIPE, stdout=PIPE, limit=1000)
    assert await output_of(process, data) == data


@in_each_loop
async def test_communicate_without_input_closes_stdin() -> None:
    """As in Popen; asyncio does so from Python 3.12 on."""
    process = await create_subprocess_exec(*ECHO, stdin=PIPE, stdout=PIPE)
    assert await output_of(process) == b""
    assert process.returncode == 0


@in_each_loop
async def test_what_waits_to_be_written_is_written_before_stdin_is_closed() -> None:
    process = await create_subprocess_exec(*ECHO, stdin=PIPE, stdout=PIPE)
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"x" * 200_000)
    process.stdin.close()
    process.stdin.close()
    process.stdin.write(b"too late")
    assert await process.stdout.read() == b"x" * 200_000
    await process.stdin.wait_closed()
    assert await process.wait() == 0


@in_each_loop
async def test_a_pipe_at_its_end_is_closed_while_the_process_runs_on() -> None:
    process = await create_subprocess_shell("exec >&- <&-; exec sleep 1000", stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    assert process.stdin
    assert process.stdout
    numbers = {str(each.get_extra_info("pipe").fileno()) for each in (process.stdin, process.stdout._transport)}  # type: ignore[attr-defined]
    assert numbers <= set(descriptors())
    assert await process.stdout.read() == b""
    await process.stdin.wait_closed()
    assert not numbers & set(descriptors())
    assert process.returncode is None
    await stopped(process)


@in_each_loop
async def test_lines() -> None:
    process = await create_subprocess_exec(*ECHO, stdin=PIPE, stdout=PIPE)
    assert process.stdin
    assert process.stdout
    for line in (b"one\n", b"two\n"):
        process.stdin.write(line)
        await process.stdin.drain()
        assert await process.stdout.readline() == line
    process.stdin.writelines([b"three", b"\n", b"rest"])
    process.stdin.write_eof()
    assert await process.stdout.readuntil(b"\n") == b"three\n"
    assert await process.stdout.read() == b"rest"
    assert process.stdout.at_eof()
    assert await process.wait() == 0


@in_each_loop
async def test_a_line_above_the_limit_is_an_error() -> None:
    process = await create_subprocess_exec("echo", "x" * 1000, stdout=PIPE, limit=100)
    assert process.stdout
    with pytest.raises(ValueError, match="limit"):
        await process.stdout.readline()
    await process.communicate()


@in_each_loop
async def test_a_command_whose_output_is_not_read_has_to_wait() -> None:
    """Twice the limit, and what a pipe takes: no more is read from it."""
    process = await create_subprocess_exec("yes", stdout=PIPE, limit=1000)
    assert process.stdout
    transport: Any = process.stdout._transport  # type: ignore[attr-defined]
    await until(lambda: not transport.is_reading())
    assert await process.stdout.readexactly(1 << 20) == b"y\n" * (1 << 19)
    assert await stopped(process) == -signal.SIGKILL
    await process.stdout.read()


@in_each_loop
async def test_a_command_that_does_not_read_makes_writers_wait() -> None:
    process = await create_subprocess_exec(*FOREVER, stdin=PIPE)
    assert process.stdin
    process.stdin.write(b"x" * (1 << 20))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await process.stdin.drain()
    transport: Any = process.stdin.transport
    low, high = transport.get_write_buffer_limits()
    assert low < high < transport.get_write_buffer_size() < 1 << 20
    await stopped(process)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await process.stdin.drain()


@in_each_loop
async def test_input_for_a_command_that_closed_it() -> None:
    """`communicate` ignores it, `drain` and `wait_closed` raise it."""
    process = await create_subprocess_exec("true", stdin=PIPE)
    await process.communicate(b"x" * (1 << 20))
    process = await create_subprocess_exec("sh", "-c", "exec <&-; echo; exec sleep 1000", stdin=PIPE, stdout=PIPE)
    assert process.stdin
    assert process.stdout
    await process.stdout.readline()
    process.stdin.write(b"x")
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await process.stdin.drain()
    process.stdin.write(b"x")  # as in asyncio
    await stopped(process)


@in_each_loop
async def test_waiting_for_stdin_to_be_closed() -> None:
    process = await create_subprocess_exec(*ECHO, stdin=PIPE, stdout=PIPE)
    assert process.stdin
    assert process.stdout
    for _ in range(2):  # cancelling one does not cancel the next, and does not disturb the end
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await process.stdin.wait_closed()
    process.stdin.close()
    await process.stdin.wait_closed()
    await process.wait()


@in_each_loop
async def test_write_buffer_limits() -> None:
    process = await create_subprocess_exec(*FOREVER, stdin=PIPE)
    assert process.stdin
    transport: Any = process.stdin.transport
    transport.set_write_buffer_limits(low=10)
    assert transport.get_write_buffer_limits() == (10, 40)
    with pytest.raises(ValueError, match="must be >="):
        transport.set_write_buffer_limits(high=1, low=2)
    with pytest.raises(TypeError):
        process.stdin.write("text")  # type: ignore[arg-type]
    await stopped(process)


@pytest.mark.parametrize("name", ["universal_newlines", "text", "encoding", "errors", "bufsize", "shell"])
@in_each_loop
async def test_what_asyncio_refuses_is_refused(name: str) -> None:
    value: Any = {"encoding": "utf-8", "errors": "strict"}.get(name, 1)
    wrong: list[tuple[Any, bool]] = [(create_subprocess_exec, True), (create_subprocess_shell, False)]
    for create, shell in wrong:
        options: dict[str, Any] = {name: shell if name == "shell" else value}
        with pytest.raises(ValueError, match=f"^{name} must be (False|True|None|0)$"):
            await create("true", **options)


@in_each_loop
async def test_what_says_what_is_so_anyway_is_accepted() -> None:
    as_it_is: Any = {"universal_newlines": False, "text": None, "encoding": None, "errors": None, "bufsize": 0}
    right: list[tuple[Any, bool]] = [(create_subprocess_exec, False), (create_subprocess_shell, True)]
    for create, shell in right:
        process = await create("true", shell=shell, **as_it_is)
        assert await process.wait() == 0


@in_each_loop
async def test_other_refusals() -> None:
    command: Any = ["true"]
    with pytest.raises(ValueError, match="cmd must be a string"):
        await create_subprocess_shell(command)
    with pytest.raises(ValueError, match="Limit"):
        await create_subprocess_exec("true", stdout=PIPE, limit=0)
    with pytest.raises(ValueError, match="preexec_fn"):
        await create_subprocess_exec("true", preexec_fn=print)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await create_subprocess_exec("true", no_such_option=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        await create_subprocess_exec(None, stdout=PIPE)
    with pytest.raises(IdMapError):
        await create_subprocess_exec("true", uid_map="0:4294967296:1", stdin=PIPE)


@in_each_loop
async def test_errors_of_exec_arrive_and_leave_nothing() -> None:
    before = state()
    for name, error in (("no-such-program", FileNotFoundError), ("/etc/passwd", PermissionError)):
        with pytest.raises(error) as caught:
            await create_subprocess_exec(name, uid_map="root", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        assert isinstance(caught.value, UsernsError)
        assert (caught.value.step, caught.value.filename) == ("exec", name)
    del caught
    assert_unchanged(before)


# ---- the end of a process ----


@pytest.mark.parametrize("status", [0, 1, 255])
@in_each_loop
async def test_the_exit_status(status: int) -> None:
    process = await create_subprocess_shell(f"exit {status}")
    assert await process.wait() == process.returncode == status


@in_each_loop
async def test_signals() -> None:
    ends: list[tuple[Callable[[aio.Process], None], int]] = [
        (lambda process: process.terminate(), signal.SIGTERM),
        (lambda process: process.kill(), signal.SIGKILL),
        (lambda process: process.send_signal(signal.SIGUSR1), signal.SIGUSR1),
    ]
    before = state()
    for end, sig in ends:
        process = await create_subprocess_exec(*FOREVER)
        end(process)
        assert process.returncode is None
        assert await process.wait() == process.returncode == -sig
        with pytest.raises(ProcessLookupError):  # as in asyncio
            end(process)
    assert_unchanged(before)


@in_each_loop
async def test_a_signal_between_the_end_and_its_notice_has_no_effect() -> None:
    process = await create_subprocess_exec("true")
    select.select([process.pidfd], [], [])
    process.kill()
    assert process.returncode is None
    assert await process.wait() == 0


@in_each_loop
async def test_many_tasks_wait_at_once() -> None:
    process = await create_subprocess_exec(*FOREVER)
    waiting = [asyncio.create_task(process.wait()) for _ in range(20)]
    await asyncio.sleep(0.01)
    for task in waiting[::2]:
        task.cancel()
    await asyncio.sleep(0.01)
    assert process.returncode is None
    process.kill()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert results[1::2] == [-9] * 10
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert await process.wait() == -9


@in_each_loop
async def test_nothing_is_left_once_wait_returns() -> None:
    """Also when its output has not been read yet."""
    before = state()
    process = await create_subprocess_exec("sh", "-c", "echo out; echo error >&2", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdout
    assert process.stderr
    await process.wait()
    assert_unchanged(before)
    assert (await process.stdout.read(), await process.stderr.read()) == (b"out\n", b"error\n")
    assert await process.communicate() == (b"", b"")


@in_each_loop
async def test_wait_does_not_wait_for_others_that_hold_a_pipe() -> None:
    process = await create_subprocess_shell("sleep 1000 & echo $!", stdout=PIPE, stdin=PIPE)
    assert process.stdout
    assert await process.wait() == 0
    os.kill(int(await process.stdout.readline()), signal.SIGKILL)
    assert await process.stdout.read() == b""


@in_each_loop
async def test_wait_does_not_wait_for_others_that_write_without_end() -> None:
    process = await create_subprocess_shell("yes & echo $! >&2; sleep 0.1", stdout=PIPE, stderr=PIPE)
    assert process.stdout
    assert process.stderr
    assert await process.wait() == 0
    assert await process.stdout.readline() == b"y\n"
    os.kill(int(await process.stderr.readline()), signal.SIGKILL)
    assert len(await process.stdout.read()) > 64 << 10
    assert await process.stderr.read() == b""


@in_each_loop
async def test_wait_does_not_wait_for_a_reader() -> None:
    """It does not leave a full pipe behind either, when no task reads it."""
    before = state()
    process = await create_subprocess_exec("yes", stdout=PIPE, limit=100)
    assert process.stdout
    await asyncio.sleep(0.1)
    assert await stopped(process) == -9
    assert_unchanged(before)
    unread = await process.stdout.read()
    assert unread.startswith(b"y\ny\n")
    assert len(unread) >= 64 << 10


@in_each_loop
async def test_the_status_is_exact_when_others_reap() -> None:
    """Linux 6.15 and later; before, it is 255 with a warning."""
    stop = threading.Event()

    def reap() -> None:
        while not stop.is_set():
            with suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)

    thief = threading.Thread(target=reap)
    thief.start()
    try:
        processes = [await create_subprocess_shell(f"exit {status}") for status in range(1, 30)]
        if STATUS_IS_KEPT:
            assert [await process.wait() for process in processes] == list(range(1, 30))
        else:
            with pytest.warns(RuntimeWarning, match="status is lost"):
                assert {await process.wait() for process in processes} <= {*range(1, 30), 255}
    finally:
        stop.set()
        thief.join()


@in_each_loop
async def test_sigchld_is_left_alone() -> None:
    """The library does not catch it. If it is ignored, the kernel reaps, and the status is still correct."""
    for handler in (signal.SIG_DFL, signal.SIG_IGN):
        previous = signal.signal(signal.SIGCHLD, handler)
        try:
            process = await create_subprocess_shell("exit 3")
            assert signal.getsignal(signal.SIGCHLD) == handler
            if handler == signal.SIG_DFL or STATUS_IS_KEPT:
                assert await process.wait() == 3
            else:
                with pytest.warns(RuntimeWarning, match="status is lost"):
                    assert await process.wait() == 255
        finally:
            signal.signal(signal.SIGCHLD, previous)


@in_each_loop
async def test_neither_a_thread_nor_a_task_belongs_to_a_process() -> None:
    threads, tasks = os.listdir("/proc/self/task"), asyncio.all_tasks()
    process = await create_subprocess_exec(*FOREVER, stdin=PIPE, stdout=PIPE)
    if threading.current_thread() is threading.main_thread():
        assert os.listdir("/proc/self/task") == threads
    assert asyncio.all_tasks() == tasks
    await stopped(process)


@in_each_loop
async def test_one_that_a_tracer_has_not_let_go_is_looked_at_again() -> None:
    """And one that another thread waits for: the loop does not spin meanwhile."""
    process = await create_subprocess_exec(*FOREVER)
    transport: Any = process._transport
    inner = transport.get_extra_info("subprocess")
    inner._waitpid_lock.acquire()
    process.kill()
    used = []
    for _ in range(5):  # time in which a virtual machine is paused may be counted for this process, but not each time
        before = time.process_time()
        await asyncio.sleep(0.1)
        used.append(time.process_time() - before)
    assert min(used) < 0.05
    assert process.returncode is None
    inner._waitpid_lock.release()
    assert await process.wait() == -9


# ---- features of UsernsProcess ----


@in_each_loop
async def test_the_namespace_and_the_maps() -> None:
    before = state()
    process = await create_subprocess_exec(*ECHO, stdin=PIPE, uid_map="root", gid_map="current")
    assert process.uid_map == IdMap([(0, OWN_UID, 1)])
    assert process.gid_map == IdMap([(OWN_GID, OWN_GID, 1)])
    assert process.namespace_path("net") == f"/proc/{process.pid}/ns/net"
    with process.namespace() as userns:
        assert userns.inode == os.stat(process.namespace_path()).st_ino
    assert descriptors()[str(process.pidfd)] in ("anon_inode:[pidfd]", f"pidfd:[{os.fstat(process.pidfd).st_ino}]")
    await process.communicate(b"")
    for use in (
        lambda: process.pidfd,
        lambda: process.uid_map,
        lambda: process.gid_map,
        lambda: process.namespace(),
        lambda: process.namespace_path(),
        lambda: process.write_uid_map("root"),
    ):
        with pytest.raises(ProcessLookupError):
            use()
    assert_unchanged(before)


@in_each_loop
async def test_on_created_comes_before_the_program() -> None:
    seen: list[Any] = []
    process = await create_subprocess_exec("true", uid_map="root", on_created=seen.append)
    assert [each.pid for each in seen] == [process.pid]
    assert await process.wait() == 0
    before = state()
    with pytest.raises(ZeroDivisionError):
        await create_subprocess_exec(*FOREVER, stdin=PIPE, stdout=PIPE, on_created=lambda _process: 1 / 0)
    assert_unchanged(before)


@in_each_loop
async def test_maps_can_be_written_later() -> None:
    process = await create_subprocess_shell("read line; id -u; id -g", stdin=PIPE, stdout=PIPE)
    assert len(process.uid_map) == 0
    process.write_setgroups("deny")
    process.write_uid_map("root")
    process.write_gid_map("root")
    assert await output_of(process, b"\n") == b"0\n0\n"


@in_each_loop
async def test_the_pidfd_can_have_a_reader_of_its_own() -> None:
    process = await create_subprocess_exec(*FOREVER)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def readable(pidfd: int = process.pidfd) -> None:
        loop.remove_reader(pidfd)
        ended.set()

    loop.add_reader(process.pidfd, readable)
    process.kill()
    assert await process.wait() == -9
    await ended.wait()


@in_each_loop
async def test_the_death_signal_arrives() -> None:
    """A parent that is killed while its loop runs leaves no command behind."""
    printed = run_alone(programs.a_parent_that_is_killed)
    assert printed == "gone\n"


# ---- cancellation ----


@in_each_loop
async def test_a_cancelled_creation_has_started_nothing() -> None:
    """In whichever iteration of the loop it comes, there is no process, or it has been returned."""
    returned = 0
    for turns in range(8):
        before = state()
        task = asyncio.create_task(create_subprocess_exec(*FOREVER, stdin=PIPE, stdout=PIPE, stderr=PIPE))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            returned += 1
            await stopped(task.result())
        del task
        assert_unchanged(before)
    assert 0 < returned < 8


@in_each_loop
async def test_a_creation_that_runs_out_of_time() -> None:
    before = state()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await create_subprocess_exec(*FOREVER, stdin=PIPE, stdout=PIPE)
    assert_unchanged(before)


@in_each_loop
async def test_a_process_that_cannot_be_watched_is_not_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it fails after some of its pipes were connected."""
    loop = asyncio.get_running_loop()
    add_reader, left = loop.add_reader, 0

    def fail(*arguments: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("no more")
        add_reader(*arguments)

    before = state()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "add_reader", fail)
        for allowed in range(4):
            left = allowed
            with pytest.raises(OSError, match="no more"):
                await create_subprocess_exec(*FOREVER, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no more"):
        patch.setattr(os, "dup", lambda _fd: fail())
        await create_subprocess_exec(*FOREVER, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert_unchanged(before)


@in_each_loop
async def test_cancelling_communicate_does_not_kill() -> None:
    tasks = asyncio.all_tasks()
    reader, writer = os.pipe()
    shell = f"read line </proc/self/fd/{reader}; echo still there; exec sleep 1000"
    process = await create_subprocess_shell(shell, stdin=PIPE, stdout=PIPE, pass_fds=[reader])
    os.close(reader)
    assert process.stdout
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.gather(process.communicate(), asyncio.sleep(0.01))
    assert process.returncode is None
    os.close(writer)
    assert await process.stdout.readline() == b"still there\n"
    assert asyncio.all_tasks() == tasks
    await stopped(process)


@in_each_loop
async def test_cancelling_wait_does_not_kill() -> None:
    process = await create_subprocess_exec(*FOREVER)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await process.wait()
    assert process.returncode is None
    assert await stopped(process) == -9


@in_each_loop
async def test_a_task_group_that_fails_kills_nothing_of_its_own_accord() -> None:
    process = await create_subprocess_exec(*FOREVER)

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(process.wait())
            group.create_task(fail())
    assert process.returncode is None
    await stopped(process)


@pytest.mark.parametrize("loop", LOOPS)
def test_cancellation_at_random_moments_leaves_nothing(loop: str) -> None:
    run_alone(programs.cancellations, loop)


# ---- many processes, and other threads ----


@pytest.mark.parametrize("loop", LOOPS)
def test_a_thousand_at_once(loop: str) -> None:
    """All have pipes, and all are alive together if the limit of descriptors allows it. Each gets its own answer."""
    run_alone(programs.a_thousand, loop)


@pytest.mark.parametrize("pdeathsig", [None, signal.SIGKILL])
@pytest.mark.parametrize("loop", LOOPS)
def test_in_a_loop_of_another_thread(loop: str, pdeathsig: int | None) -> None:
    async def main() -> None:
        process = await create_subprocess_exec(*ECHO, stdin=PIPE, stdout=PIPE, uid_map="root", pdeathsig=pdeathsig)
        assert await output_of(process, b"through") == b"through"
        process = await create_subprocess_exec(*FOREVER, stdout=PIPE, pdeathsig=pdeathsig)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await process.communicate()
        assert await stopped(process) == -9
        # Until its exec a child of another thread has the other end of the pipe as well.
        assert process.stdout
        assert await process.stdout.read() == b""

    failures: list[BaseException] = []

    def run() -> None:
        try:
            run_in(loop, main())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# ---- processes that outlive their loop ----


@pytest.mark.parametrize("loop", LOOPS)
def test_one_that_outlives_its_loop_is_killed_when_dropped(loop: str) -> None:
    """With one warning, and without asyncio's "Event loop is closed"."""
    kept: list[aio.Process] = []

    async def main() -> None:
        kept.append(await create_subprocess_exec(*FOREVER, stdin=PIPE, stdout=PIPE, stderr=PIPE))
        process = kept[0]
        assert process.stdin
        process.stdin.write(b"x" * 200_000)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
    process = kept.pop()
    pid = process.pid
    assert str(pid) in children()
    assert process.stdin
    process.stdin.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del process
        gc.collect()
    assert {warning.category for warning in caught} == {ResourceWarning}
    assert any(f"unclosed transport <Transport of <UsernsProcess {FOREVER}" in str(each.message) for each in caught)
    assert str(pid) not in children()


@pytest.mark.parametrize("loop", LOOPS)
def test_one_that_outlives_its_loop_can_still_be_killed(loop: str) -> None:
    async def main() -> aio.Process:
        return await create_subprocess_exec(*FOREVER, stdout=PIPE)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        process = runner.run(main())
    process.kill()
    transport: Any = process._transport
    transport.close()
    del process, transport
    gc.collect()


@in_each_loop
async def test_one_that_is_dropped_runs_on_and_is_reaped() -> None:
    """As in asyncio: the loop keeps what it needs for that."""
    process = await create_subprocess_shell("read line; exit 3", stdin=PIPE)
    stdin, pid = process.stdin, process.pid
    assert stdin
    del process
    gc.collect()
    assert str(pid) in children()
    stdin.close()
    await until(lambda: str(pid) not in children())


@in_each_loop
async def test_closing_the_transport_kills_and_reaps() -> None:
    before = state()
    process = await create_subprocess_exec(*STUBBORN, stdin=PIPE, stdout=PIPE)
    assert process.stdout
    await process.stdout.readline()
    transport: Any = process._transport
    transport.close()
    assert transport.is_closing()
    assert await process.wait() == -9
    assert_unchanged(before)
    transport.close()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("where", ["main thread", "other thread"])
def test_the_interpreter_ends_with_one_alive(loop: str, where: str) -> None:
    """It does not hang, and prints nothing."""
    printed = run_alone(programs.end_with_one_alive, loop, where)
    assert printed.strip().isdigit(), printed


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("act", programs.ACTS_OF_A_COPY)
def test_a_forked_copy_neither_kills_nor_waits(loop: str, act: str) -> None:
    """It does not remove descriptors from the loop either, whose selector it shares."""
    run_alone(programs.a_copy, loop, act)


# ---- UsernsProcess itself, with event loops of all kinds ----


@in_each_loop
async def test_the_popen_has_a_reader_in_a_loop() -> None:
    loop = asyncio.get_running_loop()
    with UsernsProcess(["sleep", "0.05"], uid_map="root") as process:
        ended = loop.create_future()
        loop.add_reader(process, ended.set_result, None)
        await ended
        loop.remove_reader(process)
        assert process.poll() == 0


@pytest.mark.parametrize("selector", [selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector])
def test_the_popen_in_a_selector(selector: type[selectors.BaseSelector]) -> None:
    with selector() as waiting, UsernsProcess(["cat"], stdin=PIPE) as process:
        waiting.register(process, selectors.EVENT_READ)
        assert waiting.select(0) == []
        process.kill()
        assert [key.fileobj for key, _ in waiting.select(A_HANG)] == [process]


def test_the_popen_in_select() -> None:
    with UsernsProcess(["true"]) as process:
        assert select.select([process], [], [], A_HANG)[0] == [process]
        assert process.poll() == 0


def test_the_popen_in_trio() -> None:
    async def main() -> None:
        with UsernsProcess(["cat"], stdin=PIPE, uid_map="root") as process:
            with trio.move_on_after(0.05) as scope:
                await trio.lowlevel.wait_readable(process)
            assert scope.cancelled_caught
            assert process.poll() is None
            process.kill()
            await trio.lowlevel.wait_readable(process)
            assert process.poll() == -9

    trio.run(main)


ANYIO: list[tuple[str, dict[str, Any]]] = [
    ("asyncio", {}),
    ("asyncio", {"use_uvloop": True}),
    ("trio", {}),
]


@pytest.mark.parametrize(("backend", "options"), ANYIO)
def test_the_popen_in_anyio(backend: str, options: dict[str, Any]) -> None:
    async def main() -> None:
        with UsernsProcess(["cat"], stdin=PIPE, uid_map="root") as process:
            with anyio.move_on_after(0.05) as scope:
                await anyio.wait_readable(process)
            assert scope.cancelled_caught
            assert process.poll() is None
            process.kill()
            await anyio.wait_readable(process)
            assert process.poll() == -9

    anyio.run(main, backend=backend, backend_options=options)


@pytest.mark.parametrize("options", [{}, {"use_uvloop": True}])
def test_the_asyncio_process_in_anyio(options: dict[str, Any]) -> None:
    """Its cancellation is level-triggered: one await after the other is cancelled."""

    async def main() -> None:
        process = await create_subprocess_exec(*FOREVER, stdin=PIPE, stdout=PIPE, uid_map="root")
        with anyio.move_on_after(0.05):
            await process.communicate()
        await anyio.sleep(0)
        process.kill()
        await anyio.wait_readable(process.pidfd)
        assert await process.wait() == -9

    anyio.run(main, backend_options=options)


def test_import_of_the_package_does_not_import_asyncio() -> None:
    source = "import sys, usernsproc; assert 'asyncio' not in sys.modules; import usernsproc.aio"
    assert subprocess.run([sys.executable, "-c", source]).returncode == 0
