"""Programs that become a command."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import usernsproc
from usernsproc import setup


def _options(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "setup": [eval(step, vars(setup)) for step in options.pop("setup", [])]}


def become(args: list[str], options: dict[str, Any]) -> None:
    usernsproc.execvp(args, **_options(options))


def become_in_thread(args: list[str], options: dict[str, Any]) -> None:
    """While another thread runs, and the main thread waits."""
    threading.Thread(target=signal.pause, daemon=True).start()
    thread = threading.Thread(target=become, args=(args, options))
    thread.start()
    thread.join()


def _state() -> dict[str, Any]:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = ("CapInh", "CapPrm", "CapEff", "CapAmb", "SigBlk", "SigIgn", "SigCgt", "Uid", "Gid", "Groups", "Threads")
    return {
        **{name: status[name] for name in names},
        "descriptors": {fd: os.get_inheritable(int(fd)) for fd in os.listdir("/proc/self/fd")[:-1] if _is_open(fd)},
        "namespaces": [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "pid", "net", "uts")],
        "limit": resource.getrlimit(resource.RLIMIT_NOFILE),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus": sorted(os.sched_getaffinity(0)),
        "score": Path("/proc/self/oom_score_adj").read_text(),
        "umask": status["Umask"],
        "cwd": os.getcwd(),
    }


def _is_open(fd: str) -> bool:
    try:
        os.fstat(int(fd))
    except OSError:
        return False
    return True


def fail_and_compare(options: dict[str, Any], image: bool) -> None:
    """An execution that fails leaves the process as it was. *image*: because the launcher cannot be executed."""
    args = ["true"]
    if image:
        args += ["x" * 100_000] * 100  # E2BIG: of the launcher, which gets the arguments as well
    usernsproc.UsernsProcess(["true"], uid_map="root").wait()  # what is loaded and kept open once
    before = _state()
    try:
        usernsproc.execvp(args, **_options(options))
    except (OSError, ValueError) as error:
        print(type(error).__name__, error)
    assert _state() == before, (before, _state())
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        raise AssertionError("a child is left")
    except ChildProcessError:
        sys.exit(0)
