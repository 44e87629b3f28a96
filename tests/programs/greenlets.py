"""Greenlets that run during calls that wait for a process. `programs/patched.py` calls these functions."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from _thread import get_native_id
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from leaks import assert_unchanged, state

import usernsproc
from usernsproc import PIPE, UsernsProcess

Result = TypeVar("Result")

ENDS_WITHIN = 20
LATER = ("sh", "-c", "sleep 0.3; exit 7")
OUTPUT_LATER = ("sh", "-c", "sleep 0.3; echo out")

spawn: Callable[..., object]
start_native_thread: Callable[[Callable[[], None], tuple[()]], int]
ticks: Counter[int] = Counter()
"""How often the other greenlets of each native thread ran."""


def start(spawn_greenlet: Callable[..., object], start_thread: Callable[..., int]) -> None:
    """Start another greenlet, and check that a call that blocks the thread is noticed."""
    global spawn, start_native_thread
    spawn, start_native_thread = spawn_greenlet, start_thread
    spawn(tick)
    others_run_during(lambda: time.sleep(0.3))
    before = +ticks
    ctypes.CDLL(None).usleep(200_000)
    assert ticks == before, "a call that blocks the thread has to be noticed here"


def tick() -> None:
    while True:
        sleep_deep_down()
        ticks[get_native_id()] += 1


def sleep_deep_down(levels: int = 50) -> int:
    if levels:
        return max([levels], key=lambda _: sleep_deep_down(levels - 1))  # uses the stack of C
    os.setresgid(-1, -1, -1)  # libc interrupts every other thread for it
    time.sleep(0.01)
    return 0


def others_run_during(call: Callable[[], Result]) -> Result:
    thread = get_native_id()
    time.sleep(0.03)
    before = ticks[thread]
    result = call()
    assert ticks[thread] - before >= 3, (call, ticks[thread] - before)
    return result


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + ENDS_WITHIN
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition(), "it hangs"


def in_native_thread(call: Callable[[], object]) -> None:
    outcome: list[object] = []

    def run() -> None:
        spawn(tick)
        time.sleep(0.03)  # its other greenlets start here, and use the stack below
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    start_native_thread(run, ())
    until(lambda: outcome)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]


def later(command: tuple[str, ...] = LATER, **options: Any) -> UsernsProcess[Any]:
    process: UsernsProcess[Any] = UsernsProcess(command, uid_map="root", **options)
    return process


# ---- waiting ----


def echoes_later() -> UsernsProcess[bytes]:
    return later(("sh", "-c", "sleep 0.3; cat; echo error >&2"), stdin=PIPE, stdout=PIPE, stderr=PIPE)


def error_output_of_a_cat() -> object:
    process = later(("sh", "-c", "sleep 0.3; cat >&2"), stdin=PIPE, stderr=subprocess.DEVNULL)
    return process.communicate(bytes(99999))[1]


def status_by_waitid() -> int:
    result = later().waitid()
    assert result is not None
    return result.si_status


def status_after_a_with_block() -> int | None:
    with later() as process:
        pass
    return process.returncode


def end_of_time() -> str:
    try:
        later(("sleep", "30")).wait(timeout=0.3)
    except usernsproc.TimeoutExpired:
        return "expired"
    return "it ended"


OUTPUT: tuple[bytes | None, bytes | None] = (b"input", b"error\n")
WAITS: dict[str, tuple[Callable[[], object], object]] = {
    "wait": (lambda: later().wait(), 7),
    "wait with timeout": (lambda: later().wait(timeout=ENDS_WITHIN), 7),
    "wait until the timeout": (end_of_time, "expired"),
    "communicate": (lambda: later().communicate(), (None, None)),
    "communicate by three pipes": (lambda: echoes_later().communicate(b"input"), OUTPUT),
    "communicate with timeout": (lambda: echoes_later().communicate(b"input", timeout=ENDS_WITHIN), OUTPUT),
    "communicate by one pipe": (lambda: later(OUTPUT_LATER, stdout=PIPE).communicate(), (b"out\n", None)),
    "communicate in text": (lambda: later(OUTPUT_LATER, stdout=PIPE, text=True).communicate(), ("out\n", None)),
    "communicate much input": (error_output_of_a_cat, None),
    "waitid": (status_by_waitid, 7),
    "with": (status_after_a_with_block, 7),
    "run": (lambda: usernsproc.run(LATER, uid_map="root").returncode, 7),
    "run with timeout": (
        lambda: usernsproc.run(LATER, uid_map="root", timeout=ENDS_WITHIN, capture_output=True).returncode,
        7,
    ),
    "call": (lambda: usernsproc.call(LATER, uid_map="root"), 7),
    "check_output": (lambda: usernsproc.check_output(["sh", "-c", "sleep 0.3; id -u"], uid_map="root"), b"0\n"),
}


def others_run_while_one_waits(name: str) -> None:
    call, expected = WAITS[name]
    assert others_run_during(call) == expected


def two_wait_for_the_same_process() -> None:
    process = later()
    found: list[int] = []
    for _ in range(3):
        spawn(lambda: found.append(process.wait()))
        spawn(lambda: found.append(process.wait(timeout=ENDS_WITHIN)))
    until(lambda: len(found) == 6)
    assert found == [7] * 6, found
    process.close()


# ---- not waiting ----


def signals_and_polling() -> None:
    with later() as process:
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        assert process.poll() == -signal.SIGTERM


def timeouts() -> None:
    each_way: tuple[dict[str, Any], ...] = ({}, {"capture_output": True}, {"input": b"text"})
    for options in each_way:
        try:
            usernsproc.run(["sleep", "30"], uid_map="root", timeout=0.2, **options)
        except usernsproc.TimeoutExpired as error:
            assert isinstance(error, subprocess.TimeoutExpired)
        else:
            raise AssertionError("it ended")


def errors() -> None:
    try:
        usernsproc.run(["/no/such/program"], uid_map="root")
    except FileNotFoundError as error:
        assert isinstance(error, usernsproc.UsernsError)
        assert error.step == "exec"
    else:
        raise AssertionError("it was found")
    try:
        usernsproc.run(["false"], uid_map="root", check=True)
    except subprocess.CalledProcessError as error:
        assert error.returncode == 1
    else:
        raise AssertionError("it was not checked")


def what_does_not_wait() -> None:
    signals_and_polling()
    with UsernsProcess(uid_map="root") as holder:
        with holder.namespace() as userns:
            assert userns.uid_map
        time.sleep(0.1)  # gevent closes a descriptor when its loop runs the next time
        before = state()
        timeouts()
        errors()
        assert_unchanged(before)
    assert isinstance(usernsproc.run(["true"], uid_map="root"), usernsproc.CompletedProcess)


def names_of_the_standard_library() -> None:
    [popen] = [each for each in UsernsProcess.__mro__ if each.__name__ == "Popen"]
    assert vars(popen)["__init__"].__code__.co_filename == subprocess.__spec__.origin
    for name in ("TimeoutExpired", "CalledProcessError", "SubprocessError"):
        assert getattr(usernsproc, name) is getattr(subprocess, name)


# ---- callbacks and tools ----


def wait(_process: object) -> None:
    others_run_during(lambda: time.sleep(0.3))


def outputs(**options: Any) -> None:
    process: UsernsProcess[bytes]
    with UsernsProcess(["id", "-u"], stdout=PIPE, on_created=wait, **options) as process:
        assert process.communicate() == (b"0\n", None)
        assert process.returncode == 0


def start_holder() -> None:
    with UsernsProcess(uid_map="root", on_created=wait) as holder, holder.namespace() as userns:
        assert userns.uid_map


def join() -> None:
    with UsernsProcess(uid_map="root", namespaces=["pid"]) as holder:
        outputs(join=holder)


CALLS_BACK: dict[str, Callable[[], None]] = {
    "command": lambda: outputs(uid_map="root"),
    "command with ids": lambda: outputs(uid_map="root", user=0),
    "command with init": lambda: outputs(uid_map="root", namespaces=["pid"], init=True),
    "holder": start_holder,
    "command that joins": join,
}


def others_run_in_a_callback(name: str) -> None:
    CALLS_BACK[name]()
    in_native_thread(CALLS_BACK[name])


def maps_that_a_tool_writes() -> None:
    shown = usernsproc.check_output(["cat", "/proc/self/uid_map"], uid_map="rootless").split()
    assert shown == [b"0", b"1000", b"1", b"1", b"100000", b"65536"], shown
