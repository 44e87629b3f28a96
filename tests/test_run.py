"""`run`, `call`, `check_call` and `check_output` as in subprocess, in a user namespace."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

import usernsproc
from usernsproc import (
    DEVNULL,
    PIPE,
    STDOUT,
    CalledProcessError,
    CompletedProcess,
    TimeoutExpired,
    call,
    check_call,
    check_output,
    run,
)

FOREVER = ["sleep", "1000"]


def test_run_gives_a_completed_process() -> None:
    result = run(["sh", "-c", "echo out; echo err >&2; exit 3"], uid_map="root", capture_output=True)
    assert isinstance(result, CompletedProcess)
    assert (result.args[0], result.returncode, result.stdout, result.stderr) == ("sh", 3, b"out\n", b"err\n")


def test_all_four_run_in_a_user_namespace() -> None:
    inside = ["sh", "-c", 'test "$(id -u)" = 0']
    assert run(inside, uid_map="root").returncode == 0
    assert call(inside, uid_map="root") == 0
    assert check_call(inside, uid_map="root") == 0
    assert check_output(["id", "-u"], uid_map="root") == b"0\n"


def test_input_and_text() -> None:
    assert run(["cat"], input="text", text=True, stdout=PIPE).stdout == "text"
    assert check_output(["cat"], input=b"bytes") == b"bytes"
    assert check_output("cat; echo ü", shell=True, input="", encoding="utf-8") == "ü\n"
    assert check_output("echo err >&2", shell=True, stderr=STDOUT, universal_newlines=True) == "err\n"


def test_check_raises_with_what_was_printed() -> None:
    with pytest.raises(CalledProcessError) as caught:
        run("echo out; exit 3", shell=True, check=True, capture_output=True)
    assert (caught.value.returncode, caught.value.output) == (3, b"out\n")
    with pytest.raises(CalledProcessError) as caught:
        check_output("echo out; exit 4", shell=True)
    assert (caught.value.returncode, caught.value.output) == (4, b"out\n")
    with pytest.raises(CalledProcessError) as caught:
        check_call("exit 5", shell=True)
    assert (caught.value.returncode, caught.value.cmd) == (5, "exit 5")


@pytest.mark.parametrize("function", [run, call, check_call, check_output])
def test_a_timeout_kills_and_reaps(function: Callable[..., Any]) -> None:
    with pytest.raises(TimeoutExpired) as caught:
        function(FOREVER, timeout=0.05)
    assert caught.value.cmd == FOREVER
    assert caught.value.timeout == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("function", [run, call, check_call, check_output])
def test_a_timeout_is_a_number(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="^timeout is a number of seconds or None, not '3'$"):
        function(FOREVER, timeout="3")


def test_a_timeout_has_what_was_printed_so_far() -> None:
    for timeout in (0.3, 1, 3, 10, 30, 100):  # repeated until the shell was fast enough
        with pytest.raises(TimeoutExpired) as caught:
            check_output("echo so far; exec sleep 1000", shell=True, timeout=timeout)
        if caught.value.output:
            break
    assert caught.value.output == b"so far\n"


@pytest.mark.parametrize("function", [run, call, check_call, check_output])
def test_a_missing_program(function: Callable[..., Any]) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        function(["/nonexistent"], uid_map="root")
    assert caught.value.filename == "/nonexistent"


@pytest.mark.parametrize(
    "options",
    [
        {"input": b"", "stdin": PIPE},
        {"capture_output": True, "stdout": PIPE},
        {"capture_output": True, "stderr": DEVNULL},
    ],
)
def test_what_contradicts_itself_is_refused_as_by_subprocess(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="may not") as ours:
        run(["true"], **options)
    with pytest.raises(ValueError, match="may not") as theirs:
        subprocess.run(["true"], **options)
    assert str(ours.value) == str(theirs.value)


def test_check_output_refuses_what_subprocess_refuses() -> None:
    options: dict[str, Any] = {"capture_output": True}
    with pytest.raises(ValueError, match="capture_output") as ours:
        check_output(["true"], **options)
    with pytest.raises(ValueError, match="capture_output") as theirs:
        subprocess.check_output(["true"], **options)
    assert str(ours.value) == str(theirs.value)


def test_the_repr_of_an_error_does_not_repeat_the_output() -> None:
    command = ["sh", "-c", "echo secret; exit 3"]
    with pytest.raises(CalledProcessError) as ours:
        run(command, check=True, capture_output=True)
    with pytest.raises(CalledProcessError) as theirs:
        subprocess.run(command, check=True, capture_output=True)
    assert repr(ours.value) == repr(theirs.value)
    assert ours.value.output == b"secret\n"


@pytest.mark.parametrize("name", ["stdout", "check"])
def test_check_output_sets_these_itself(name: str) -> None:
    options: dict[str, Any] = {name: 1}
    with pytest.raises(ValueError, match=f"{name} argument not allowed"):
        check_output(["true"], **options)


@pytest.mark.parametrize("function", [run, call, check_call, check_output])
def test_there_is_no_holder_to_run(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="a command is needed"):
        function(None)


def test_an_exception_in_on_created_leaves_nothing() -> None:
    with pytest.raises(ZeroDivisionError):
        run(FOREVER, input=b"x", capture_output=True, uid_map="root", on_created=lambda _: 1 / 0)


def test_check_output_with_no_input_gives_an_empty_one() -> None:
    options: dict[str, Any] = {"input": None}
    assert usernsproc.check_output(["cat"], **options) == b""
    assert usernsproc.check_output(["cat"], text=True, **options) == ""
