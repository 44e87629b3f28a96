"""`usernsproc.multiprocessing`: the standard library's module, with processes in namespaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from alone import run_alone
from programs import multiprocesses as programs

from usernsproc import multiprocessing
from usernsproc.multiprocessing import get_context

METHODS = ("spawn", "forkserver")


def test_the_public_names_are_all_there() -> None:
    assert [name for name in multiprocessing.__all__ if not hasattr(multiprocessing, name)] == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("program", [programs.everything, programs.ends, programs.nothing_left, programs.joined])
def test_with_each_start_method(program: Callable[[str], None], method: str) -> None:
    run_alone(program, method)


@pytest.mark.parametrize(
    "program",
    [
        programs.options_are_those_of_the_process,
        programs.output_and_descriptors,
        programs.a_pid_namespace_has_an_init,
        programs.a_joined_pid_namespace_needs_spawn,
        programs.subclasses_and_pickling,
        programs.a_server_that_was_killed,
        programs.the_child_needs_only_the_standard_library,
        programs.a_child_that_ends_before_it_has_read_everything,
        programs.a_parent_that_is_killed,
    ],
    ids=lambda program: program.__name__,
)
def test_of_a_context(program: Callable[[], None]) -> None:
    run_alone(program)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"uidmap": "root"}, TypeError, r"get_context\(\) got an unexpected keyword argument 'uidmap'.*'uid_map'"),
        ({"nonsense": 1}, TypeError, r"unexpected keyword argument 'nonsense'$"),
        ({"shell": True}, ValueError, "get_context: shell= cannot be given"),
        ({"stdin": 0}, ValueError, "stdin="),
        ({"preexec_fn": print}, ValueError, "preexec_fn="),
        ({"method": "fork"}, ValueError, 'method is "spawn" or "forkserver", not \'fork\''),
        ({"method": "forkserver", "namespaces": ["pid"]}, ValueError, "PIDs"),
    ],
)
def test_what_is_refused_before_anything_is_started(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        get_context(**arguments)
    if "method" not in arguments:
        with pytest.raises(error, match=words):
            get_context("forkserver", **arguments)


def test_other_methods_of_a_context_are_not_without_a_namespace() -> None:
    with pytest.raises(ValueError, match="not 'fork'"):
        get_context(uid_map="root").get_context("fork")
