"""The programs of `test_hidden_helpers.py`."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import native
from alone import command, environment
from leaks import assert_unchanged, state

from usernsproc import UsernsError, UsernsProcess, create_userns

MAP = "0:100000:65536" if os.geteuid() == 0 else "root"


class Calls:
    """Calls that run a helper program."""

    def __init__(self) -> None:
        self.userns = create_userns(MAP, MAP)
        self.all: list[Callable[[], None]] = [self.read_maps]
        if os.geteuid() == 0:
            self.all.append(self.make_for_another)

    def read_map(self) -> None:
        assert self.userns.uid_map

    def read_maps(self) -> None:
        assert self.userns.uid_map
        assert self.userns.gid_map

    def make_for_another(self) -> None:
        with create_userns(MAP, MAP, owner=1000) as made:
            assert made.owner_uid == 1000


def call_with_a_handler_of_sigchld() -> None:
    calls = Calls()
    heard = []
    signal.signal(signal.SIGCHLD, lambda *_: heard.append(1))
    for call in calls.all * 10:
        call()
    assert not heard, heard
    subprocess.run(["true"])
    assert heard == [1]
    calls.userns.close()


def call_beside_a_reaper() -> None:
    calls = Calls()
    found: list[int] = []
    done = threading.Event()

    def reap() -> None:
        while not done.is_set():
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                continue
            if pid:
                found.append(pid)

    thread = threading.Thread(target=reap)
    thread.start()
    for call in calls.all * 50:
        call()
    done.set()
    thread.join()
    assert not found, found
    calls.userns.close()


def call_with_sigchld_ignored() -> None:
    calls = Calls()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for call in calls.all * 10:
        call()
    calls.userns.close()


def call_where_children_go_elsewhere(how: str, name: str) -> None:
    """Call where children get into a PID namespace that was "made" here, or is "entered"."""
    calls = Calls()
    call: Callable[[], None] = getattr(calls, name)
    if how == "made":
        native.unshare(native.CLONE_NEWPID)
        call()
    else:
        with UsernsProcess(uid_map="root", namespaces=["pid"]) as holder, holder.namespace("pid") as pids, pids.enter():
            call()
            call()
    calls.userns.close()


def children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def kill_children(parent: int, depth: str) -> None:
    """Kill all children of *parent* except this process, forever; or, if *depth* is "deep", the children of these."""
    own = os.getpid()
    print("ready", flush=True)
    while True:
        for child in children(parent):
            if child == own:
                continue
            for victim in children(child) if depth == "deep" else [child]:
                try:
                    os.kill(victim, signal.SIGKILL)
                except OSError:
                    pass


def call_beside_a_killer() -> None:
    calls = Calls()
    for depth in ("any", "deep"):
        killing = command(kill_children, os.getpid(), depth)
        killer = subprocess.Popen(killing, stdout=subprocess.PIPE, env=environment())
        assert killer.stdout is not None
        killer.stdout.readline()
        before = state()
        failed = 0
        for call in calls.all * 50:
            try:
                call()
            except UsernsError as error:
                assert error.errno == errno.ESRCH, (error, error.step)
                failed += 1
        assert_unchanged(before)
        killer.kill()
        killer.wait()
        killer.stdout.close()
        print(depth, failed)
    calls.userns.close()
