"""Programs of ours that run within one call: nobody else hears of their end.

They read the maps of a namespace, and make one for another owner. exec(2) would have the
kernel tell of their end by SIGCHLD, and a `waitpid(-1)` elsewhere find them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

Script = Callable[..., str]

CALLS = """
import errno, os, signal, subprocess, sys, threading, time
from leaks import assert_unchanged, state
from usernsproc import create_userns, UsernsError
MAP = "0:100000:65536" if os.geteuid() == 0 else "root"
userns = create_userns(MAP, MAP)
def read_maps():
    assert userns.uid_map and userns.gid_map
def make_for_another():
    with create_userns(MAP, MAP, owner=1000) as made:
        assert made.owner_uid == 1000
calls = [read_maps, make_for_another] if os.geteuid() == 0 else [read_maps]
"""


def test_no_signal_is_sent(script: Script) -> None:
    script(
        CALLS
        + """
heard = []
signal.signal(signal.SIGCHLD, lambda *_: heard.append(1))
for call in calls * 10:
    call()
assert not heard, heard
subprocess.run(["true"])
assert heard == [1]
userns.close()
"""
    )


def test_no_stranger_is_found_by_who_reaps_any_child(script: Script) -> None:
    script(
        CALLS
        + """
found, done = [], threading.Event()
def reap():
    while not done.is_set():
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            continue
        if pid:
            found.append(pid)
thread = threading.Thread(target=reap)
thread.start()
for call in calls * 50:
    call()
done.set()
thread.join()
assert not found, found
userns.close()
"""
    )


def test_it_does_not_matter_whether_sigchld_is_ignored(script: Script) -> None:
    script(
        CALLS
        + """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for call in calls * 10:
    call()
userns.close()
"""
    )


@pytest.mark.root
@pytest.mark.parametrize("call", ["userns.uid_map", "make_for_another()"])
@pytest.mark.parametrize("how", ["entered", "made"])
def test_from_where_children_go_to_another_pid_namespace(how: str, call: str, script: Script) -> None:
    """There a child has another number than here. In a new one the first is process 1, and ends it."""
    script(
        CALLS
        + f"""
import native
from usernsproc import UsernsProcess
if "{how}" == "made":
    native.unshare(native.CLONE_NEWPID)
    {call}
else:
    with UsernsProcess(uid_map="root", namespaces=["pid"]) as holder, holder.namespace("pid") as pids, pids.enter():
        {call}
        {call}
userns.close()
"""
    )


def test_whoever_is_killed_on_the_way(script: Script) -> None:
    """Any child, and any child of a child, as soon as it is seen: an error that says so, and nothing is left."""
    output = script(
        CALLS
        + """
KILLER = '''
import os, signal, sys
def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []
deep = sys.argv[2] == "deep"
own = os.getpid()
print("ready", flush=True)
while True:
    for child in children(sys.argv[1]):
        if child == own:
            continue
        for victim in (children(child) if deep else [child]):
            try:
                os.kill(victim, signal.SIGKILL)
            except OSError:
                pass
'''
for depth in ("any", "deep"):
    killer = subprocess.Popen([sys.executable, "-c", KILLER, str(os.getpid()), depth], stdout=subprocess.PIPE)
    killer.stdout.readline()
    before = state()
    failed = 0
    for call in calls * 50:
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
userns.close()
"""
    )
    assert {line.split()[0] for line in output.splitlines()} == {"any", "deep"}
