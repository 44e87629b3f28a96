"""What a launcher is sent in one block: paths to try, set-up calls and their data, however long."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import pytest
from step_processes import ROOT, done, seen

from usernsproc import check_output
from usernsproc.setup import Bind, Call, Root, Step

WITH_LAUNCHER: dict[str, Any] = {**ROOT, "user": 0, "group": 0}
MORE_THAN_SEVERAL_MESSAGES = 200_000
NEW_ROOT: list[Step] = [Root("tmpfs"), *(Bind(path) for path in ("/usr", "/bin", "/lib", "/lib64"))]
"""Its calls use the results of others, which the launcher writes into the block."""


def written_by(size: int, *steps: Step, **options: Any) -> tuple[bytes, bytes]:
    """Return the data of a set-up call, and what the call has written to a file."""
    data = os.urandom(size)
    with tempfile.TemporaryFile() as file:
        result = done("true", *steps, Call("pwrite64", file, data, size, 0), **options)
        assert result.returncode == 0, result
        return data, os.pread(file.fileno(), size + 1, 0)


@pytest.mark.parametrize("steps", [[], NEW_ROOT], ids=["alone", "with results"])
@pytest.mark.parametrize("options", [{}, {"namespaces": ["pid"], "init": True}], ids=["command", "init"])
def test_long_data_of_a_set_up(options: dict[str, Any], steps: list[Step]) -> None:
    data, written = written_by(MORE_THAN_SEVERAL_MESSAGES, *steps, **WITH_LAUNCHER, **options)
    assert written == data


def test_every_length_around_that_of_the_first_message() -> None:
    for size in range(0x200, 0x900, 8):
        data, written = written_by(size, **WITH_LAUNCHER)
        assert written == data, size


def test_results_and_long_data_in_a_new_root() -> None:
    path = b"/" + b"x" * 200
    many = [Call("mkdirat", -100, path + str(n).encode(), 0o755) for n in range(300)]
    made = seen("ls /", *NEW_ROOT, *many, **ROOT).split()
    assert sorted(made) == sorted(["bin", "lib", "lib64", "usr", *(f"{'x' * 200}{n}" for n in range(300))])


@pytest.mark.parametrize("options", [ROOT, WITH_LAUNCHER], ids=["without launcher", "with launcher"])
def test_many_long_arguments(options: dict[str, Any]) -> None:
    words = [f"{n}:" + "x" * 1000 for n in range(1000)]
    printed = check_output(["/usr/bin/printf", "%s\\n", *words], text=True, **options)
    assert printed.split("\n") == [*words, ""]


@pytest.mark.parametrize("options", [ROOT, WITH_LAUNCHER], ids=["without launcher", "with launcher"])
def test_a_long_search_path(options: dict[str, Any]) -> None:
    path = ":".join([*(f"/nonexistent/{n}/{'x' * 200}" for n in range(500)), "/usr/bin", "/bin"])
    assert check_output(["id", "-u"], env={"PATH": path}, **options) == b"0\n"
