"""Programs whose forked copies use their processes, and start processes themselves."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import native

from usernsproc import PIPE, UsernsProcess, _core, check_output
from usernsproc.aio import Process, create_subprocess_exec

COMMAND = ("sleep", "1000")


def clone() -> int:
    flags = (0, signal.SIGCHLD) if native.MACHINE == "s390x" else (signal.SIGCHLD, 0)
    pid: int = ctypes.PyDLL(None).syscall(native.NR_CLONE, *flags, 0, 0, 0)
    return pid


FORKS: dict[str, Callable[[], int]] = {
    "os.fork": os.fork,
    "fork(2) by C": lambda: int(ctypes.PyDLL(None).fork()),
    "clone(2) by C": clone,
}


def start_copy(how: str, call: Callable[[], object]) -> int:
    """Make the call in a forked copy of this program and return its PID. It exits with 0 if the call returns."""
    pid = FORKS[how]()
    if pid == 0:
        status = 1
        try:
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert pid > 0
    return pid


def in_copy(how: str, call: Callable[[], object]) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(start_copy(how, call), 0)[1]) == 0


def raises(error: type[BaseException], call: Callable[[], object]) -> None:
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error}")


def runs(process: UsernsProcess[Any]) -> bool:
    """Return whether it is neither stopped nor ended."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] in "RSD"


class Owner:
    """Holds the only reference to a process."""

    def __init__(self, process: UsernsProcess[bytes]) -> None:
        self.process = process

    def drop(self) -> None:
        del self.process
        gc.collect()

    def poll(self) -> None:
        assert self.process.poll() is None

    def wait(self) -> None:
        raises(ChildProcessError, self.process.wait)

    def wait_with_timeout(self) -> None:
        raises(ChildProcessError, lambda: self.process.wait(timeout=20))


ACTS: dict[str, Callable[[Owner], object]] = {
    "poll": Owner.poll,
    "kill": lambda owner: owner.process.kill(),
    "terminate": lambda owner: owner.process.terminate(),
    "stop": lambda owner: owner.process.send_signal(signal.SIGSTOP),
    "close": lambda owner: owner.process.close(),
    "drop": Owner.drop,
    "leave a with block": lambda owner: owner.process.__exit__(None, None, None),
    "wait": Owner.wait,
    "wait with timeout": Owner.wait_with_timeout,
}


def act_on_the_process_of_the_first(how: str, act: str, kind: str) -> None:
    owner = Owner(UsernsProcess(COMMAND if kind == "command" else None, uid_map="root"))
    in_copy(how, lambda: ACTS[act](owner))
    assert runs(owner.process)
    assert owner.process.poll() is None
    owner.process.close()


def processes_of_a_copy(how: str) -> None:
    first = UsernsProcess(uid_map="root")

    def work() -> None:
        assert check_output(["id", "-u"], uid_map="root") == b"0\n"
        own = UsernsProcess(COMMAND, uid_map="root")

        def work_deeper() -> None:
            own.close()
            first.close()

        in_copy(how, work_deeper)
        assert runs(own)
        assert runs(first)
        own.kill()
        assert own.wait() == -signal.SIGKILL
        own.close()

    for _ in range(3):
        in_copy(how, work)
    assert runs(first)
    first.close()
    assert first.returncode == -signal.SIGKILL


def unshare_pid_namespace() -> None:
    """Put later children in a new PID namespace, as root of a new user namespace."""
    maps = {"setgroups": "deny", "uid_map": f"0 {os.geteuid()} 1", "gid_map": f"0 {os.getegid()} 1"}
    native.unshare(native.CLONE_NEWUSER | native.CLONE_NEWPID)
    for name, text in maps.items():
        Path(f"/proc/self/{name}").write_text(text)


def copies_with_the_same_pid(how: str) -> None:
    def first_process() -> None:
        assert os.getpid() == 1
        process = UsernsProcess(COMMAND, uid_map="root")

        def first_process_again() -> None:
            assert os.getpid() == 1
            process.close()

        def deeper() -> None:
            unshare_pid_namespace()
            in_copy(how, first_process_again)

        in_copy(how, deeper)
        assert process.poll() is None
        process.close()

    def inside() -> None:
        unshare_pid_namespace()
        in_copy(how, first_process)

    in_copy(how, inside)


# ---- the number of a copy ----


def another_number(how: str) -> None:
    first = _core.generation()

    def look() -> None:
        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(lambda _: _core.generation(), range(100)))
        assert len(found) == 1
        own = found.pop()
        assert own > first

        def look_deeper() -> None:
            assert _core.generation() > own

        in_copy(how, look_deeper)

    in_copy(how, look)
    in_copy(how, look)
    assert _core.generation() == first


def number_of_another_interpreter() -> None:
    interpreters: Any = import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    before = _core.generation()
    interpreter = interpreters.create()
    source = (
        f"import sys; sys.path[:] = {sys.path!r}\nfrom usernsproc import _core; assert _core.generation() == {before}"
    )
    failed = interpreters.run_string(interpreter, source)
    assert not failed, failed
    interpreters.destroy(interpreter)
    assert _core.generation() == before


def number_and_process_of_a_copy(how: str) -> None:
    first = _core.generation()
    process = UsernsProcess(COMMAND, uid_map="root")

    def act() -> None:
        assert _core.generation() != first
        process.close()

    in_copy(how, act)
    assert runs(process)
    process.close()


# ---- asyncio ----


class AsyncOwner:
    """Holds the only references to a process of asyncio and to its transport."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.transport: Any = process._transport

    def drop(self) -> None:
        del self.process, self.transport
        gc.collect()


ASYNC_ACTS: dict[str, Callable[[AsyncOwner], object]] = {
    "close": lambda owner: owner.transport.close(),
    "abandon": lambda owner: owner.transport.abandon(),
    "drop": AsyncOwner.drop,
}


async def use_loop_beside_a_copy(how: str, act: str) -> None:
    owner = AsyncOwner(await create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, uid_map="root"))
    copy = start_copy(how, lambda: ASYNC_ACTS[act](owner))
    while (ended := os.waitpid(copy, os.WNOHANG)) == (0, 0):
        await asyncio.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    process = owner.process
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"line\n")
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"line\n"
        process.stdin.close()
        assert await process.wait() == 0


def loop_beside_a_copy(how: str, act: str) -> None:
    asyncio.run(use_loop_beside_a_copy(how, act))
