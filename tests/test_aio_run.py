"""`usernsproc.aio.run` and `check_output`: as in subprocess, and nothing is left of a call that is cut short."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import select
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from alone import run_alone
from each_loop import in_each_loop
from leaks import assert_unchanged, state
from loops import settle, until
from programs import aio_run as programs

import usernsproc
from usernsproc import (
    PIPE,
    STDOUT,
    CalledProcessError,
    CompletedCommand,
    OutputLimitExceeded,
    TimeoutExpired,
    UsernsError,
    aio,
)

FOREVER = ["sleep", "1000"]
MUCH = b"x" * 3_000_000  # more than any pipe holds

settle()


@in_each_loop
async def test_it_is_a_completed_command_of_a_namespace() -> None:
    result = await aio.run("id -u; echo err >&2; exit 3", shell=True, capture_output=True, uid_map="root")
    assert isinstance(result, CompletedCommand)
    assert (result.returncode, result.stdout, result.stderr) == (3, b"0\n", b"err\n")
    assert (await aio.run(["true"])).stdout is None


@in_each_loop
async def test_input_and_text() -> None:
    assert (await aio.run(["cat"], input=MUCH, stdout=PIPE)).stdout == MUCH
    assert await aio.check_output(["cat"], input="ü\r\n", encoding="utf-8") == "ü\n"
    assert await aio.check_output(["cat"]) == b""  # an empty input, as in subprocess
    assert await aio.check_output("echo err >&2", shell=True, stderr=STDOUT, text=True) == "err\n"
    assert await aio.check_output(["printf", r"\344"], encoding="latin-1") == "ä"
    with pytest.raises(UnicodeDecodeError):
        await aio.check_output(["printf", r"\344"], encoding="ascii")
    assert await aio.check_output(["printf", r"\344"], encoding="ascii", errors="replace") == "\ufffd"


@in_each_loop
async def test_a_command_that_does_not_read_its_input_ends() -> None:
    assert (await aio.run(["true"], input=MUCH)).returncode == 0


@in_each_loop
async def test_check_raises_with_what_was_printed() -> None:
    with pytest.raises(CalledProcessError) as caught:
        await aio.run("echo out; exit 3", shell=True, check=True, capture_output=True)
    assert (caught.value.returncode, caught.value.output, caught.value.stderr) == (3, b"out\n", b"")
    with pytest.raises(CalledProcessError) as caught:
        await aio.check_output("echo out; exit 4", shell=True, text=True)
    assert (caught.value.returncode, caught.value.output) == (4, "out\n")


@in_each_loop
async def test_a_timeout_ends_the_command_and_has_what_was_read() -> None:
    before = state()
    with pytest.raises(TimeoutExpired) as caught:
        await aio.run("echo out; exec sleep 1000", shell=True, capture_output=True, timeout=0.3)
    assert (caught.value.cmd, caught.value.timeout) == ("echo out; exec sleep 1000", 0.3)
    assert caught.value.stdout in (b"out\n", None)  # None: the shell had not printed it yet
    assert_unchanged(before)


@in_each_loop
async def test_a_descendant_that_holds_the_pipe_is_not_waited_for_after_a_cancellation() -> None:
    read, write = os.pipe()
    script = f"sleep 1000 & echo $! >/proc/self/fd/{write}; wait"
    task = asyncio.ensure_future(aio.run(script, shell=True, stdout=PIPE, pass_fds=[write]))
    await until(lambda: select.select([read], [], [], 0)[0])
    pid = int(os.read(read, 100))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    os.kill(pid, 9)  # it has not ended
    os.close(write)
    os.close(read)


@in_each_loop
async def test_a_timeout_error_of_on_created_is_not_taken_for_the_timeout() -> None:
    def raise_timeout(_: object) -> None:
        raise TimeoutError("of the hook")

    with pytest.raises(TimeoutError, match="of the hook"):
        await aio.run(["true"], on_created=raise_timeout, timeout=1000)


# ---- the limit ----


@in_each_loop
async def test_the_limit_is_of_each_stream_and_exact() -> None:
    result = await aio.run("printf 12345; printf 54321 >&2", shell=True, capture_output=True, max_output=5)
    assert (result.stdout, result.stderr) == (b"12345", b"54321")
    before = state()
    with pytest.raises(OutputLimitExceeded) as caught:
        await aio.run("printf 1234 >&2; exec yes", shell=True, capture_output=True, max_output=5, text=True)
    assert (caught.value.stream, caught.value.stdout, caught.value.max_output) == ("stdout", b"y\ny\ny", 5)
    assert caught.value.stderr in (b"1234", b"")  # what was read by then
    assert_unchanged(before)
    with pytest.raises(OutputLimitExceeded, match="more than 0 bytes to stderr"):
        await aio.run("echo >&2", shell=True, capture_output=True, max_output=0)
    with pytest.raises(OutputLimitExceeded):
        await aio.check_output(["yes"], max_output=100_000)


# ---- what is refused ----


@in_each_loop
async def test_what_contradicts_is_refused_and_nothing_is_created() -> None:
    before = state()
    refused: list[tuple[Coroutine[Any, Any, object], type[Exception], str]] = [
        (aio.run(["true"], input=b"", stdin=PIPE), ValueError, "stdin and input"),
        (aio.run(["true"], capture_output=True, stdout=PIPE), ValueError, "capture_output"),
        (aio.run(["true"], max_output=1), ValueError, "limits what is captured"),
        (aio.run(["true"], stdout=PIPE, max_output=-1), ValueError, "max_output=-1"),
        (aio.run(["true"], stdout=PIPE, max_output=1.5), TypeError, "float"),  # type: ignore[call-overload]
        (aio.run(None), TypeError, "a command is needed"),
        (aio.run(["true"], input="text", encoding="no-such-encoding"), LookupError, "no-such-encoding"),
        (aio.run(["true"], input="text"), TypeError, "memoryview"),
        (aio.check_output(["true"], stdout=PIPE), ValueError, "stdout argument not allowed"),
        (aio.run(["true"], preexec_fn=print), ValueError, "preexec_fn"),  # type: ignore[call-overload]
        (aio.run(["no-such-program"]), FileNotFoundError, "no-such-program"),
    ]
    for call, error, words in refused:
        with pytest.raises(error, match=words):
            await call
    assert_unchanged(before)


def test_its_parameters_are_those_of_the_synchronous_functions() -> None:
    for name in ("run", "check_output"):
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (aio, usernsproc))
        assert [*ours] == [parameter for parameter in theirs if parameter != "popen_args"]


# ---- cancellation ----


@in_each_loop
async def test_cancelled_at_any_moment_nothing_is_left() -> None:
    """Every step of the call is one in which the task can be cancelled."""
    before = state()
    random.seed(1)
    tasks = asyncio.all_tasks()
    for turns in [*range(20), *(random.randrange(200) for _ in range(30))]:
        task = asyncio.ensure_future(
            aio.run("cat; exec sleep 1000", shell=True, input=MUCH, capture_output=True, uid_map="root")
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert asyncio.all_tasks() == tasks
    assert_unchanged(before)


@in_each_loop
async def test_cancelled_again_while_the_command_is_dying() -> None:
    """Cancellations that arrive while the command ends do not leave it behind."""
    before = state()
    read, write = os.pipe()
    task = asyncio.ensure_future(
        aio.run([sys.executable, "-c", programs.HELD, str(write)], pass_fds=[write], stdout=PIPE, uid_map="root")
    )
    os.close(write)
    await until(lambda: select.select([read], [], [], 0)[0])
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    assert task.cancelled()
    os.close(read)
    assert_unchanged(before)


@in_each_loop
async def test_a_task_group_cancels_the_others() -> None:
    before = state()
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(aio.run(FOREVER, uid_map="root"))
            group.create_task(aio.check_output(["false"], uid_map="root"))
    assert [type(error) for error in caught.value.exceptions] == [CalledProcessError]
    assert_unchanged(before)


@in_each_loop
async def test_in_a_joined_namespace_as_well(tmp_path: Path) -> None:
    """With `join` the creation is in a thread."""
    with usernsproc.UsernsProcess(uid_map="root") as holder:
        before = state()
        assert await aio.check_output(["id", "-u"], join=holder) == b"0\n"
        with pytest.raises(TimeoutExpired):
            await aio.run(FOREVER, join=holder, timeout=0.2)
        with pytest.raises(UsernsError):
            await aio.run(FOREVER, join=holder, cwd=tmp_path / "missing")
        assert_unchanged(before)


@in_each_loop
async def test_many_at_once() -> None:
    before = state()
    results = await asyncio.gather(*(aio.check_output(["cat"], input=b"%d" % n, uid_map="root") for n in range(40)))
    assert results == [b"%d" % n for n in range(40)]
    assert_unchanged(before)


@in_each_loop
async def test_the_loop_runs_on() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    task = asyncio.ensure_future(aio.run(FOREVER, uid_map="root"))
    await until(lambda: turns > 100)
    assert not task.done()
    for each in (task, counting):
        each.cancel()
    await asyncio.wait([task, counting])


def test_the_encoding_warning_names_the_line_of_the_caller() -> None:
    run_alone(programs.encoding_warning)


def test_an_interrupt_from_the_keyboard_ends_the_command() -> None:
    assert run_alone(programs.interrupted) == "interrupted, no child\n"
