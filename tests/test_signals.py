"""Signals to a program that starts processes."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

import pytest
from alone import A_HANG, command, environment, run_alone
from programs import signals

WAYS: list[dict[str, Any]] = [{"uid_map": "root"}, {"uid_map": "root", "user": 0, "group": 0}]


@pytest.mark.parametrize("options", WAYS)
def test_no_signal_is_lost_while_the_program_spawns(options: dict[str, Any]) -> None:
    """Thousands of queued signals: each writes a byte to the wakeup descriptor, once."""
    run_alone(signals.spawn_while_signals_come, options)


@pytest.mark.parametrize("options", WAYS)
def test_no_handler_runs_in_a_child(options: dict[str, Any]) -> None:
    """A handler that ran in shared memory would be seen by the parent, to which nothing was sent.
    The signals are sent while the child waits, and delivered when its mask is restored."""
    run_alone(signals.signal_the_child, options)


def test_wait_goes_on_after_a_signal() -> None:
    """The command exits after ten signals."""
    run_alone(signals.wait_while_signals_come)


@pytest.mark.parametrize("how", signals.WAITS)
def test_ctrl_c_to_the_process_group_behaves_as_with_popen(how: str) -> None:
    """Both get it; `wait` gives the child a moment and raises, and the child is reaped. (It exits later than
    that: Popen can lose the status of one that ends while the handler runs.)"""
    for of_class in signals.CLASSES:
        printed = run_alone(signals.interrupt_the_group, of_class, how)
        assert sorted(printed.split("\n")) == ["", "child", "parent 5"], of_class


def test_interpreter_exit_with_live_ones_neither_hangs_nor_prints_noise() -> None:
    """As with Popen: the interpreter exits, and they end with it."""
    program = command(signals.end_with_live_ones)
    result = subprocess.run(program, capture_output=True, text=True, timeout=A_HANG, env=environment())
    assert (result.returncode, result.stderr) == (0, "")
    pids = result.stdout.split()
    assert len(pids) == 3
    end = time.monotonic() + A_HANG
    while alive := [pid for pid in pids if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < end, alive
        time.sleep(0.01)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works_beside_it(method: str) -> None:
    run_alone(signals.use_multiprocessing, method)


def test_a_forked_copy_starts_its_own_and_leaves_the_parents_alone() -> None:
    run_alone(signals.start_in_a_forked_copy)


@pytest.mark.parametrize("what", ["command that waits", "holder"])
def test_a_forked_copy_that_ends_as_a_program_does_neither_kills_nor_waits(what: str) -> None:
    """It leaves the `with` block, and calls the functions that were registered with `atexit`."""
    assert run_alone(signals.forked_copy_ends_as_a_program, what) == "the first\n"


def test_in_a_forked_copy_there_is_nothing_to_wait_for() -> None:
    """`Popen` immediately reports exit status 0."""
    run_alone(signals.forked_copy_waits)


def test_it_works_in_subinterpreters() -> None:
    run_alone(signals.use_subinterpreters)


@pytest.mark.parametrize("what", ["command", "holder"])
def test_an_exception_of_a_handler_loses_no_process(what: str) -> None:
    """Ctrl-C at any moment while one is created: it is returned, or has ended. A few are held by Popen's
    own code, or by the statement that would have stored them; Popen loses some of these as well."""
    run_alone(signals.handlers_raise_while_one_is_made, what)
