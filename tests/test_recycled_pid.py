"""A process is identified by its pidfd: another process that got its PID is never affected.

The process was killed, or exited, and another part of the program reaped it;
then another child of this program gets its PID, deterministically.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from leaks import descriptors
from recycle import OtherProcess

from usernsproc import PIPE, IdMap, Namespace, UsernsError, UsernsProcess, idmapped_mount

pytestmark = pytest.mark.root

SLEEP = ("/bin/sleep", "1000")
EXIT_7 = ("/bin/sh", "-c", "exit 7")
SUBORDINATE = "0:100000:65536"

Process = UsernsProcess[Any]
Use = Callable[[Process], object]


@contextmanager
def recycled(pid: int, *, id_map: str = "") -> Iterator[OtherProcess]:
    """Process *pid*, which has exited, is reaped without its object, and another process gets its PID."""
    os.waitpid(pid, 0)
    other = OtherProcess(pid, id_map)
    untouched = other.traces()
    try:
        yield other
        assert other.traces() == untouched
    finally:
        assert other.end() == -signal.SIGKILL  # so it has not been reaped


def killed_command() -> Process:
    process = UsernsProcess(SLEEP, uid_map="root")
    os.kill(process.pid, signal.SIGKILL)
    return process


def killed_holder() -> Process:
    process = UsernsProcess(uid_map=SUBORDINATE, gid_map=SUBORDINATE)
    os.kill(process.pid, signal.SIGKILL)
    return process


def unmapped_holder() -> Process:
    process = UsernsProcess()
    os.kill(process.pid, signal.SIGKILL)
    return process


each_process = pytest.mark.parametrize("make", [killed_command, killed_holder])
Make = Callable[[], Process]


def test_the_other_process_would_notice() -> None:
    """The control experiment."""
    process = unmapped_holder()
    with pytest.raises(AssertionError), recycled(process.pid) as other:
        os.kill(other.pid, signal.SIGTERM)
        Path(f"/proc/{other.pid}/uid_map").write_text("0 0 1")
        assert other.traces()["signals of the process"] == f"{1 << signal.SIGTERM - 1:016x}"
        assert other.traces()["uid_map"].split() == ["0", "0", "1"]
    process.close()


SIGNALS: dict[str, Use] = {
    "send_signal": lambda process: process.send_signal(signal.SIGUSR1),
    "terminate": lambda process: process.terminate(),
    "kill": lambda process: process.kill(),
}


@each_process
@pytest.mark.parametrize("send", SIGNALS.values(), ids=SIGNALS)
def test_no_signal_is_sent_to_the_other_process(make: Make, send: Use) -> None:
    """As in Popen, signalling a process that has exited is not an error."""
    process = make()
    with recycled(process.pid):
        send(process)
        assert process.returncode == -signal.SIGKILL
        send(process)
        process.close()


WAITS: dict[str, Use] = {
    "poll": lambda process: process.poll(),
    "wait": lambda process: process.wait(),
    "wait with a timeout": lambda process: process.wait(timeout=10),
}


@each_process
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_the_other_process_is_not_waited_for_and_the_exit_status_is_the_real_one(make: Make, wait: Use) -> None:
    """Linux 6.15 keeps the status of a process that another thread has reaped."""
    process = make()
    with recycled(process.pid):
        assert wait(process) == process.returncode == -signal.SIGKILL
        process.close()


def test_the_exit_status_of_a_command_that_exited_is_the_real_one() -> None:
    process = UsernsProcess(EXIT_7, uid_map="root")
    os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOWAIT)
    with recycled(process.pid):
        assert process.wait() == 7
        process.close()


def test_communicate_gives_the_output_and_does_not_wait_for_the_other_process() -> None:
    process = UsernsProcess(("/bin/echo", "hello"), uid_map="root", stdout=PIPE)
    with recycled(process.pid):
        output, _ = process.communicate()
        assert output == b"hello\n"
        assert process.returncode == 0
        process.close()


@each_process
def test_waitid_says_that_it_has_been_reaped(make: Make) -> None:
    """The kernel still has the status, once."""
    process = make()
    with recycled(process.pid):
        for options in (os.WEXITED | os.WNOWAIT, os.WEXITED | os.WNOHANG):
            result = process.waitid(options)
            assert result is not None
            assert (result.si_pid, result.si_uid) == (process.pid, -1)
        for options in (os.WEXITED, os.WEXITED | os.WNOHANG, os.WEXITED | os.WNOWAIT):
            with pytest.raises(ChildProcessError):
                process.waitid(options)
        process.close()


@each_process
def test_close_leaves_the_other_process_alone(make: Make) -> None:
    process = make()
    with recycled(process.pid):
        process.close()
        assert process.returncode == -signal.SIGKILL


@each_process
def test_leaving_a_with_block_leaves_the_other_process_alone(make: Make) -> None:
    process = make()
    with recycled(process.pid):
        with process:
            pass
        assert process.returncode == -signal.SIGKILL


@each_process
def test_dropping_the_object_leaves_the_other_process_alone(make: Make) -> None:
    process = make()
    with recycled(process.pid), pytest.warns(ResourceWarning, match="still running"):
        del process


LOOKS: dict[str, Use] = {
    "namespace": lambda process: process.namespace(),
    "namespace mnt": lambda process: process.namespace("mnt"),
    "namespace_path": lambda process: process.namespace_path(),
    "uid_map": lambda process: process.uid_map,
    "gid_map": lambda process: process.gid_map,
    "write_uid_map": lambda process: process.write_uid_map(IdMap([(0, 0, 1)])),
    "write_gid_map": lambda process: process.write_gid_map("root"),
    "write_setgroups": lambda process: process.write_setgroups("deny"),
    "Namespace.of(process)": lambda process: Namespace.of(process),
    "Namespace.of(pidfd)": lambda process: Namespace.of(process.pidfd),
}


@pytest.mark.parametrize("make", [killed_command, killed_holder, unmapped_holder])
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_the_other_process_is_not_looked_at(make: Make, look: Use) -> None:
    """Neither before nor after it is known that the process has exited."""
    process = make()
    with recycled(process.pid):
        before = descriptors()
        for _ in range(2):
            with pytest.raises(ProcessLookupError) as caught:
                look(process)
            assert isinstance(caught.value, UsernsError)
            assert caught.value.step == "open_proc"
            assert process.wait() == -signal.SIGKILL
        assert descriptors() == before
        process.close()


def test_no_mount_gets_the_ids_of_the_other_process(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    process = killed_holder()
    with recycled(process.pid, id_map="0 100000 1"):
        with pytest.raises(ProcessLookupError):
            idmapped_mount(source, target, process)
        process.close()
        assert not target.is_mount()


@each_process
def test_a_process_that_was_waited_for_stays_ended(make: Make) -> None:
    """The usual case: reaped by its own object, long before the PID is used again."""
    process = make()
    assert process.wait() == -signal.SIGKILL
    other = OtherProcess(process.pid)
    untouched = other.traces()
    try:
        process.kill()
        assert process.poll() == process.wait() == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            process.namespace()
        process.close()
        assert other.traces() == untouched
    finally:
        assert other.end() == -signal.SIGKILL
