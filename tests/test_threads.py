"""Threads: many at once, ones that end, ones that differ, ones that reap."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from alone import run_alone
from programs import threads


def test_eight_threads_create_while_eight_others_compute() -> None:
    """10 000 namespaces: no deadlock; no descriptor, process or memory leaks."""
    run_alone(threads.create_in_eight_threads)


def test_eight_threads_run_commands_while_eight_others_compute() -> None:
    """A command of a thread has a keeper thread. No keeper thread is left."""
    run_alone(threads.run_in_eight_threads)


def test_create_userns_beside_a_thread_that_reaps_everything() -> None:
    """1 000 times, beside a loop on waitpid(-1), which finds no child of the library."""
    run_alone(threads.create_beside_a_reaper)


def test_create_userns_with_sigchld_ignored() -> None:
    run_alone(threads.create_with_sigchld_ignored)


def test_create_userns_sends_no_sigchld() -> None:
    run_alone(threads.create_with_a_handler_of_sigchld)


@pytest.mark.parametrize("args", [["sleep", "1000"], None])
def test_what_a_thread_started_outlives_the_thread(args: list[str] | None) -> None:
    """It ends when the process is killed."""
    run_alone(threads.thread_ends, args)


@pytest.mark.parametrize("from_thread", [False, True])
@pytest.mark.parametrize("changes_ids", [False, True])
def test_without_a_death_signal_a_command_outlives_the_process(from_thread: bool, changes_ids: bool) -> None:
    run_alone(threads.process_ends, from_thread, changes_ids)


@pytest.mark.parametrize("changes_ids", [False, True])
def test_another_death_signal(changes_ids: bool) -> None:
    """The command can catch it and exit in its own way."""
    run_alone(threads.command_catches_death_signal, changes_ids)


def test_the_reparent_check_does_not_misfire_in_a_new_pid_namespace() -> None:
    """There the parent is not visible and getppid() returns 0."""
    run_alone(threads.run_in_a_new_pid_namespace)


@pytest.mark.parametrize("changes_ids", [False, True])
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(threads.inherits_affinity, id="affinity"),
        pytest.param(threads.inherits_network_namespace, id="network namespace"),
        pytest.param(threads.inherits_seccomp_filter, id="seccomp filter"),
        pytest.param(threads.inherits_landlock_domain, id="landlock domain"),
        pytest.param(threads.inherits_signal_mask, id="signal mask"),
    ],
)
def test_a_command_inherits_from_the_calling_thread(changes_ids: bool, program: Callable[[bool], None]) -> None:
    run_alone(program, changes_ids)


@pytest.mark.parametrize("changes_ids", [False, True])
def test_the_calling_process_stays_dumpable(changes_ids: bool) -> None:
    """A change of IDs in shared memory would clear that, and an unprivileged process could then no
    longer open its children's maps."""
    run_alone(threads.caller_stays_dumpable, changes_ids)


def test_a_process_that_is_not_dumpable_stays_so() -> None:
    run_alone(threads.caller_stays_not_dumpable)


@pytest.mark.root
def test_an_unprivileged_daemon_that_was_root_creates_a_second_process() -> None:
    """It became dumpable again by execve(2). Changes of IDs in its children do not clear that."""
    run_alone(threads.daemon_starts_several)


def test_sixteen_threads_with_500_commands_each() -> None:
    """Each has the right output. There is no zombie, and no descriptor of a sibling: with close_fds, and without,
    where only close-on-exec prevents it."""
    run_alone(threads.run_in_sixteen_threads)


def test_commands_from_a_thread_while_another_changes_its_ids() -> None:
    """libc's setuid() reaches every thread by a signal, and holds a lock until all have answered."""
    run_alone(threads.run_while_ids_change)
