"""Descriptors that the core keeps open for the next call: a pidfd of the process, the proven /proc.

A program may close them, put other files at their numbers, and fork.
"""

from __future__ import annotations

import errno
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from alone import command, environment, run_alone
from leaks import INITIAL_USERNS, PIDFD, PROC
from native import KERNEL
from programs import forks, kept

each_fork = pytest.mark.parametrize("how", forks.FORKS)
where_all_are_kept = pytest.mark.kernel("6.9")
REFUSALS = [errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG]
WAYS = [pytest.param(kept.WAYS[0], id="without launcher"), pytest.param(kept.WAYS[1], id="with launcher")]


def test_they_are_opened_by_the_first_command() -> None:
    """Close-on-exec, and above 2. Each is kept from the kernel on that lets it be recognised."""
    before, after, odd = json.loads(run_alone(kept.print_what_is_kept))
    assert (before, odd) == ([], [])
    expected = {name for name, since in ((PROC, (6, 8)), (PIDFD, (6, 9))) if since <= KERNEL}
    assert {*after} - {INITIAL_USERNS} == expected


def test_none_is_0_1_or_2() -> None:
    run_alone(kept.standard_descriptors_are_closed)


@where_all_are_kept
@pytest.mark.parametrize("name", [PIDFD, PROC])
def test_another_file_at_the_number_stays_open(name: str) -> None:
    run_alone(kept.replaced_by_another_file, name)


@where_all_are_kept
def test_the_pidfd_of_another_process_at_the_number_is_not_used() -> None:
    run_alone(kept.replaced_by_the_pidfd_of_another_process)


@where_all_are_kept
def test_the_pidfd_of_a_thread_at_the_number_is_not_used() -> None:
    run_alone(kept.replaced_by_the_pidfd_of_a_thread)


@pytest.mark.root
@where_all_are_kept
def test_another_procfs_at_the_number_is_not_used() -> None:
    run_alone(kept.replaced_by_another_procfs)


@where_all_are_kept
def test_a_program_that_closes_them_again_and_again() -> None:
    run_alone(kept.closed_again_and_again)


@where_all_are_kept
@each_fork
def test_a_forked_copy_has_its_own(how: str) -> None:
    run_alone(kept.in_a_forked_copy, how)


@where_all_are_kept
@each_fork
def test_another_file_at_the_number_in_a_forked_copy_stays_open(how: str) -> None:
    run_alone(kept.replaced_in_a_forked_copy, how)


@each_fork
def test_a_holder_of_a_forked_copy_ends_with_the_copy(how: str) -> None:
    run_alone(kept.holder_of_a_forked_copy, how)


@where_all_are_kept
def test_threads_that_start_commands_at_once() -> None:
    run_alone(kept.by_many_threads_at_once)


@pytest.mark.root
@where_all_are_kept
def test_proc_can_be_unmounted_lazily_or_after_they_are_closed() -> None:
    run_alone(kept.proc_is_unmounted)


@where_all_are_kept
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=lambda error: errno.errorcode[error])
def test_where_the_file_at_a_number_cannot_be_determined_nothing_is_replaced(error: int) -> None:
    """A seccomp filter that refuses statx(2)."""
    run_alone(kept.what_is_there_cannot_be_looked_at, error)


@where_all_are_kept
@pytest.mark.parametrize("error", [errno.EPERM, errno.EMFILE], ids=lambda error: errno.errorcode[error])
def test_a_pidfd_that_is_not_kept_and_cannot_be_opened_is_an_error(error: int) -> None:
    run_alone(kept.no_pidfd_can_be_opened, error)


# ---- clone3(2), which resets the handlers of a command without launcher ----


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: errno.errorcode[error])
def test_where_clone3_is_refused_clone_is_used(error: int) -> None:
    run_alone(kept.clone3_is_refused, error)


def test_no_handler_runs_in_a_command_without_launcher() -> None:
    run_alone(kept.no_handler_runs_in_a_command_without_launcher)


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "EINVAL"])
def test_that_clone3_is_refused_is_remembered(error: str, tmp_path: Path) -> None:
    """Ten commands without a launcher call it once."""
    log = tmp_path / "log"
    strace = ["strace", "-f", "-qq", "-o", str(log), "-e", "trace=clone3", "-e", f"inject=clone3:error={error}"]
    subprocess.run([*strace, *command(kept.start_some)], env=environment(), check=True)
    refused = [line for line in log.read_text().splitlines() if "CLONE_CLEAR_SIGHAND" in line]
    assert len(refused) == 1, refused


def signals_of(printed: str) -> list[int]:
    return [int(word, 16) for word in printed.split()]


@pytest.mark.parametrize("program", [kept.print_signals, kept.print_signals_after_a_refusal])
@pytest.mark.parametrize("options", WAYS)
def test_handlers_are_reset_and_ignored_signals_stay_ignored(program: Any, options: dict[str, Any]) -> None:
    """Except SIGPIPE and SIGXFSZ, which Python ignores itself (`restore_signals`)."""
    blocked, ignored, caught = signals_of(run_alone(program, options))
    callers_blocked, callers_ignored, callers_caught = signals_of(run_alone(kept.print_signals, {}))
    assert callers_caught != 0
    assert (blocked, caught) == (callers_blocked, 0)
    assert ignored == callers_ignored & ~(1 << 12 | 1 << 24)
