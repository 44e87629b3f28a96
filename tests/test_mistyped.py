"""A mistyped keyword argument is answered with the right one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import usernsproc
from usernsproc import UsernsProcess, create_userns, idmapped_mount, open_idmapped, run
from usernsproc._suggest import closest

A_COMMAND = (["true"],)


@pytest.mark.parametrize(
    ("function", "arguments", "mistyped", "hint"),
    [
        (UsernsProcess, A_COMMAND, "uidmap", "did you mean uid_map=?"),
        (UsernsProcess, (), "uidmap", "did you mean uid_map=?"),
        (UsernsProcess, A_COMMAND, "start_newsession", "did you mean start_new_session=?"),
        (UsernsProcess, A_COMMAND, "bind", "did you mean setup=[usernsproc.setup.Bind(...)]?"),
        (UsernsProcess, A_COMMAND, "hostname", "did you mean setup=[usernsproc.setup.Hostname(...)]?"),
        (UsernsProcess, A_COMMAND, "timeout", "did you mean timeout= of usernsproc.run()?"),
        (run, A_COMMAND, "name_spaces", "did you mean namespaces=?"),
        (run, A_COMMAND, "timout", "did you mean timeout= of usernsproc.run()?"),
        (usernsproc.check_output, A_COMMAND, "bind", "did you mean setup=[usernsproc.setup.Bind(...)]?"),
        (create_userns, ("root", "root"), "set_groups", "did you mean setgroups=?"),
        (create_userns, ("root",), "gidmap", "did you mean gid_map=?"),
        (idmapped_mount, ("/", "/", ("root", "root")), "readonly", "did you mean read_only=?"),
        (open_idmapped, ("/", ("root", "root")), "recursiv", "did you mean recursive=?"),
    ],
)
def test_the_right_one_is_named(function: Callable[..., Any], arguments: Any, mistyped: str, hint: str) -> None:
    with pytest.raises(TypeError) as caught:
        function(*arguments, **{mistyped: 1})
    assert f"got an unexpected keyword argument {mistyped!r}; {hint}" in str(caught.value)
    assert "Popen" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_what_is_like_nothing_has_no_hint() -> None:
    with pytest.raises(TypeError, match=r"^UsernsProcess\(\) got an unexpected keyword argument 'qqqqqq'$"):
        UsernsProcess(["true"], qqqqqq=1)  # type: ignore[call-overload]


def test_other_type_errors_are_as_they_were() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'userns'"):
        idmapped_mount("/", "/")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="bufsize must be an integer"):
        UsernsProcess(["true"], bufsize="1")  # type: ignore[call-overload]


def test_case_hyphens_and_underscores_make_no_difference() -> None:
    assert closest("--Uid_Map", ["--uid-map", "--gid-map"]) == "--uid-map"
    assert closest("--xyzzy", ["--uid-map", "--gid-map"]) is None


def test_the_comparison_is_only_loaded_after_a_mistake() -> None:
    source = """
import sys
from usernsproc import UsernsProcess, create_userns
UsernsProcess(["true"], uid_map="root").wait()
create_userns("root", "root").close()
assert "difflib" not in sys.modules and "inspect" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", source], check=True, timeout=60)
