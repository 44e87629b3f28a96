"""Forked copies of the program: a process is no child of theirs, and stays as it is.

Python's hooks see only the forks that Python makes. Servers written in C, such as uWSGI,
fork without them, and so does any library.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

Script = Callable[..., str]

FORKS = {
    "os.fork": "fork = os.fork",
    "fork(2) by C": "fork = ctypes.PyDLL(None).fork",
    "clone(2) by C": """
NR_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "s390x": 120, "ppc64le": 120}[os.uname().machine]
def fork():
    flags = (0, signal.SIGCHLD) if os.uname().machine == "s390x" else (signal.SIGCHLD, 0)
    return ctypes.PyDLL(None).syscall(NR_CLONE, *flags, 0, 0, 0)
""",
}

HELPERS = """
import ctypes, errno, gc, os, signal, sys, threading, time, traceback
import usernsproc
from usernsproc import UsernsProcess, _core

def in_copy(call):
    '''Run it in a forked copy of this program, which has to get through it.'''
    pid = fork()
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
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def raises(error, call):
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error}")

def runs(process):
    with open(f"/proc/{process.pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] in "RSD"  # not stopped, and not ended
"""

each_fork = pytest.mark.parametrize("how", FORKS)


def program(how: str, body: str) -> str:
    return HELPERS + FORKS[how] + body


@each_fork
@pytest.mark.parametrize(
    "act",
    [
        "assert process.poll() is None",
        "process.kill()",
        "process.terminate()",
        "process.send_signal(signal.SIGSTOP)",
        "process.close()",
        "del process; gc.collect()",
        "process.__exit__(None, None, None)",
        "raises(ChildProcessError, process.wait)",
        "raises(ChildProcessError, lambda: process.wait(timeout=20))",
    ],
)
@pytest.mark.parametrize("args", [None, ["sleep", "1000"]], ids=["holder", "command"])
def test_the_process_of_the_first_runs_on(args: list[str] | None, act: str, how: str, script: Script) -> None:
    script(
        program(
            how,
            f"""
process = UsernsProcess({args!r}, uid_map="root")
def act():
    global process
    {act}
in_copy(act)
assert runs(process)
assert process.poll() is None
process.close()
""",
        )
    )


@each_fork
def test_a_copy_has_processes_of_its_own(how: str, script: Script) -> None:
    script(
        program(
            how,
            """
first = UsernsProcess(uid_map="root")
def work():
    assert usernsproc.check_output(["id", "-u"], uid_map="root") == b"0\\n"
    own = UsernsProcess(["sleep", "1000"], uid_map="root")
    def work_deeper():
        own.close()
        first.close()
    in_copy(work_deeper)
    assert runs(own) and runs(first)
    own.kill()
    assert own.wait() == -signal.SIGKILL
    own.close()
for _ in range(3):
    in_copy(work)
assert runs(first)
first.close()
assert first.returncode == -signal.SIGKILL
""",
        )
    )


@each_fork
def test_a_copy_in_a_pid_namespace_with_the_same_pid(how: str, script: Script) -> None:
    """The number of a process does not say whether it is a copy."""
    script(
        program(
            how,
            """
import native
def new_pid_namespace():
    maps = {"setgroups": "deny", "uid_map": f"0 {os.geteuid()} 1", "gid_map": f"0 {os.getegid()} 1"}
    native.unshare(native.CLONE_NEWUSER | native.CLONE_NEWPID)
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
def inside():
    def first_process():
        assert os.getpid() == 1
        process = UsernsProcess(["sleep", "1000"], uid_map="root")
        def deeper():
            def first_process_again():
                assert os.getpid() == 1
                process.close()
            new_pid_namespace()
            in_copy(first_process_again)
        in_copy(deeper)
        assert process.poll() is None
        process.close()
    new_pid_namespace()
    in_copy(first_process)
in_copy(inside)
""",
        )
    )


@each_fork
def test_every_copy_has_another_number(how: str, script: Script) -> None:
    """In all threads and interpreters of one process it is the same."""
    script(
        program(
            how,
            """
from concurrent.futures import ThreadPoolExecutor
first = _core.generation()
def look():
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: _core.generation(), range(100)))
    assert len(found) == 1
    own = found.pop()
    assert own > first
    def look_deeper():
        assert _core.generation() > own
    in_copy(look_deeper)
in_copy(look)
in_copy(look)
assert _core.generation() == first
""",
        )
    )


def test_an_interpreter_shares_the_number_with_the_others(script: Script) -> None:
    script(
        HELPERS
        + """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
before = _core.generation()
interpreter = interpreters.create()
failed = interpreters.run_string(interpreter, f"import sys; sys.path[:] = {sys.path!r}\\n"
                        f"from usernsproc import _core; assert _core.generation() == {before}")
assert not failed, failed
interpreters.destroy(interpreter)
assert _core.generation() == before
"""
    )


def test_where_the_kernel_cannot_empty_a_page_libc_tells_of_forks(script: Script) -> None:
    """A sandbox that implements less of madvise(2), as gVisor does."""
    script(
        """
import errno, os
import native
NR_MADVISE = {"x86_64": 28, "aarch64": 233, "riscv64": 233, "s390x": 219, "ppc64le": 206}[os.uname().machine]
native.refuse_system_call(NR_MADVISE, errno.EINVAL)
"""
        + program(
            "fork(2) by C",
            """
first = _core.generation()
process = UsernsProcess(["sleep", "1000"], uid_map="root")
def act():
    assert _core.generation() != first
    process.close()
in_copy(act)
assert runs(process)
process.close()
""",
        )
    )


@pytest.mark.parametrize("how", FORKS)
@pytest.mark.parametrize("act", ["transport.close()", "transport.abandon()", "del process, transport; gc.collect()"])
def test_the_loop_of_the_first_is_told_as_before(act: str, how: str, script: Script) -> None:
    """asyncio's selector is shared with a copy: what that removes from it is removed for both."""
    script(
        program(
            how,
            f"""
import asyncio
from usernsproc.aio import create_subprocess_exec
async def main():
    process = await create_subprocess_exec("cat", stdin=-1, stdout=-1, uid_map="root")
    transport = process._transport
    def act():
        nonlocal process, transport
        {act}
    pid = fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(0)
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        await asyncio.sleep(0.01)
    process.stdin.write(b"line\\n")
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"line\\n"
        process.stdin.close()
        assert await process.wait() == 0
asyncio.run(main())
""",
        )
    )
