"""Creates a process in a separate thread, so that a slow creation does not block the event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable
from contextvars import copy_context

from ._processes.process import UsernsProcess
from ._spawn import Patience
from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Process: TypeAlias = UsernsProcess[Any]

_LOOP_CHECK_INTERVAL = 1.0  # seconds between two looks whether the loop is closed


async def create_in_thread(args: Any, options: dict[str, Any]) -> Process:
    """Create a `UsernsProcess` in a fresh thread.

    The event loop's thread starts that thread, so the process inherits from it: affinity,
    network namespace, seccomp filter. A thread of a pool could be older. *on_created* is
    called in the loop's thread. If the task is cancelled, the creation is given up, and
    nothing of it is left when the cancellation is raised.
    """
    loop = asyncio.get_running_loop()
    if options.get("on_created") is not None:
        options = {**options, "on_created": _in_loop(loop, options["on_created"])}
    cancelled = os.eventfd(0, os.EFD_CLOEXEC)
    outcome: asyncio.Future[tuple[Process | None, BaseException | None]] = loop.create_future()

    def create() -> None:
        process: Process | None = None
        error: BaseException | None = None
        try:
            process = UsernsProcess._within(Patience(cancelled=cancelled), args, **options)
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(outcome.set_result, (process, error))
        except RuntimeError:  # the loop is closed, and with it the task
            if process is not None:
                process.close()

    try:
        threading.Thread(target=create, name="usernsproc creation", daemon=True).start()
        return await _created(outcome, cancelled)
    finally:
        os.close(cancelled)


async def _created(outcome: asyncio.Future[tuple[Process | None, BaseException | None]], cancelled: int) -> Process:
    cancellation = None
    while not outcome.done():
        try:
            await asyncio.wait([outcome])
        except asyncio.CancelledError as raised:  # the thread ends soon: wait for it, despite further cancellations
            cancellation = raised
            os.eventfd_write(cancelled, 1)
    process, error = outcome.result()
    if cancellation is not None:
        if process is not None:
            process.close()
        raise cancellation
    if error is not None:
        raise error
    assert process is not None
    return process


def _in_loop(loop: asyncio.AbstractEventLoop, on_created: Callable[[Process], object]) -> Callable[[Process], None]:
    """To be called in the creating thread: *on_created* runs in the loop's thread, with the task's context."""
    context = copy_context()

    def call(process: Process) -> None:
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def run() -> None:
            process._creating_thread = threading.get_ident()
            try:
                on_created(process)
            except BaseException as raised:
                done.set_exception(raised)
            else:
                done.set_result(None)

        loop.call_soon_threadsafe(run, context=context)
        while not done.done():
            if loop.is_closed():
                raise RuntimeError("Event loop is closed")
            concurrent.futures.wait([done], _LOOP_CHECK_INTERVAL)
        done.result()

    return call
