"""An error shows the value that was passed, if it is short."""

from __future__ import annotations

import pytest

from usernsproc import IdMap, IdMapError

LONGEST_SHOWN = 60
"""Characters of a text that is shown as a whole."""


def shown(text: str) -> str:
    with pytest.raises(IdMapError) as caught:
        IdMap.parse(text)
    return str(caught.value)


def test_a_text_is_shown_as_a_whole_up_to_a_length() -> None:
    text = "x" * LONGEST_SHOWN
    assert shown(text) == f"range {text!r}: three numbers are needed, inside:outside:count"


def test_of_a_longer_one_the_beginning_is_shown() -> None:
    text = "x" * LONGEST_SHOWN
    assert shown(text + "y") == f"range {text!r}…: three numbers are needed, inside:outside:count"
