"""The programs of `test_waiting.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fuse_server
import native
from leaks import assert_unchanged, children, state

from usernsproc import TimeoutExpired, UsernsProcess, _system_calls, aio, run

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
TRIES_FOR = 120
"""Seconds in which to stop newuidmap, which runs for a millisecond: on a busy machine most attempts come too late."""


class HandlerError(BaseException):
    pass


def serve_silently(folder: str) -> None:
    """Mount a FUSE file system there, and answer only INIT."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    native.must(native.libc.mount(b"silent", os.fsencode(folder), b"fuse", 0, options.encode()))
    print("mounted", flush=True)
    while True:
        request = os.read(device, 1 << 17)
        _, opcode, unique, *_ = fuse_server.REQUEST.unpack_from(request)
        if opcode == fuse_server.INIT:
            error, body = fuse_server.answer(opcode, 0)
            header = fuse_server.REPLY.pack(fuse_server.REPLY.size + len(body), -error, unique)
            os.write(device, header + body)


def trace(pid: int) -> None:
    """Stop the process by `ptrace(2)` until standard input ends."""
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        native.must(native.libc.ptrace(request, pid, None, None))
    print("traced", flush=True)
    sys.stdin.read()


def interrupt_under_strace(args: list[str] | None) -> None:
    def handle(*_: object) -> None:
        raise HandlerError

    signal.signal(signal.SIGALRM, handle)
    calls = ["-e", "trace=prctl", "-e", "inject=prctl:delay_enter=3000000"]
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", *calls, "-p", str(os.getpid())])
    while "TracerPid:\t0" in Path("/proc/self/status").read_text():
        time.sleep(0.01)
    start = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        UsernsProcess(args, uid_map="root")
    except HandlerError:
        print("interrupted", time.monotonic() - start < 2.5)
    tracer.terminate()
    tracer.wait()


def poll_while_signals_come() -> None:
    """Poll with a timer that is faster than the deadline."""
    reader, writer = os.pipe()
    handled = []
    signal.signal(signal.SIGALRM, lambda *_: handled.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    assert _system_calls.poll((reader,), 300) == []
    os.write(writer, b"x")
    assert _system_calls.poll((reader,), 300) == [reader]
    assert handled
    signal.setitimer(signal.ITIMER_REAL, 0)  # the interpreter restores the default action when it exits


def stop_newuidmap(done: threading.Event) -> None:
    """Stop each newuidmap that this process starts."""
    while not done.is_set():
        for pid in children():
            try:
                with open(f"/proc/{pid}/comm") as file:
                    if file.read() == "newuidmap\n":
                        os.kill(int(pid), signal.SIGSTOP)
            except OSError:
                pass


def timeouts_of_run() -> int:
    """Return how often a timeout ended `run` while newuidmap ran: twice is enough."""
    found, end = 0, time.monotonic() + TRIES_FOR
    while time.monotonic() < end:
        try:
            run(["true"], uid_map="rootless", timeout=1)
        except TimeoutExpired as error:
            assert "step newuidmap" in error.__notes__[0], error.__notes__
            found += 1
            if found == 2:
                break
    return found


async def is_creation_cancelled() -> bool | None:
    """Cancel the first creation that lasts, and return whether that worked; None if all ended in time."""
    end = time.monotonic() + TRIES_FOR
    while time.monotonic() < end:
        creation = asyncio.ensure_future(aio.create_subprocess_exec("true", uid_map="rootless"))
        await asyncio.wait([creation], timeout=1)
        if not creation.done():
            creation.cancel()
            await asyncio.wait([creation])
            return creation.cancelled()
        await (await creation).wait()
    return None


def end_a_stopped_newuidmap() -> None:
    run(["true"], uid_map="rootless")
    sys.setswitchinterval(1e-4)  # so that the thread looks often
    before, done = state(), threading.Event()
    thread = threading.Thread(target=stop_newuidmap, args=(done,))
    thread.start()
    print(timeouts_of_run(), asyncio.run(is_creation_cancelled()))
    done.set()
    thread.join()
    assert_unchanged(before)
