"""A thread in another mount namespace runs no code from it: all modules are loaded before it enters.

In that namespace, its owner controls the files of the package, of Python's modules and of programs. The test
replaces each of them by a file that leaves a mark.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from alone import run_alone
from programs import enter_modules


def test_the_poison_works(tmp_path: Path) -> None:
    """A module that is not loaded before and is not part of this package does run. The documentation warns of it."""
    run_alone(enter_modules.the_poison, str(tmp_path))


@pytest.mark.parametrize("call", enter_modules.CALLS)
def test_no_call_runs_code_of_the_mount_namespace(call: str, tmp_path: Path) -> None:
    """During the first call of the program, its error, and the printing of that error."""
    run_alone(enter_modules.no_foreign_code, str(tmp_path), call)


def test_a_thin_setns_loads_everything_too(tmp_path: Path) -> None:
    run_alone(enter_modules.a_thin_setns, str(tmp_path))


def test_other_kinds_load_nothing() -> None:
    """A program that enters network namespaces does not pay for it."""
    run_alone(enter_modules.other_kinds)


@pytest.mark.parametrize("tool", ["getsubids", "newuidmap"])
def test_a_program_of_the_mount_namespace_is_refused(tool: str, tmp_path: Path) -> None:
    """`getsubids` and `newuidmap` are not named by the caller. Afterwards they are found as before."""
    run_alone(enter_modules.a_tool_that_is_there, str(tmp_path), tool)


def test_a_source_of_subordinate_ids_that_the_mount_namespace_names(tmp_path: Path) -> None:
    """Its `nsswitch.conf` cannot cause a foreign program or library to run."""
    run_alone(enter_modules.nsswitch_that_is_there, str(tmp_path))


def test_from_there_into_another_is_still_elsewhere(tmp_path: Path) -> None:
    """A mount namespace that was entered is not the program's own."""
    run_alone(enter_modules.from_there_into_another, str(tmp_path))


def test_what_cannot_be_loaded_is_a_refusal() -> None:
    """The thread stays where it is. Otherwise it would later load the file in the entered namespace."""
    run_alone(enter_modules.a_module_that_is_missing)


@pytest.mark.parametrize("what", ["no descriptor is left", "the file is unreadable"])
def test_what_cannot_be_read_is_a_refusal_with_its_errno(what: str) -> None:
    """Without the fault, the thread can enter."""
    run_alone(enter_modules.modules_that_cannot_be_read, what)
