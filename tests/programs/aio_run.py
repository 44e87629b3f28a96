"""The programs of `test_aio_run.py`."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys

from leaks import children

from usernsproc import aio

HELD = """
import os, sys
os.write(int(sys.argv[1]), b"x")
while True:
    os.getpid()
"""
"""A command that is running, not sleeping, when it is killed."""


def encoding_warning() -> None:
    source = "import asyncio\nfrom usernsproc import aio\nasync def main():\n"
    source += "    await aio.check_output(['true'], text=True)\nasyncio.run(main())\n"
    command = [sys.executable, "-X", "warn_default_encoding", "-c", source]
    warned = subprocess.run(command, capture_output=True, encoding="utf-8").stderr
    assert warned.count("EncodingWarning") == 1, warned
    assert warned.startswith("<string>:4: EncodingWarning"), warned


def interrupted() -> None:
    async def interrupt_when_started() -> None:
        while not children():
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    async def main() -> None:
        interrupting = asyncio.ensure_future(interrupt_when_started())
        try:
            await aio.run(["sleep", "1000"], uid_map="root")
        finally:
            await interrupting

    assert inspect.iscoroutinefunction(aio.run)
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("interrupted," if not children() else f"interrupted, {children()}", "no child")
