"""The programs of `test_same_as_popen.py`."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import time
import warnings
from importlib import import_module

from usernsproc import UsernsProcess


def keep_to_the_end(keeper: str) -> None:
    """Store an ended process and a running one in a module of the standard library."""
    module = vars(import_module(keeper))
    module["ended"] = UsernsProcess(["true"], uid_map="root")
    module["running"] = UsernsProcess(["sleep", "60"], uid_map="root")
    time.sleep(0.1)


def use_the_pid() -> None:
    received = []
    signal.signal(signal.SIGCHLD, lambda *_: received.append("SIGCHLD"))
    process = UsernsProcess(["sleep", "60"], uid_map="root")
    os.kill(process.pid, signal.SIGTERM)
    assert os.waitpid(process.pid, 0) == (process.pid, signal.SIGTERM)
    assert received == ["SIGCHLD"]
    process.close()


def ignore_sigchld() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    assert subprocess.Popen(["false"]).wait() == 0
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        returncode = UsernsProcess(["false"], uid_map="root").wait()
    assert (returncode, len(warned)) in ((1, 0), (255, 1)), (returncode, warned)


async def run_by_asyncio() -> None:
    process = await asyncio.create_subprocess_exec("sh", "-c", "cat; id -u; exit 3", stdin=-1, stdout=-1)
    output: tuple[object, object] = await process.communicate(b"in\n")
    assert output == (b"in\n0\n", None)
    assert process.returncode == 3


def replace_popen() -> None:
    vars(subprocess)["Popen"] = functools.partial(UsernsProcess, uid_map="root")
    asyncio.run(run_by_asyncio())
