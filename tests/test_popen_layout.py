"""The private parts of `subprocess.Popen` that the library extends: checked by name, refused if unknown."""

from __future__ import annotations

import subprocess

import pytest
from alone import run_alone
from programs import popen_layout

from usernsproc import UsernsProcess


def test_values_are_known_by_name() -> None:
    """Their order depends on the running Python."""
    run_alone(popen_layout.values_come_in_another_order)


def test_an_unknown_parameter_is_named() -> None:
    run_alone(popen_layout.a_parameter_is_added)


def test_a_parameter_that_is_no_longer_there_is_named() -> None:
    run_alone(popen_layout.a_parameter_is_taken_away)


def test_a_call_that_does_not_fit_the_method_is_refused() -> None:
    run_alone(popen_layout.call_and_method_differ)


@pytest.mark.parametrize("name", ["_close_pipe_fds", "_communicate", "_internal_poll", "_wait"])
def test_a_method_that_is_no_longer_there_is_named(name: str) -> None:
    run_alone(popen_layout.a_method_is_taken_away, name)


def test_an_attribute_that_is_no_longer_there_is_named() -> None:
    run_alone(popen_layout.an_attribute_is_taken_away)


def test_a_tool_may_record_calls() -> None:
    """Wrappers that observability tools put around methods are unwrapped."""
    run_alone(popen_layout.methods_are_wrapped)


def test_another_class_in_its_place_does_not_matter() -> None:
    """Such as a test double: the base class is that of the standard library."""
    run_alone(popen_layout.the_class_is_replaced)


def test_it_is_a_popen() -> None:
    assert issubclass(UsernsProcess, subprocess.Popen)
