"""Internal helper programs that run within one call: no other part of the program is notified of their exit.

They read the maps of a namespace, and create one for another owner. After execve(2), the
kernel would report their exit by SIGCHLD, and a `waitpid(-1)` elsewhere would find them.
"""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import hidden_helpers


def test_no_signal_is_sent() -> None:
    run_alone(hidden_helpers.call_with_a_handler_of_sigchld)


def test_no_unknown_child_is_found_by_a_thread_that_reaps_any_child() -> None:
    run_alone(hidden_helpers.call_beside_a_reaper)


def test_it_does_not_matter_whether_sigchld_is_ignored() -> None:
    run_alone(hidden_helpers.call_with_sigchld_ignored)


@pytest.mark.root
@pytest.mark.parametrize("call", ["read_map", "make_for_another"])
@pytest.mark.parametrize("how", ["entered", "made"])
def test_from_where_children_go_to_another_pid_namespace(how: str, call: str) -> None:
    """There a child has another PID than here. In a new one the first child is process 1, whose exit ends it."""
    run_alone(hidden_helpers.call_where_children_go_elsewhere, how, call)


def test_any_child_is_killed_on_the_way() -> None:
    """Any child, and any child of a child, as soon as it is seen. The error says so, and nothing is left."""
    output = run_alone(hidden_helpers.call_beside_a_killer)
    assert {line.split()[0] for line in output.splitlines()} == {"any", "deep"}
