"""A type checker and the library agree on text and bytes.

`assert_type` is for mypy and basedpyright, which look at this folder; the rest is for pytest.
"""

from __future__ import annotations

import asyncio
from typing import Any, assert_type

from usernsproc import PIPE, CompletedCommand, UsernsProcess, aio, call, check_call, check_output, run

CAT = ["cat"]


def test_a_process_is_of_text_or_of_bytes() -> None:
    with UsernsProcess(CAT, stdin=PIPE, stdout=PIPE, uid_map="root") as raw:
        assert_type(raw, UsernsProcess[bytes])
        assert raw.communicate(b"in")[0] == b"in"
    with UsernsProcess(CAT, stdin=PIPE, stdout=PIPE, text=True, uid_map="root") as text:
        assert_type(text, UsernsProcess[str])
        assert text.communicate("in")[0] == "in"
    with UsernsProcess(CAT, stdin=PIPE, stdout=PIPE, encoding="utf-8") as encoded:
        assert_type(encoded, UsernsProcess[str])
        assert encoded.communicate("in")[0] == "in"
    with UsernsProcess(uid_map="root") as holder:
        assert_type(holder, UsernsProcess[bytes])


def test_so_is_what_run_and_check_output_give() -> None:
    raw = run(CAT, input=b"in", capture_output=True, uid_map="root")
    assert_type(raw, CompletedCommand[bytes])
    assert raw.stdout == b"in"
    text = run(CAT, input="in", capture_output=True, text=True, uid_map="root")
    assert_type(text, CompletedCommand[str])
    assert text.stdout == "in"
    output = check_output(CAT, input=b"in")
    assert_type(output, bytes)
    assert output == b"in"
    words = check_output(CAT, input="in", universal_newlines=True)
    assert_type(words, str)
    assert words == "in"


def test_what_is_known_only_when_it_runs_is_accepted() -> None:
    """Like the declaration of `Popen`: a type checker must accept every value that it accepts."""
    for text in (True, False):
        encoding = "utf-8" if text else None
        with UsernsProcess(CAT, stdin=PIPE, text=text) as process:
            assert_type(process, UsernsProcess[Any])
        with UsernsProcess(CAT, stdin=PIPE, encoding=encoding) as encoded:
            assert_type(encoded, UsernsProcess[Any])
        assert_type(run(CAT, input=None, stdin=PIPE, universal_newlines=text), CompletedCommand[Any])
        assert isinstance(check_output(CAT, stdin=PIPE, encoding=encoding), str if text else bytes)
        assert call(["true"], text=text) == check_call(["true"], encoding=encoding) == 0


def test_what_asks_for_nothing_is_accepted() -> None:
    with UsernsProcess(["true"], preexec_fn=None, startupinfo=None, creationflags=0, encoding=None) as process:
        assert_type(process, UsernsProcess[bytes])

    async def in_asyncio() -> int:
        process = await aio.create_subprocess_exec("true", universal_newlines=False, shell=False, bufsize=0, text=None)
        return await process.wait()

    assert asyncio.run(in_asyncio()) == 0
