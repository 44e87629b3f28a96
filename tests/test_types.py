"""What a type checker knows of text and bytes is what comes out.

`assert_type` is for mypy and basedpyright, which look at this folder; the rest is for pytest.
"""

from __future__ import annotations

from typing import assert_type

from usernsproc import PIPE, CompletedProcess, UsernsProcess, check_output, run

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
    assert_type(raw, CompletedProcess[bytes])
    assert raw.stdout == b"in"
    text = run(CAT, input="in", capture_output=True, text=True, uid_map="root")
    assert_type(text, CompletedProcess[str])
    assert text.stdout == "in"
    output = check_output(CAT, input=b"in")
    assert_type(output, bytes)
    assert output == b"in"
    words = check_output(CAT, input="in", universal_newlines=True)
    assert_type(words, str)
    assert words == "in"
