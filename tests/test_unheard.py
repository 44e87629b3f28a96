"""Programs of ours that run within one call: nobody else hears of their end.

They read the maps of a namespace, and make one for another owner. exec(2) would have the
kernel tell of their end by SIGCHLD, and a `waitpid(-1)` elsewhere find them.
"""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import unheard


def test_no_signal_is_sent() -> None:
    run_alone(unheard.call_with_a_handler_of_sigchld)


def test_no_unknown_child_is_found_by_a_thread_that_reaps_any_child() -> None:
    run_alone(unheard.call_beside_a_reaper)


def test_it_does_not_matter_whether_sigchld_is_ignored() -> None:
    run_alone(unheard.call_with_sigchld_ignored)


@pytest.mark.root
@pytest.mark.parametrize("call", ["read_map", "make_for_another"])
@pytest.mark.parametrize("how", ["entered", "made"])
def test_from_where_children_go_to_another_pid_namespace(how: str, call: str) -> None:
    """There a child has another number than here. In a new one the first is process 1, and ends it."""
    run_alone(unheard.call_where_children_go_elsewhere, how, call)


def test_any_child_is_killed_on_the_way() -> None:
    """Any child, and any child of a child, as soon as it is seen: an error that says so, and nothing is left."""
    output = run_alone(unheard.call_beside_a_killer)
    assert {line.split()[0] for line in output.splitlines()} == {"any", "deep"}
