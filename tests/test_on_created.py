"""Calls of on_created: the child exists and has not run the command yet."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from alone import run_alone
from programs import on_created

from usernsproc import PIPE, UsernsError, UsernsProcess, run

SHIFTED: dict[str, Any] = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
WAYS = [
    pytest.param({"uid_map": "root"}, id="command"),
    pytest.param(SHIFTED, id="launcher", marks=pytest.mark.root),
]


@pytest.mark.parametrize("options", WAYS)
def test_it_sees_the_child_mapped_and_not_yet_started(options: dict[str, Any]) -> None:
    seen: list[object] = []

    def look(process: UsernsProcess[bytes]) -> None:
        seen.extend([process, process.pid, process.pidfd, process.poll(), bool(process.uid_map)])
        with process.namespace() as userns:
            seen.append(userns.owner_uid)
        with open(f"/proc/{process.pid}/comm") as file:
            seen.append(file.read() == "sh\n")

    with UsernsProcess(["sh", "-c", "exit 0"], on_created=look, **options) as process:
        assert seen == [process, process.pid, process.pidfd, None, True, os.geteuid(), False]
    assert process.returncode == 0


def test_it_is_called_for_a_holder_too() -> None:
    seen = []
    with UsernsProcess(uid_map="root", on_created=lambda process: seen.append(process.pid)) as holder:
        assert seen == [holder.pid]


def own_descriptors() -> dict[str, str]:
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return {link: os.readlink(link) for link in links if os.path.islink(link)}


@pytest.mark.parametrize("options", [*WAYS, pytest.param(None, id="holder"), pytest.param({}, id="unmapped")])
def test_no_directory_of_proc_is_open_that_a_fork_could_copy(options: dict[str, Any] | None) -> None:
    seen: list[str] = []
    args, given = (None, {"uid_map": "root"}) if options is None else (["true"], options)
    before = own_descriptors().values()
    with UsernsProcess(args, on_created=lambda _: seen.extend(own_descriptors().values()), **given):
        assert seen
        assert [link for link in seen if link.startswith("/proc") and link not in before] == []


@pytest.mark.parametrize("options", [*WAYS, pytest.param(None, id="holder")])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_it_leaves_nothing(options: dict[str, Any] | None, error: type[BaseException]) -> None:
    pids = []

    def fail(process: UsernsProcess[bytes]) -> None:
        pids.append(process.pid)
        raise error

    with pytest.raises(error):
        if options is None:
            UsernsProcess(uid_map="root", on_created=fail)
        else:
            UsernsProcess(["true"], stdin=PIPE, stdout=PIPE, on_created=fail, **options)
    assert not os.path.exists(f"/proc/{pids[0]}")


def test_what_cannot_be_called_is_refused() -> None:
    for args in (["true"], None):
        with pytest.raises(TypeError, match="on_created is called with the process, and 5 cannot be"):
            UsernsProcess(args, uid_map="root", on_created=cast("Any", 5))


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("end", [lambda p: os.kill(p.pid, signal.SIGKILL), UsernsProcess.kill, UsernsProcess.close])
def test_a_child_killed_meanwhile_is_a_clear_error(options: dict[str, Any], end: Callable[[Any], object]) -> None:
    with pytest.raises(ProcessLookupError) as caught:
        UsernsProcess(["true"], on_created=end, **options)
    assert isinstance(caught.value, UsernsError)
    assert (caught.value.step, caught.value.cause) == ("on_created", "child-killed")


def test_a_holder_killed_meanwhile_is_a_clear_error() -> None:
    def end(process: UsernsProcess[bytes]) -> None:
        process.kill()
        process.wait(timeout=60)

    with pytest.raises(ProcessLookupError) as caught:
        UsernsProcess(uid_map="root", on_created=end)
    assert isinstance(caught.value, UsernsError)
    assert caught.value.step == "on_created"


def test_waiting_in_it_would_never_end_and_is_refused() -> None:
    with pytest.raises(RuntimeError, match="on_created"):
        UsernsProcess(["true"], on_created=lambda process: process.wait())


def test_a_pidfd_detached_in_it_stays_open() -> None:
    detached: list[int] = []
    process = UsernsProcess(["true"], on_created=lambda process: detached.append(process.detach_pidfd()))
    result = os.waitid(os.P_PIDFD, detached[0], os.WEXITED)
    os.close(detached[0])
    assert result is not None
    assert result.si_pid == process.pid


def test_other_threads_start_processes_meanwhile() -> None:
    statuses = []

    def start_others(_: UsernsProcess[bytes]) -> None:
        threads = [threading.Thread(target=lambda: statuses.append(run(["true"], uid_map="root"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    assert run(["true"], uid_map="root", on_created=start_others).returncode == 0
    assert [result.returncode for result in statuses] == [0] * 4


def test_a_pipe_of_the_parent_is_not_kept_open_by_the_waiting_child() -> None:
    """If on_created waits for the end of the pipe, it would wait forever."""
    reader, writer = os.pipe()

    def wait_for_the_end(_: UsernsProcess[bytes]) -> None:
        os.close(writer)
        while os.read(reader, 1):
            pass

    assert run(["true"], uid_map="root", on_created=wait_for_the_end).returncode == 0
    os.close(reader)


@pytest.mark.root
def test_a_network_interface_is_moved_in_before_the_program_starts() -> None:
    """This is its main use. The test runs in a new network namespace."""
    run_alone(on_created.move_an_interface_in)
