"""asyncio programs: killed, cancelled, copied by fork, ended with a process alive, and with a thousand processes."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import signal
import sys
import threading
import warnings
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable

from leaks import assert_unchanged, children, state
from loops import LOOPS, settle, until

from usernsproc.aio import Process, create_subprocess_exec

FOREVER = ("sleep", "1000")
COMMANDS = (("cat",), ("true",), FOREVER, ("head", "-c", "1000"))
MUCH = b"x" * 200_000
PROCESSES, DESCRIPTORS_OF_EACH, OTHER_DESCRIPTORS = 1000, 4, 100
MAX_DESCRIPTORS = 65536


def a_parent_that_is_killed() -> None:
    """The parent is killed while its event loop runs; its command must end as well."""
    read, write = os.pipe()

    async def start_and_die() -> None:
        await create_subprocess_exec(*FOREVER, pass_fds=[write])
        os.kill(os.getpid(), signal.SIGKILL)

    if os.fork() == 0:
        asyncio.run(start_and_die())
    os.close(write)
    os.wait()
    assert os.read(read, 1) == b""
    print("gone")


# ---- cancellation ----


async def use_command(command: tuple[str, ...]) -> None:
    process = await create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE, uid_map="root")
    try:
        assert process.stdin
        process.stdin.write(MUCH)
        await process.stdin.drain()
        await process.communicate(MUCH)
        await process.stdin.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def cancel_at_random() -> None:
    chance = random.Random(7)
    ended = {"cancelled": 0, "finished": 0}
    for _ in range(12):
        tasks = [asyncio.create_task(use_command(chance.choice(COMMANDS))) for _ in range(25)]
        while any(not task.done() for task in tasks):
            await asyncio.sleep(chance.random() * 0.02 if chance.random() < 0.5 else 0)
            for task in tasks:
                if chance.random() < 0.1:
                    task.cancel()
        for task in tasks:
            ended["cancelled" if task.cancelled() else "finished"] += 1
            if not task.cancelled():
                task.result()
        tasks.clear()
    assert min(ended.values()) > 5, ended
    # A process whose wait was cancelled as well has been killed, and the loop reaps it.
    await until(lambda: not children())


def cancellations(loop: str) -> None:
    settle()
    complaints: list[object] = []
    before = state()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
            runner.run(cancel_at_random())
            assert not asyncio.all_tasks(runner.get_loop())
        gc.collect()
    complaints += caught
    assert not complaints, complaints[0]
    assert_unchanged(before)


# ---- many processes ----


def allow_descriptors() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = min(hard, MAX_DESCRIPTORS) if hard != resource.RLIM_INFINITY else MAX_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


async def ask_all(together: int) -> None:
    alive = 0
    allowed, all_there = asyncio.Semaphore(together), asyncio.Event()

    async def ask(number: int) -> None:
        nonlocal alive
        async with allowed:
            process = await create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, uid_map="root")
            alive += 1
            if alive == together:
                assert len(children()) == together
                all_there.set()
            await all_there.wait()
            output, _ = await process.communicate(str(number).encode() * 1000)
            assert (output, process.returncode) == (str(number).encode() * 1000, 0)

    await asyncio.gather(*map(ask, range(PROCESSES)))


def a_thousand(loop: str) -> None:
    settle()
    together = min(PROCESSES, (allow_descriptors() - OTHER_DESCRIPTORS) // DESCRIPTORS_OF_EACH)
    before = state()
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(ask_all(together))
    gc.collect()
    assert_unchanged(before)


# ---- the end of the program, and copies of it ----

kept: list[Process] = []
"""References that last until the interpreter ends."""


async def start_and_leave() -> None:
    process = await create_subprocess_exec(*FOREVER, stdin=PIPE, stdout=PIPE)
    kept.append(process)
    asyncio.ensure_future(process.communicate(MUCH))  # noqa: RUF006
    await asyncio.sleep(0.05)
    print(process.pid)


def end_with_one_alive(loop: str, where: str) -> None:
    def run() -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(start_and_leave())

    sys.stderr = sys.stdout
    if where == "main thread":
        run()
    else:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()


class Owner:
    """Holds the only reference to a process."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def exit(self) -> None:
        sys.exit(7)

    async def drop(self) -> None:
        del self.process
        gc.collect()
        os._exit(7)

    async def wait(self) -> None:
        self.process.kill()
        try:
            await self.process.wait()
        except ChildProcessError:
            self.process._transport.abandon()  # as when it is dropped
            os._exit(7)


ACTS_OF_A_COPY: dict[str, Callable[[Owner], Awaitable[None]]] = {
    "exit": Owner.exit,
    "drop": Owner.drop,
    "kill and wait": Owner.wait,
}


async def use_beside_a_copy(act: str) -> None:
    owner = Owner(await create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, uid_map="root"))
    copy = os.fork()
    if copy == 0:
        await ACTS_OF_A_COPY[act](owner)
    async with asyncio.timeout(20):
        while (ended := os.waitpid(copy, os.WNOHANG)) == (0, 0):
            await asyncio.sleep(0.01)
        assert os.waitstatus_to_exitcode(ended[1]) == 7
        process = owner.process
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"line\n")
        assert await process.stdout.readline() == b"line\n"
        process.stdin.close()
        assert await process.wait() == 0


def a_copy(loop: str, act: str) -> None:
    runner = asyncio.Runner(loop_factory=LOOPS[loop])
    runner.run(use_beside_a_copy(act))
    runner.close()  # not by the copy: uvloop would remove its own descriptors from the shared selector
