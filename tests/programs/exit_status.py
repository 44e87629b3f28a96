"""Programs in which the kernel, a thread or a signal handler reaps the commands before `wait` can."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

from usernsproc import UsernsProcess, call


def assert_statuses_are_exact(count: int) -> None:
    for number in range(count):
        assert call(["sh", "-c", f"exit {number % 256}"], uid_map="root") == number % 256


def with_sigchld_ignored() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for status in (0, 1, 77, 255):
        assert call(["sh", "-c", f"exit {status}"], uid_map="root") == status
    with UsernsProcess(["sleep", "1000"]) as process:
        process.terminate()
        assert process.wait(timeout=60) == -signal.SIGTERM


def beside_a_thread_that_reaps() -> None:
    stop = threading.Event()

    def reap() -> None:
        while not stop.is_set():
            with suppress(ChildProcessError):
                os.waitpid(-1, 0)

    thread = threading.Thread(target=reap)
    thread.start()
    assert_statuses_are_exact(300)
    stop.set()
    thread.join()


def beside_a_handler_that_reaps() -> None:
    reaped = []

    def reap(*_: object) -> None:
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                reaped.append(found)

    signal.signal(signal.SIGCHLD, reap)
    assert_statuses_are_exact(300)
    assert reaped, "no child was reaped by the handler"
