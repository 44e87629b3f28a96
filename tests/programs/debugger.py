"""A program that uses the package in its main thread and in another thread."""

from __future__ import annotations

import os
import threading

from usernsproc import UsernsProcess, check_output, create_userns


def use() -> None:
    assert check_output(["id", "-u"], uid_map="root") == b"0\n"
    assert check_output(["id", "-u"], uid_map="root", user=0) == b"0\n"
    with UsernsProcess(uid_map="root") as holder, holder.namespace() as userns:
        assert userns.uid_map == holder.uid_map
    with create_userns("root", "root") as userns:
        assert userns.uid_map


def use_between_two_breakpoints() -> None:
    """Call `getppid(2)`, on which the breakpoints are, before and after everything else."""
    os.getppid()
    use()
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    print("before the last breakpoint", flush=True)
    os.getppid()
    print("it went on to its end", flush=True)
