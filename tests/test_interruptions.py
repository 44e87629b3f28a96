"""An exception of a signal handler leaves nothing behind, wherever it comes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from alone import run_alone
from programs import interruptions

each_mount = pytest.mark.parametrize("tree", ["single", "recursive"])
each_propagation = pytest.mark.parametrize("propagation", ["private", "shared"])


@pytest.mark.root
@each_mount
@each_propagation
def test_of_a_mount_that_is_made(tree: str, propagation: str) -> None:
    run_alone(interruptions.a_mount_is_made, tree == "recursive", propagation)


@pytest.mark.root
@each_mount
@each_propagation
def test_of_a_mount_that_is_taken_away(tree: str, propagation: str) -> None:
    """All of it, or nothing."""
    run_alone(interruptions.a_mount_is_taken_away, tree == "recursive", propagation)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """An empty one."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return str(folder)


def test_of_a_pin(folder: str) -> None:
    run_alone(interruptions.a_pin_is_made, folder)


def test_of_a_namespace_that_is_opened() -> None:
    run_alone(interruptions.a_namespace_is_opened)


def test_of_namespaces_that_are_looked_up_to_be_joined() -> None:
    """Look up all namespaces of a process."""
    run_alone(interruptions.namespaces_are_looked_up_to_be_joined)


def test_of_a_program_that_is_run() -> None:
    """The pipes to it, and the program itself."""
    run_alone(interruptions.a_program_is_run, shutil.which("true"))


@pytest.mark.parametrize("exception", interruptions.EXCEPTIONS)
def test_of_a_thread_that_enters_and_comes_back(exception: str) -> None:
    """It is where it was, except for the very beginning of `__enter__` and of `__exit__`: there an
    exception comes too early for any context manager that is written in Python."""
    run_alone(interruptions.a_thread_enters_and_comes_back, exception)


def test_a_pin_that_cannot_be_undone_is_reported(folder: str) -> None:
    """The pin, or the file that was created for it."""
    run_alone(interruptions.a_pin_cannot_be_undone, folder)


def test_an_entering_that_cannot_be_undone_is_reported() -> None:
    run_alone(interruptions.an_entering_cannot_be_undone)


@pytest.mark.root
def test_a_mount_that_cannot_be_undone_is_reported() -> None:
    run_alone(interruptions.a_mount_cannot_be_undone)
