"""`max_output` of `run` and `check_output`: the limit of what is captured."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from leaks import assert_unchanged, state

from usernsproc import PIPE, STDOUT, OutputLimitExceeded, SubprocessError, TimeoutExpired, check_output, run

MUCH = b"x" * 3_000_000  # more than any pipe holds


def test_output_up_to_the_limit_is_as_without_it() -> None:
    for options in ({}, {"max_output": 5}):
        result = run("printf 12345; printf 543 >&2; exit 3", shell=True, capture_output=True, **options)  # type: ignore[call-overload]
        assert (result.returncode, result.stdout, result.stderr) == (3, b"12345", b"543")
    assert run(["cat"], input=MUCH, stdout=PIPE, max_output=len(MUCH)).stdout == MUCH
    assert run(["true"], input=MUCH, stdout=PIPE, max_output=1).stdout == b""
    assert check_output(["cat"], max_output=1) == b""


def test_text() -> None:
    assert check_output(["cat"], input="ü\r\n", encoding="utf-8", max_output=4) == "ü\n"
    result = run("printf '\\344' >&2", shell=True, stderr=PIPE, encoding="latin-1", input="", max_output=4)
    assert result.stdout is None
    assert result.stderr == "ä"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_more_ends_the_command(stream: str) -> None:
    before = state()
    redirection = "" if stream == "stdout" else ">&2"
    with pytest.raises(OutputLimitExceeded) as caught:
        run(f"exec yes {redirection}", shell=True, capture_output=True, text=True, max_output=5, uid_map="root")
    error = caught.value
    assert isinstance(error, SubprocessError)
    assert (error.stream, error.max_output, getattr(error, stream)) == (stream, 5, b"y\ny\ny")
    assert error.output is error.stdout
    assert str(error) == f"Command 'exec yes {redirection}' wrote more than 5 bytes to {stream}"
    assert_unchanged(before)


def test_what_is_redirected_into_the_other_stream_counts_there() -> None:
    with pytest.raises(OutputLimitExceeded) as caught:
        check_output("printf 123 >&2; printf 456", shell=True, stderr=STDOUT, max_output=5)
    assert (caught.value.stdout, caught.value.stderr) == (b"12345", None)


def test_the_timeout_holds_as_well() -> None:
    with pytest.raises(TimeoutExpired) as caught:
        run("printf 1; exec sleep 1000", shell=True, stdout=PIPE, max_output=5, timeout=0.5)
    assert caught.value.timeout == 0.5
    assert caught.value.stdout in (b"1", None)  # None: the shell had not printed it yet
    with pytest.raises(TimeoutExpired):  # its pipes are closed, but it runs on
        run("exec >&-; exec sleep 1000", shell=True, stdout=PIPE, max_output=5, timeout=0.5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ValueError, "max_output limits what is captured"),
        ({"stdout": None, "stderr": STDOUT}, ValueError, "max_output limits what is captured"),
        ({"stdout": PIPE, "max_output": -1}, ValueError, "max_output=-1 is not a number of bytes"),
        ({"stdout": PIPE, "max_output": "1"}, TypeError, "integer"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        run(["true"], **{"max_output": 1, **options})


def test_the_exception_can_be_sent_to_another_process() -> None:
    error = OutputLimitExceeded(["yes"], 2, "stdout", b"y\n", None)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert vars(again) == vars(error)
        assert str(again) == str(error)
