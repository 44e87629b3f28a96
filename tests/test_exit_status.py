"""The exit status is exact, for every kind of exit, and also when another thread has reaped the process."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alone import run_alone
from programs import exit_status

from usernsproc import UsernsProcess, _core, _system_calls

Reap = Callable[[UsernsProcess[bytes]], None]

NOT_TERMINATING = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
TERMINATING = sorted(set(signal.valid_signals()) - NOT_TERMINATING - STOPPING)
DUMPING = [signal.SIGQUIT, signal.SIGABRT, signal.SIGSEGV, signal.SIGXCPU]


def by_library(process: UsernsProcess[bytes]) -> None:
    pass


def by_another_thread(process: UsernsProcess[bytes]) -> None:
    os.waitpid(process.pid, 0)


kept_by_the_kernel = pytest.mark.kernel("6.15")
each_reaper = pytest.mark.parametrize("reap", [by_library, pytest.param(by_another_thread, marks=kept_by_the_kernel)])


@each_reaper
def test_exits_from_0_to_255(reap: Reap) -> None:
    for status in range(256):
        with UsernsProcess(["sh", "-c", f"exit {status}"]) as process:
            reap(process)
            assert process.wait() == status


@each_reaper
@pytest.mark.parametrize("sig", TERMINATING)
def test_each_terminating_signal(sig: int, reap: Reap) -> None:
    with UsernsProcess(["sleep", "1000"]) as process:
        process.send_signal(sig)
        reap(process)
        assert process.wait() == -sig


@each_reaper
@pytest.mark.parametrize("sig", DUMPING)
def test_waitid_reports_a_core_dump(sig: int, reap: Reap, tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    for allowed, code in ((limit[1], os.CLD_DUMPED), (0, os.CLD_KILLED)):
        resource.setrlimit(resource.RLIMIT_CORE, (allowed, limit[1]))
        try:
            with UsernsProcess(["sleep", "1000"], cwd=tmp_path, uid_map="root") as process:
                process.send_signal(sig)
                reap(process)
                result = process.waitid()
                assert result is not None
                assert (result.si_pid, result.si_status, result.si_code) == (process.pid, sig, code)
                assert process.wait() == -sig
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, limit)


@kept_by_the_kernel
def test_waitid_of_an_exit_that_another_thread_reaped() -> None:
    with UsernsProcess(["sh", "-c", "exit 9"]) as process:
        by_another_thread(process)
        result = process.waitid(os.WEXITED | os.WNOHANG)
        assert result is not None
        assert (result.si_status, result.si_code, result.si_uid) == (9, os.CLD_EXITED, -1)
        with pytest.raises(ChildProcessError):
            process.waitid()


@pytest.mark.kernel(before="6.15")
@pytest.mark.parametrize("command", [["sh", "-c", "exit 9"], ["sh", "-c", "kill -9 $$"]])
def test_where_the_kernel_does_not_keep_it_the_loss_is_reported(command: list[str]) -> None:
    with UsernsProcess(command, uid_map="root") as process:
        by_another_thread(process)
        with pytest.raises(ChildProcessError):
            process.waitid()
        with pytest.warns(RuntimeWarning, match="status is lost"):
            assert process.wait() == 255


def test_a_loss_that_is_an_error_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `python -W error`, where the warning is raised at the end of the block."""
    monkeypatch.setattr("usernsproc._processes.pidfd_popen._core.exit_status", lambda _: -1)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RuntimeWarning, match="status is lost"), UsernsProcess(["true"]) as process:
        by_another_thread(process)
    assert os.listdir("/proc/self/fd") == before


@kept_by_the_kernel
def test_with_sigchld_ignored() -> None:
    """The kernel then reaps the child."""
    run_alone(exit_status.with_sigchld_ignored)


@kept_by_the_kernel
def test_beside_a_thread_that_reaps_everything() -> None:
    run_alone(exit_status.beside_a_thread_that_reaps)


@kept_by_the_kernel
def test_beside_a_handler_that_reaps_everything() -> None:
    """Like servers with worker processes, which reap all exited children on each SIGCHLD."""
    run_alone(exit_status.beside_a_handler_that_reaps)


def test_waitid_and_wait_of_several_threads_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the kernel keeps no status for the second call."""
    monkeypatch.setattr("usernsproc._processes.pidfd_popen._core.exit_status", lambda _: -1)

    def look(process: UsernsProcess[bytes]) -> None:
        try:
            process.waitid()
        except ChildProcessError:
            pass  # the other one was first

    for _ in range(100):
        with UsernsProcess(["sh", "-c", "exit 7"]) as process:
            threads = [threading.Thread(target=process.wait), threading.Thread(target=look, args=(process,))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert process.returncode == 7


@kept_by_the_kernel
def test_the_kernel_is_asked_for_the_status_of_a_reaped_process_only() -> None:
    """A zombie has its status still: -2, unlike -1, where the kernel does not keep one."""
    child = os.fork()
    if child == 0:
        os._exit(7)
    with _system_calls.pidfd_open(child) as pidfd:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        assert _core.exit_status(pidfd) == -2
        os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(_core.exit_status(pidfd)) == 7
