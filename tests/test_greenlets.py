"""Programs that gevent or eventlet have patched: waiting for a process lets other greenlets run.

Whether the program is patched before or after the import of this package makes no
difference. Creating a process may block, as it does with `subprocess.Popen`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from alone import run_alone
from programs import greenlets, patched
from unprivileged import as_unprivileged_user

each_program = pytest.mark.parametrize("library", patched.LIBRARIES)
each_order = pytest.mark.parametrize("order", patched.ORDERS)


def run_patched(library: str, order: str, function: Callable[..., None], *arguments: str) -> None:
    run_alone(patched.call, library, order, function.__name__, *arguments)


@each_program
@each_order
@pytest.mark.parametrize("call", greenlets.WAITS)
def test_others_run_while_one_waits(library: str, order: str, call: str) -> None:
    run_patched(library, order, greenlets.others_run_while_one_waits, call)


@each_program
@each_order
def test_what_does_not_wait(library: str, order: str) -> None:
    """Polling, signals, holders, IDs written by a callback and errors are as in any other program."""
    run_patched(library, order, greenlets.what_does_not_wait)


@each_program
@each_order
def test_two_greenlets_wait_for_the_same_process(library: str, order: str) -> None:
    run_patched(library, order, greenlets.two_wait_for_the_same_process)


@each_program
@each_order
@pytest.mark.parametrize("call", greenlets.CALLS_BACK)
def test_a_callback_may_let_others_run(library: str, order: str, call: str) -> None:
    """Meanwhile other greenlets use the stack of that greenlet, so no child and no thread uses it."""
    run_patched(library, order, greenlets.others_run_in_a_callback, call)


@each_program
@each_order
def test_maps_that_a_tool_writes(library: str, order: str) -> None:
    """They are written while the child waits, during a call of the core."""
    lines = "1000:100000:65536\n" if os.geteuid() == 0 else None
    function = greenlets.maps_that_a_tool_writes.__name__
    as_unprivileged_user(patched.call, library, order, function, subuid=lines, subgid=lines)


@each_program
@each_order
def test_the_base_class_is_that_of_the_standard_library(library: str, order: str) -> None:
    run_patched(library, order, greenlets.names_of_the_standard_library)
