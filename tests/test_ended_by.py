"""How a command ended is reported: its signal also below an init, and the limit that ended it."""

from __future__ import annotations

import asyncio
import os
import pickle
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alone
import cgroups
import pytest
from alone import run_alone
from programs import ended_by

from usernsproc import CalledProcessError, CompletedCommand, UsernsProcess, aio, check_call, check_output, run
from usernsproc._cgroups import OomKills

WITHOUT_INIT: dict[str, Any] = {"uid_map": "root"}
WITH_INIT: dict[str, Any] = {"uid_map": "root", "namespaces": ["pid"], "init": True}
each_way = pytest.mark.parametrize("options", [WITHOUT_INIT, WITH_INIT], ids=["command", "below init"])

SPIN = "while :; do :; done"
WRITES = "exec cat /proc/self/maps"
LIMITS = [
    (f"ulimit -S -t 1; {SPIN}", -signal.SIGXCPU, "cpu-limit"),
    (f"ulimit -t 1; {SPIN}", -signal.SIGKILL, "cpu-limit"),
    (f"ulimit -f 0; {WRITES}", -signal.SIGXFSZ, "file-size-limit"),
    ("ulimit -t 100; kill -9 $$", -signal.SIGKILL, None),
    ("kill -9 $$", -signal.SIGKILL, None),
    ("ulimit -c 0; kill -SEGV $$", -signal.SIGSEGV, None),
    ("exit 137", 137, None),
    ("exit 0", 0, None),
]


@each_way
@pytest.mark.parametrize(("script", "returncode", "limit"), LIMITS)
def test_a_limit_that_ends_a_command_is_reported(
    script: str, returncode: int, limit: str | None, options: dict[str, Any], tmp_path: Path
) -> None:
    with (tmp_path / "output").open("wb") as output, UsernsProcess(["sh", "-c", script], stdout=output, **options) as p:
        assert p.ended_by is None
        assert p.wait(timeout=60) == returncode
        assert p.ended_by == limit


@each_way
def test_a_seccomp_filter_that_kills_is_reported(options: dict[str, Any]) -> None:
    command = alone.command(ended_by.killed_by_seccomp)
    done = run(command, env=alone.environment(), **options)
    assert (done.returncode, done.ended_by) == (-signal.SIGSYS, "seccomp")


@each_way
@pytest.mark.parametrize("sig", [signal.SIGXCPU, signal.SIGSYS, signal.SIGKILL])
def test_a_signal_of_the_caller_is_not_a_limit(sig: signal.Signals, options: dict[str, Any]) -> None:
    with UsernsProcess(["sleep", "1000"], **options) as process:
        process.send_signal(sig)
        assert (process.wait(timeout=60), process.ended_by) == (-sig, None)


@pytest.mark.parametrize("sig", sorted({signal.SIGKILL, signal.SIGTERM, signal.SIGXCPU, signal.SIGRTMAX}))
def test_an_exit_status_below_init_is_not_a_signal(sig: int) -> None:
    assert run(["sh", "-c", f"exit {128 + sig}"], **WITH_INIT).returncode == 128 + sig
    assert run(["sh", "-c", f"ulimit -c 0; kill -{int(sig)} $$"], **WITH_INIT).returncode == -sig


def test_an_init_that_is_killed_from_outside_is_reported_as_killed() -> None:
    with UsernsProcess(["sleep", "1000"], **WITH_INIT) as process:
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL


@pytest.mark.parametrize("options", [os.WEXITED, os.WEXITED | os.WNOWAIT, os.WEXITED | os.WNOHANG])
def test_waitid_reports_the_command_below_init(options: int, tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    for allowed, code in ((limit[1], os.CLD_DUMPED), (0, os.CLD_KILLED)):
        resource.setrlimit(resource.RLIMIT_CORE, (allowed, limit[1]))
        try:
            with UsernsProcess(["sh", "-c", "kill -SEGV $$"], cwd=tmp_path, **WITH_INIT) as process:
                os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOWAIT)
                result = process.waitid(options)
                assert result is not None
                assert (result.si_pid, result.si_status, result.si_code) == (process.pid, signal.SIGSEGV, code)
            assert process.returncode == -signal.SIGSEGV
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, limit)


@pytest.mark.kernel("6.15")
def test_the_signal_is_known_if_other_code_reaped_init() -> None:
    with UsernsProcess(["sh", "-c", "kill -9 $$"], **WITH_INIT) as process:
        _, status = os.waitpid(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGKILL
        assert process.wait() == -signal.SIGKILL


@pytest.mark.kernel("6.15")
def test_a_forked_copy_does_not_take_the_report_away() -> None:
    run_alone(ended_by.read_in_a_copy_first)


def test_a_forged_report_is_not_believed() -> None:
    """A process that may trace init can send with its socket: a report has to agree with the exit status of init."""
    run_alone(ended_by.forge)


def test_neither_init_nor_its_command_has_a_descriptor_more() -> None:
    script = "ls -l /proc/self/fd | grep -c socket; ls /proc/1/fd"
    options = {**WITH_INIT, "mount_proc": True, "close_fds": False}
    done = run(["sh", "-c", script], capture_output=True, text=True, **options)
    assert done.stdout.split() in (["0", "1"], ["0"])


@pytest.mark.parametrize("finish", [lambda p: p.wait(), lambda p: p.close(), lambda p: os.close(p.detach_pidfd())])
def test_the_socket_is_closed_with_the_process(finish: Callable[[UsernsProcess[bytes]], object]) -> None:
    process = UsernsProcess(["true"], **WITH_INIT)
    os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOWAIT)
    finish(process)
    assert not [link for link in map(link_of, os.listdir("/proc/self/fd")) if link.startswith("socket")]
    if process.returncode is None:
        os.waitpid(process.pid, 0)
    else:
        process.close()


def link_of(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""


# ---- what has it as an attribute ----

OVER = ["sh", "-c", f"ulimit -f 0; {WRITES}"]


def test_run_and_its_errors_have_it(tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        done = run(OVER, stdout=output, uid_map="root")
        assert isinstance(done, CompletedCommand)
        assert done.ended_by == "file-size-limit"
        assert repr(done).endswith(", ended_by='file-size-limit')")
        assert pickle.loads(pickle.dumps(done)).ended_by == "file-size-limit"
        with pytest.raises(CalledProcessError) as of_run:
            run(OVER, stdout=output, uid_map="root", check=True)
        with pytest.raises(CalledProcessError) as of_check_call:
            check_call(OVER, stdout=output, uid_map="root")
    for error in (of_run.value, of_check_call.value, pickle.loads(pickle.dumps(of_run.value))):
        assert vars(error)["ended_by"] == "file-size-limit"
        assert "RLIMIT_FSIZE" in error.__notes__[0]
    with pytest.raises(CalledProcessError) as caught:
        check_output(["false"], uid_map="root")
    assert vars(caught.value)["ended_by"] is None
    assert not hasattr(caught.value, "__notes__")


def test_asyncio_has_it(tmp_path: Path) -> None:
    async def ended() -> object:
        with (tmp_path / "output").open("wb") as output:
            process = await aio.create_subprocess_exec(*OVER, stdout=output, **WITH_INIT)
        return process.ended_by, await process.wait(), process.ended_by

    assert asyncio.run(ended()) == (None, -signal.SIGXFSZ, "file-size-limit")


# ---- memory ----


def test_the_counter_of_the_cgroup_shows_that_memory_ran_out(tmp_path: Path) -> None:
    """What counts is what was added since the start."""
    events = tmp_path / "memory.events"
    directory = os.open(tmp_path, os.O_PATH)
    for before, after, expected in (("oom_kill 3", "oom_kill 3", False), ("oom_kill 3", "oom_kill 4", True)):
        events.write_text(f"low 0\n{before}\n")
        kills = OomKills(directory)
        events.write_text(f"low 9\n{after}\n")
        assert kills.have_happened() is expected
        kills.close()
    events.unlink()
    kills = OomKills(directory)
    assert not kills.have_happened()
    kills.close()
    os.close(directory)


@pytest.mark.root
@pytest.mark.cgroup2("memory")
@each_way
def test_the_out_of_memory_killer_is_reported(options: dict[str, Any]) -> None:
    with cgroups.cgroup("memory") as cgroup:
        (cgroup / "memory.max").write_text(str(32 << 20))
        (cgroup / "memory.oom.group").write_text("0")
        done = run(["sh", "-c", "exec tail /dev/zero"], cgroup=cgroup, **options)
    assert (done.returncode, done.ended_by) == (-signal.SIGKILL, "out-of-memory")
