"""The leader of a session, whose terminal is given to a command for a while."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import subprocess
import termios
import threading
import warnings
from typing import Any

from leaks import assert_unchanged, state
from setup_steps import NEW, OWN, WITH_INIT, python

from usernsproc import PIPE, UsernsError, UsernsProcess, aio, run
from usernsproc.setup import ControllingTerminal, Foreground

WHO_IS_IN_FRONT = """
import os
print(os.tcgetpgrp(0) == os.getpgrp() == os.getpid(), flush=True)
input()
"""


def lead_session() -> tuple[int, int]:
    """Both sides of a new pseudo-terminal, which is that of this process from now on."""
    os.setsid()
    near, far = os.openpty()
    fcntl.ioctl(far, termios.TIOCSCTTY, 0)
    assert os.tcgetpgrp(far) == os.getpgrp()
    return near, far


def end_by_wait(process: UsernsProcess[Any]) -> None:
    assert process.wait() == 0


def end_by_poll(process: UsernsProcess[Any]) -> None:
    while process.poll() is None:
        pass


def end_by_communicate(process: UsernsProcess[Any]) -> None:
    process.communicate()


def end_by_close(process: UsernsProcess[Any]) -> None:
    process.close()


def end_by_kill(process: UsernsProcess[Any]) -> None:
    process.kill()
    process.wait()


def end_by_with(process: UsernsProcess[Any]) -> None:
    with process:
        pass


def end_by_waitid(process: UsernsProcess[Any]) -> None:
    process.waitid()


def end_by_another_thread(process: UsernsProcess[Any]) -> None:
    thread = threading.Thread(target=process.wait)
    thread.start()
    thread.join()


def end_by_other_code(process: UsernsProcess[Any]) -> None:
    """Which reaps it; then the object looks."""
    os.waitpid(process.pid, 0)
    process.wait()


ENDS = (
    *(end_by_wait, end_by_poll, end_by_communicate, end_by_close, end_by_kill, end_by_with, end_by_waitid),
    *(end_by_another_thread, end_by_other_code),
)


def put_back(way: str, **options: Any) -> None:
    """The command is in front while it runs, and this process again when the end is known."""
    near, far = lead_session()
    end = globals()[way]
    for signals in ({signal.SIGTTOU}, set[signal.Signals]()):
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        before = state()
        process: UsernsProcess[str] = UsernsProcess(
            python(WHO_IS_IN_FRONT),
            stdin=far,
            stdout=PIPE,
            text=True,
            process_group=0,
            setup=[Foreground(far)],
            **options,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert os.tcgetpgrp(far) != os.getpgrp()
        if not options.get("init"):
            assert os.tcgetpgrp(far) == process.pid
        os.write(near, b"\n")
        end(process)
        assert os.tcgetpgrp(far) == os.getpgrp()
        process.stdout.close()
        process.close()
        assert_unchanged(before)


def put_back_new(way: str) -> None:
    put_back(way, **NEW)


def put_back_own(way: str) -> None:
    put_back(way, **OWN)


def with_init() -> None:
    put_back("end_by_wait", **WITH_INIT)


async def run_by_asyncio(near: int, far: int) -> None:
    process = await aio.create_subprocess_exec(
        *python(WHO_IS_IN_FRONT), stdin=far, stdout=PIPE, process_group=0, setup=[Foreground(far)], **NEW
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"True\n"
    assert os.tcgetpgrp(far) == process.pid
    os.write(near, b"\n")
    assert await process.wait() == 0
    assert os.tcgetpgrp(far) == os.getpgrp()


def with_asyncio() -> None:
    asyncio.run(run_by_asyncio(*lead_session()))


def put_back_after_failures() -> None:
    """Whether it fails before or after the command was put in front."""
    _, far = lead_session()
    before = state()

    def fail(_: object) -> None:
        raise ZeroDivisionError

    def end(process: UsernsProcess[bytes]) -> None:
        process.close()
        assert process.returncode == -signal.SIGKILL

    for command, options, kind in (
        (["/nonexistent"], {}, FileNotFoundError),
        (["/etc/passwd"], {}, PermissionError),
        (["/bin/true"], {"cwd": "/nonexistent"}, FileNotFoundError),
        (["/bin/true"], {"on_created": fail}, ZeroDivisionError),
        (["/bin/true"], {"on_created": end}, ProcessLookupError),
    ):
        try:
            run(command, process_group=0, setup=[Foreground(far)], **NEW, **options)
        except kind:
            assert os.tcgetpgrp(far) == os.getpgrp()
        else:
            raise AssertionError
        assert_unchanged(before)


def not_put_back_by_a_copy() -> None:
    """A forked copy of the program sees the end as well, and leaves the terminal as it is then."""
    near, far = lead_session()
    process: UsernsProcess[bytes] = UsernsProcess(
        ["/bin/cat"], stdin=far, stdout=PIPE, process_group=0, setup=[Foreground(far)], **NEW
    )
    waits, goes_on = os.pipe()
    copy = os.fork()
    if not copy:
        os.read(waits, 1)
        warnings.simplefilter("ignore")  # before Linux 6.15, the status is lost
        os._exit(process.poll() is None)
    os.write(near, b"\x04")
    process.wait()
    with subprocess.Popen(["/bin/sleep", "1000"], process_group=0) as other:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        os.tcsetpgrp(far, other.pid)
        os.write(goes_on, b"1")
        copied = os.waitpid(copy, 0)[1]
        in_front = os.tcgetpgrp(far)
        other.kill()
    assert (copied, in_front) == (0, other.pid)


def once() -> None:
    """Not again when the object is closed, when another process may be in front."""
    near, far = lead_session()
    process: UsernsProcess[bytes] = UsernsProcess(
        ["/bin/cat"], stdin=far, stdout=PIPE, process_group=0, setup=[Foreground(far)], **NEW
    )
    os.write(near, b"\x04")
    process.wait()
    with subprocess.Popen(["/bin/sleep", "1000"], process_group=0) as other:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        os.tcsetpgrp(far, other.pid)
        process.poll()
        process.close()
        assert process.stdout is not None
        assert process.stdout.closed
        del process
        in_front = os.tcgetpgrp(far)
        other.kill()
    assert in_front == other.pid


def terminal_of_another_session() -> None:
    """It is not stolen, although root could."""
    _, far = lead_session()
    try:
        run(["/bin/true"], start_new_session=True, setup=[ControllingTerminal(far)], **NEW)
    except UsernsError as error:
        assert (error.step, error.call, error.errno) == ("ControllingTerminal", "ioctl", errno.EPERM)
        assert error.cause == "terminal-taken"
    else:
        raise AssertionError
    assert os.tcgetpgrp(far) == os.getpgrp()
